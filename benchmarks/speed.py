"""How fast is the default model, here and in another version of the project?

    python benchmarks/speed.py [--against SRC] [--rounds 3] [--json FILE]

Each row is some work in a process of its own: what an import costs, a step of the
default training in both number formats, a slice, and 100 slices of 512 x 512 beside a
bare loop of the same network over images that are ready. With `--against` the same is
done by the sources in another folder `src`, in turns, and told as a ratio. Median of
the rounds. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from tables import measured_on

OWN = Path(__file__).parents[1] / "src"

_IMPORTS = """
import json, resource, time
import {module}
{more}
used = resource.getrusage(resource.RUSAGE_SELF)
seconds = used.ru_utime + used.ru_stime
print(json.dumps({{"CPU seconds": seconds, "MB": used.ru_maxrss / 1024}}))
"""

_STEP = """
import json
from medsaga import drain
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training.plan.speed import measure_speed

speed = drain(measure_speed(FineTuneSettings(precision="{precision}", batch_size=2)))
step, slice_ = speed.seconds_per_step, speed.seconds_per_slice
print(json.dumps({{"a step": step, "a slice": slice_}}))
"""

_SEGMENT = """
import json, time
import numpy as np
import torch
import medsaga
from medsaga import FineTuneSettings, SegmentSettings, TrainingData, Volume, drain
from medsaga.computing import computing_threads

y, x = np.mgrid[:512, :512]
truth = ((y - 200) ** 2 + (x - 260) ** 2 < 80**2).astype(np.uint8)
random = np.random.default_rng(0)
array = (100 + 90 * truth + random.normal(0, 12, (100, 512, 512))).astype(np.float32)
labels = np.zeros(array.shape, np.uint8)
labels[50] = truth
settings = FineTuneSettings(steps=2, head_views=2, precision="fp32", threads=0)
data = TrainingData(Volume(array=array), Volume(array=labels))
model = drain(medsaga.fine_tune(data, settings))
way = SegmentSettings(paint=False, precision="fp32")
few = Volume(array=array[:3])
drain(medsaga.segment(model, few, way))
started = time.perf_counter()
drain(medsaga.segment(model, Volume(array=array), way))
ours = time.perf_counter() - started
side = model.card.canvas.long_side
images = torch.rand(1, 3, side, side).to(memory_format=torch.channels_last)
started = time.perf_counter()
with computing_threads(), torch.no_grad():
    for _ in range(100):
        model.network(images)
bare = time.perf_counter() - started
print(json.dumps({"100 slices": ours, "a bare loop": bare}))
"""

WORKS = {
    "import of the training": _IMPORTS.format(
        module="medsaga.training.fine_tune", more=""
    ),
    "all imports of a training": _IMPORTS.format(
        module="medsaga.preloading", more="medsaga.preloading.warm_up('galore')"
    ),
    "fp32": _STEP.format(precision="fp32"),
    "bf16": _STEP.format(precision="bf16"),
    "segmentation": _SEGMENT,
}


def measure(work: str, source: Path) -> dict[str, float]:
    """Do some work in a process of its own, and give what it counted."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORKS[work]],
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    counted: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return counted


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sources = {"now": OWN}
    if options.against is not None:
        sources["against"] = options.against
    found: dict[str, dict[str, float]] = {}
    for work in options.works:
        counted: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
        for _ in range(options.rounds):
            for name, source in sources.items():
                counted[name].append(measure(work, source))
        for what in counted["now"][0]:
            row = {name: median(one[what] for one in counted[name]) for name in sources}
            if "against" in row:
                row["ratio"] = row["now"] / row["against"]
            found[f"{work}: {what}"] = row
            numbers = ", ".join(f"{name} {value:.3g}" for name, value in row.items())
            print(f"{work}: {what}: {numbers}", flush=True)
    if options.json:
        kept = {"measured on": measured_on(), "figures": found}
        options.json.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

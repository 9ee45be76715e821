"""How good is what is suggested live, and how soon is it there?

    python benchmarks/live.py DATA [--tasks ct spleen cord grey-matter ct-strokes]
        [--sides 128] [--json FILE]

The slices of a task are painted one after the other, whole or in strokes. After each
it says the mean Dice of what is suggested for the slices that nobody painted, and the
seconds, median and worst, from the end of a stroke to the suggestion of that slice
(*stroke*), to that of another slice that was not seen before (*arrival*), and to one
that was (*return*). Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from tasks import make_task

import medsaga
from medsaga import LivePredictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsaga import Volume

_TASKS = ["ct", "spleen", "cord", "grey-matter", "ct-strokes"]


def measure(name: str, data: Path, side: int) -> dict[str, Any]:
    """Paint the slices of a task; gives the Dice after each, and the seconds."""
    kind, _, strokes = name.partition("-strokes")
    task = make_task(kind, data, 5)
    image, truth, judged = task.test[0]
    labels = task.training[0][1].array
    painted = [int(i) for i in np.flatnonzero(labels.any((1, 2)))]
    values = [int(v) for v in np.unique(truth.array) if v]
    drawn, background = labels, None
    if strokes or name != kind:
        stroked = make_task(name, data, 5).training[0][1]
        drawn, background = stroked.array, int(stroked.array.max())
    settings = replace(medsaga.preset("quick"), long_side=side)
    live = LivePredictor(image, settings=settings)
    seconds: dict[str, list[float]] = {"stroke": [], "arrival": [], "return": []}
    found: list[float] = []
    live.look_at(painted[0])  # the network is loaded
    order = sorted(painted, key=lambda i: abs(i - painted[len(painted) // 2]))
    for index in order:
        live.look_at(index)
        slice_labels, known = _read(drawn[index], background)
        started = time.perf_counter()
        live.paint(index, slice_labels, known)
        live.suggest(index)
        seconds["stroke"].append(time.perf_counter() - started)
        kind_of = "return" if found else "arrival"
        masks = {}
        for other in judged:
            started = time.perf_counter()
            masks[other] = live.suggest(other)
            seconds[kind_of].append(time.perf_counter() - started)
        found.append(_dice(masks, truth, values))
        print(f"{name} {side}: {len(found)} painted, Dice {found[-1]:.3f}", flush=True)
    for what, all_seconds in seconds.items():
        middle, most = median(all_seconds), max(all_seconds)
        print(f"  {what}: {middle:.2f}, at most {most:.2f} s", flush=True)
    return {"task": name, "side": side, "dice": found, "seconds": seconds}


def _read(
    painted: NDArray[Any], background: int | None
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    if background is None:
        return painted, None
    return np.where(painted == background, 0, painted), painted != 0


def _dice(masks: dict[int, NDArray[Any]], truth: Volume, values: list[int]) -> float:
    mask = np.stack([masks[index] for index in sorted(masks)])
    wanted = truth.array[sorted(masks)]
    scores = []
    for value in values:
        total = (mask == value).sum() + (wanted == value).sum()
        if total:
            both = ((mask == value) & (wanted == value)).sum()
            scores.append(2 * both / total)
    return float(np.mean(scores))


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tasks", nargs="+", default=_TASKS)
    parser.add_argument("--sides", nargs="+", type=int, default=[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = [
        measure(name, options.data, side)
        for name in options.tasks
        for side in options.sides
    ]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

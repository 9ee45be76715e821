"""What torch's waiting threads cost, on an idle computer and on a busy one.

The threads of OpenMP spin while they wait for each other, which is the fastest as long
as each has a core of its own. Each row is a process of its own that takes steps of the
default training and looks at slices, under one way to wait and with so many threads;
the busy rows have as many processes beside it as there are cores. Rows take turns, and
the median of their rounds is told.

    python benchmarks/waiting.py [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

WAYS = {
    "spinning (default)": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "10000 spins": {"GOMP_SPINCOUNT": "10000"},
}
CORES = len(os.sched_getaffinity(0))

_WORK = """
import json, sys, time
import torch
from medsaga import FineTuneSettings, drain
from medsaga import computing
from medsaga.training.plan.speed import measure_speed

threads = int(sys.argv[1])
computing.thread_count = lambda: threads
settings = FineTuneSettings(precision="fp32")
speed = drain(measure_speed(settings))
print(json.dumps({"step": speed.seconds_per_step, "slice": speed.seconds_per_slice}))
"""


@contextmanager
def busy(n: int) -> Iterator[None]:
    """Keep `n` cores busy inside the block."""
    loop = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(loop) for _ in range(n)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(way: str, threads: int) -> dict[str, float]:
    """Seconds a step and a slice, in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _WORK, str(threads)],
        env=os.environ | WAYS[way],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cells = [
        (n_busy, way, threads)
        for n_busy in (0, CORES)
        for way in WAYS
        for threads in sorted({max(1, CORES // 2), CORES})
    ]
    found: dict[tuple[int, str, int], list[dict[str, float]]] = {c: [] for c in cells}
    for _ in range(arguments.rounds):
        for cell in cells:
            n_busy, way, threads = cell
            with busy(n_busy):
                found[cell].append(measure(way, threads))
            print(f"{cell}: {found[cell][-1]}", flush=True)
    rows = [
        {
            "busy": n_busy,
            "way": way,
            "threads": threads,
            **{
                name: statistics.median(one[name] for one in seconds)
                for name in ("step", "slice")
            },
        }
        for (n_busy, way, threads), seconds in found.items()
    ]
    for row in rows:
        print(
            f"{row['busy']} busy, {row['way']:<20} {row['threads']} threads: "
            f"{row['step']:.3f} s a step, {row['slice']:.3f} s a slice"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()

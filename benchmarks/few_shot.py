"""How good is every strategy on a few annotated slices, in the same time?

    python benchmarks/few_shot.py DATA OUT [--tasks ct hippo] [--n 5 10]
        [--methods medsaga unet] [--seeds 0 1 2] [--minutes 2] [--backbone NAME]
        [--set NAME=VALUE]

A cell is one training: a task with N annotated slices, a method, a seed. Each runs in
a process of its own, so that its peak memory is its own, and leaves one file in
OUT/cells; what is there already is not run again, so that a run can be stopped and
continued. In the end the report is written from all the cells: OUT/results.md, its
pictures OUT/*.png, and in OUT/results.json and OUT/tables.json the same as data.
Run nothing else meanwhile: the methods get the same seconds, not the same steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import medsaga
from medsaga.computing import peak_memory, pick_device


def run_cell(data: Path, cell: dict[str, Any]) -> dict[str, Any]:
    """Train once and judge what was trained on what was not."""
    from methods import METHODS
    from tasks import TASKS

    medsaga.warm_up("galore")  # imports are not part of the time
    task = TASKS[cell["task"]](data, cell["n"])
    settings = replace(
        medsaga.preset("balanced"),
        minutes=cell["minutes"],
        seed=cell["seed"],
        backbone=cell["backbone"],
        **cell["set"],
    )
    started = time.monotonic()
    fitted = METHODS[cell["method"]](task, settings)
    seconds = time.monotonic() - started
    memory = peak_memory(pick_device()) / 2**20
    dice, hd95 = judge(fitted, task)
    mean = sum(dice.values()) / len(dice)
    return cell | {
        "mean_dice": mean,
        "mean_hd95": sum(hd95.values()) / len(hd95) if hd95 else None,
        "dice": dice,
        "hd95": hd95,
        "seconds": seconds,
        "peak_memory_mb": memory,
        "losses": fitted.losses,
        **fitted.facts,
    }


def judge(fitted: Any, task: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Mean Dice and HD95 of each class over the test images, at their resolution."""
    dice: dict[int, list[float]] = {value: [] for value in fitted.values}
    hd95: dict[int, list[float]] = {value: [] for value in fitted.values}
    for image, truth, slices in task.test:
        mask = fitted.predict(image)[slices]
        scores = medsaga.score(mask, truth.array[slices], fitted.values, truth.spacing)
        for value, number in scores.dice.items():
            dice[value].append(number)
        for value, number in scores.hd95.items():
            hd95[value].append(number)
    return _means(dice), _means(hd95)


def _means(numbers: dict[int, list[float]]) -> dict[str, float]:
    return {str(v): sum(row) / len(row) for v, row in numbers.items() if row}


def plan_cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    """List the cells, so that every method has one seed before any has two."""
    kinds = {s.name: s.type for s in medsaga.describe(medsaga.FineTuneSettings)}
    given = dict(text.split("=", 1) for text in options.set)
    values = {
        name: text == "true" if kinds[name] is bool else kinds[name](text)
        for name, text in given.items()
    }
    return [
        {
            "task": task,
            "n": n,
            "method": method,
            "seed": seed,
            "minutes": options.minutes,
            "backbone": options.backbone,
            "set": values,
        }
        for seed, n, task, method in product(
            options.seeds, options.n, options.tasks, options.methods
        )
    ]


def file_of(out: Path, cell: dict[str, Any]) -> Path:
    """Name the file of a cell by what makes it what it is."""
    parts = [cell["task"], cell["n"], cell["method"], cell["backbone"]]
    parts += [f"{cell['minutes']:g}min", *(f"{k}={v}" for k, v in cell["set"].items())]
    name = "_".join(str(part).replace("/", "-") for part in [*parts, cell["seed"]])
    return out / "cells" / f"{name}.json"


def run_all(options: argparse.Namespace) -> None:
    """Run the cells that are not there yet, one after the other."""
    (options.out / "cells").mkdir(parents=True, exist_ok=True)
    cells = plan_cells(options)
    for number, cell in enumerate(cells, 1):
        file = file_of(options.out, cell)
        if file.exists():
            continue
        print(f"{number} of {len(cells)}: {file.stem}", flush=True)
        command = [sys.executable, __file__, str(options.data), str(file)]
        done = subprocess.run([*command, "--cell", json.dumps(cell)], check=False)
        if done.returncode:
            print("  failed, and is run again by the next call", flush=True)


def main() -> None:
    """Parse the command line, run, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["ct", "cxr", "hippo", "nuclei"])
    parser.add_argument("--n", nargs="+", type=int, default=[5])
    parser.add_argument("--methods", nargs="+", default=["medsaga", "unet"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--backbone", default="lite_medsam")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        result = run_cell(options.data, options.cell)
        partial = options.out.with_suffix(".part")
        partial.write_text(json.dumps(result), encoding="utf-8")
        os.replace(partial, options.out)
        print(f"  Dice {result['mean_dice']:.4f} after {result['seconds']:.0f} s")
        return
    run_all(options)
    from report import write_report

    write_report(options.out)


if __name__ == "__main__":
    main()

"""How good is every strategy on a few annotated slices, in the same time?

    python benchmarks/few_shot.py DATA OUT [--tasks ct hippo] [--n 5 10]
        [--methods medsaga unet] [--seeds 0 1 2] [--preset NAME] [--minutes 1 2]
        [--backbone NAME] [--set NAME=VALUE] [--segment NAME=VALUE,...]

A cell is one training: a task with N annotated slices, a method, a seed. Each runs in a
process of its own, so that its peak memory is its own, and leaves one file in
OUT/cells; what is there already is not run again, so that a run can be stopped and
continued; only where the settings were others then, it is. `--set` is a setting of the
training. `--segment`, as often as wanted, is a way to segment (such as
`largest_component=true,fill_holes=true`) by which each training is judged too. In the
end the report is written from all the cells: OUT/results.md, its pictures OUT/*.png,
and in OUT/results.json and OUT/tables.json the same as data.
Run nothing else meanwhile: the methods get the same seconds, not the same steps.

For the paper's data sets DATA is the folder of one of them (docs/benchmark.md says what
to download)::

    python benchmarks/few_shot.py /data/Task09_Spleen OUT --tasks spleen-msd --n 100 200
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medsaga
from medsaga.computing import peak_memory, pick_device
from medsaga.metrics import mean, mean_by_class
from medsaga.segmentation.cleaning import clean_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from images import Task

_BOOLEANS = {"true": True, "false": False}


def run_cell(data: Path, cell: dict[str, Any]) -> dict[str, Any]:
    """Train once and judge what was trained on what was not."""
    from methods import METHODS
    from tasks import make_task

    medsaga.frontend.warm_up("galore")  # imports are not part of the time
    task = make_task(cell["task"], data, cell["n"])
    settings = settings_of(cell)
    check_neighbours(task, settings)
    settings = replace(settings, sparse=settings.sparse or task.is_sparse)
    before = peak_memory(pick_device()) / 2**20
    started = time.monotonic()
    fitted = METHODS[cell["method"]](task, settings)
    seconds = time.monotonic() - started
    memory = peak_memory(pick_device()) / 2**20
    ways = [medsaga.SegmentSettings(**given) for given in ({}, *cell["segment"])]
    plain, *others = judge(fitted, task, ways)
    names = [name_of(given) for given in cell["segment"]]
    return cell | {
        **plain,
        "segmented": dict(zip(names, others, strict=True)),
        "seconds": seconds,
        "peak_memory_mb": memory,
        "peak_memory_before_mb": before,  # reading a large volume may be the peak
        "losses": fitted.losses,
        "fingerprint": fingerprint(cell),
        "version": medsaga.__version__,
        **fitted.facts,
        **task.facts,
    }


def settings_of(cell: dict[str, Any]) -> medsaga.FineTuneSettings:
    """Give the settings that a cell trains with."""
    return replace(
        medsaga.preset(cell["preset"]),
        minutes=cell["minutes"],
        seed=cell["seed"],
        backbone=cell["backbone"],
        **cell["set"],
    )


def fingerprint(cell: dict[str, Any]) -> str:
    """Tell all of a cell's settings from others, those of a preset too."""
    settings = json.dumps(asdict(settings_of(cell)), sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def check_neighbours(task: Task, settings: medsaga.FineTuneSettings) -> None:
    """Refuse neighbouring slices where the drawn slices alone are stacked."""
    if settings.neighbours and not task.keeps_neighbours:
        raise medsaga.MedsagaError(
            "This task keeps single slices of its volumes, without their neighbours: "
            "leave out --set neighbours=true."
        )


def judge(
    fitted: Any, task: Task, ways: list[medsaga.SegmentSettings]
) -> list[dict[str, Any] | None]:
    """Score each way to segment, None where the method cannot.

    Mean Dice, HD95 and surface Dice of each class over the test images, at their
    resolution.
    """
    scores: list[list[medsaga.Scores]] = [[] for _ in ways]
    for image, truth, slices in task.test:
        masks = {
            way: fitted.predict(image, way)
            for way in {_uncleaned(way) for way in ways}
            if fitted.votes or not way.three_planes
        }
        for way, found in zip(ways, scores, strict=True):
            if _uncleaned(way) not in masks:
                continue
            mask = clean_mask(masks[_uncleaned(way)], fitted.values, way)
            found.append(
                medsaga.score(
                    mask[slices], truth.array[slices], fitted.values, truth.spacing
                )
            )
    untouched = [i for i in range(len(task.test)) if i not in task.looked_at]
    return [
        _summary(found, [found[i] for i in untouched]) if found else None
        for found in scores
    ]


def _uncleaned(way: medsaga.SegmentSettings) -> medsaga.SegmentSettings:
    return replace(way, largest_component=False, fill_holes=False)


def _summary(
    scores: list[medsaga.Scores], untouched: list[medsaga.Scores]
) -> dict[str, Any]:
    dice = mean_by_class(found.dice for found in scores)
    hd95 = mean_by_class(found.hd95 for found in scores)
    surface_dice = mean_by_class(found.surface_dice for found in scores)
    return {
        "mean_dice": _mean(dice),
        "mean_hd95": _mean(hd95),
        "mean_surface_dice": _mean(surface_dice),
        "hd95_missing": sum(len(found.missing) for found in scores),
        "mean_dice_untouched": _mean(mean_by_class(found.dice for found in untouched)),
        "dice": _with_text_keys(dice),
        "hd95": _with_text_keys(hd95),
        "surface_dice": _with_text_keys(surface_dice),
    }


def _mean(numbers: Mapping[int, float]) -> float | None:
    return mean(numbers.values()) if numbers else None


def _with_text_keys(numbers: Mapping[int, float]) -> dict[str, float]:
    """As JSON has them, also of a cell that is not read from its file."""
    return {str(value): number for value, number in numbers.items()}


def parse_settings(texts: list[str], kind: type) -> dict[str, Any]:
    """Give the settings that texts such as ``rank=32`` stand for."""
    kinds = {setting.name: setting.type for setting in medsaga.frontend.describe(kind)}
    given = dict(text.split("=", 1) for text in texts)
    return {name: _parse(name, text, kinds[name]) for name, text in given.items()}


def _parse(name: str, text: str, kind: Callable[[str], Any]) -> Any:
    if kind is not bool:
        return kind(text)
    if text.lower() not in _BOOLEANS:
        raise medsaga.MedsagaError(f"{name}={text} is neither: say true or false.")
    return _BOOLEANS[text.lower()]


def name_of(given: dict[str, Any]) -> str:
    """Name a way to segment as it was asked for."""
    return ",".join(f"{name}={str(value).lower()}" for name, value in given.items())


def plan_cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    """List the cells, so that every method has one seed before any has two."""
    values = parse_settings(options.set, medsaga.FineTuneSettings)
    ways = [
        parse_settings(text.split(","), medsaga.SegmentSettings)
        for text in options.segment
    ]
    return [
        {
            "task": task,
            "n": n,
            "method": method,
            "seed": seed,
            "preset": options.preset,
            "minutes": minutes,
            "backbone": options.backbone or medsaga.preset(options.preset).backbone,
            "set": values,
            "segment": ways,
        }
        for seed, minutes, n, task, method in product(
            options.seeds,
            options.minutes or [medsaga.preset(options.preset).minutes],
            options.n,
            options.tasks,
            options.methods,
        )
    ]


def file_of(out: Path, cell: dict[str, Any]) -> Path:
    """Name the file of a cell by what makes it what it is."""
    parts = [cell["task"], cell["n"], cell["method"], cell["preset"], cell["backbone"]]
    parts += [f"{cell['minutes']:g}min", *(f"{k}={v}" for k, v in cell["set"].items())]
    parts += [name_of(given) for given in cell["segment"]]
    name = "_".join(str(part).replace("/", "-") for part in [*parts, cell["seed"]])
    return out / "cells" / f"{name}.json"


def is_done(file: Path, cell: dict[str, Any]) -> bool:
    """Whether a cell was run, by the same settings as it would be now."""
    if not file.exists():
        return False
    found = json.loads(file.read_text(encoding="utf-8"))
    return bool(found.get("fingerprint") == fingerprint(cell))


def run_all(options: argparse.Namespace) -> None:
    """Run the cells that are not there yet, one after the other."""
    (options.out / "cells").mkdir(parents=True, exist_ok=True)
    cells = plan_cells(options)
    for number, cell in enumerate(cells, 1):
        file = file_of(options.out, cell)
        if is_done(file, cell):
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
    parser.add_argument("--preset", default="balanced", choices=medsaga.PRESETS)
    parser.add_argument("--minutes", nargs="+", type=float, help="the preset's")
    parser.add_argument("--backbone", help="the preset's")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--segment", action="append", default=[], metavar="NAME=VALUE,..."
    )
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        try:
            result = run_cell(options.data, options.cell)
        except medsaga.MedsagaError as error:
            raise SystemExit(f"  {error}") from None
        partial = options.out.with_suffix(".part")
        partial.write_text(json.dumps(result), encoding="utf-8")
        os.replace(partial, options.out)
        print(f"  Dice {result['mean_dice']:.4f} after {result['seconds']:.0f} s")
        for name, judged in result["segmented"].items():
            print(f"  {name}: {judged['mean_dice']:.4f}" if judged else f"  no {name}")
        return
    try:
        run_all(options)
    except medsaga.MedsagaError as error:
        raise SystemExit(str(error)) from None
    if not any((options.out / "cells").glob("*.json")):
        raise SystemExit("No cell was finished, so that there is nothing to report.")
    from report import write_report

    write_report(options.out)


if __name__ == "__main__":
    main()

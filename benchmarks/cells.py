"""The cells of a benchmark: how they are read, named and brought together."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import medsaga

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Cell = dict[str, Any]
ABLATIONS = ("medsaga-v1", "medsaga-v2")


@dataclass(frozen=True)
class Metric:
    """A number that a cell has: its title, its field, how it is written."""

    title: str
    field: str
    digits: int
    unit: float = 1.0


DICE = Metric("Dice", "mean_dice", 3)
UNTOUCHED = Metric(
    "Dice on the images that no choice has looked at", "mean_dice_untouched", 3
)
HD95 = Metric("HD95", "mean_hd95", 1)
SURFACE_DICE = Metric("Surface Dice at 1 mm or 1 pixel", "mean_surface_dice", 3)
MISSING_HD95 = Metric("Classes of images without HD95", "hd95_missing", 0)
MEMORY = Metric("Peak memory, MB", "peak_memory_mb", 0)
MINUTES = Metric("Minutes", "seconds", 2, unit=60)


@dataclass(frozen=True)
class Entry:
    """What several seeds of one training gave, or what was published.

    `spread` is the sample's standard deviation; None for one seed and for what was
    published, which names no seeds either. `mean` is None where no seed has the number.
    """

    data_set: str
    n: int
    method: str
    metric: str
    mean: float | None
    spread: float | None = None
    seeds: int | None = None
    source: str = "measured here"


def read_cells(out: Path) -> list[Cell]:
    """Read all of the cells in OUT."""
    files = sorted((out / "cells").glob("*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def label(cell: Cell, *, leave_out: str = "") -> str:
    """What a method is called: with all that was set otherwise than by default."""
    given = [f"{k}={v}" for k, v in cell["set"].items() if k != leave_out]
    usual = medsaga.preset(cell["preset"])
    backbone = [cell["backbone"]] if cell["backbone"] != usual.backbone else []
    preset = [cell["preset"]] if cell["preset"] != "balanced" else []
    minutes = [f"{cell['minutes']:g} min"] if cell["minutes"] != usual.minutes else []
    way = [f"({cell['way']})"] if "way" in cell else []
    return " ".join([cell["method"], *preset, *backbone, *minutes, *given, *way])


def by_way(cell: Cell) -> Iterator[Cell]:
    """Give a cell, then its scores by each other way to segment."""
    yield cell
    for way, scores in cell.get("segmented", {}).items():
        if scores is not None:
            yield cell | scores | {"way": way}


def in_order(labels: Iterable[str]) -> list[str]:
    """Each label once, MedSAGa's first."""
    return sorted(set(labels), key=lambda name: (not name.startswith("medsaga"), name))


def entries(cells: Iterable[Cell], metric: Metric) -> list[Entry]:
    """Bring the seeds of each training together, one that was run twice once."""
    groups: dict[tuple[str, int, str], dict[int, float | None]] = defaultdict(dict)
    for cell in cells:
        value = cell.get(metric.field)
        key = cell["task"], cell["n"], label(cell)
        groups[key][cell["seed"]] = None if value is None else value / metric.unit
    found = []
    for key, values in groups.items():
        known = [value for value in values.values() if value is not None]
        spread = stdev(known) if len(known) > 1 else None
        average = mean(known) if known else None
        found.append(Entry(*key, metric.title, average, spread, len(known)))
    return found


def without_warm_up(cell: Cell) -> bool:
    """Whether its learning rates start at their full height."""
    return cell["set"].get("warmup_steps") == 0


def compared(cells: Iterable[Cell]) -> list[Cell]:
    """Leave out the ablations and what ran without warm-up."""
    return [
        cell
        for cell in cells
        if cell["method"] not in ABLATIONS and not without_warm_up(cell)
    ]


def warm_up_pairs(cells: list[Cell]) -> list[Cell]:
    """What ran without warm-up, and what differs from it in nothing else, by seed."""

    def key(cell: Cell) -> tuple[str, int, str, int]:
        name = label(cell, leave_out="warmup_steps")
        return cell["task"], cell["n"], name, cell["seed"]

    wanted = {key(cell) for cell in cells if without_warm_up(cell)}
    return [cell for cell in cells if key(cell) in wanted]


def ablations(cells: list[Cell]) -> list[Cell]:
    """The ablations, and MedSAGa where it trained on as much for as long."""

    def key(cell: Cell) -> tuple[str, int, str]:
        return cell["task"], cell["n"], label(cell | {"method": "medsaga"})

    wanted = {key(cell) for cell in cells if cell["method"] in ABLATIONS}
    return [
        cell
        for cell in cells
        if key(cell) in wanted
        and cell["method"] in ("medsaga", *ABLATIONS)
        and not without_warm_up(cell)
    ]

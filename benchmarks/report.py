"""Tables and pictures from the cells of a benchmark."""

from __future__ import annotations

import json
from collections import defaultdict
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Cell = dict[str, Any]


def write_report(out: Path) -> None:
    """Write results.md, results.json and the pictures from all of the cells in OUT."""
    files = sorted((out / "cells").glob("*.json"))
    cells = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    short = [{k: v for k, v in cell.items() if k != "losses"} for cell in cells]
    text = json.dumps(short, indent=1)
    (out / "results.json").write_text(text + "\n", encoding="utf-8")
    judged = [row for cell in cells for row in _by_way(cell)]
    tables = [
        _table("Dice", judged, lambda c: c["mean_dice"], 3),
        _table("HD95", judged, lambda c: c["mean_hd95"], 1),
        _table("Peak memory, MB", cells, lambda c: c["peak_memory_mb"], 0),
        _table("Seconds", cells, lambda c: c["seconds"], 0),
    ]
    (out / "results.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    _draw_curves(out, cells)
    _draw_memory(out, cells)
    _draw_losses(out, cells)


def label(cell: Cell) -> str:
    """What a method is called: with all that was set otherwise than by default."""
    given = [f"{name}={value}" for name, value in cell["set"].items()]
    backbone = [cell["backbone"]] if cell["backbone"] != "lite_medsam" else []
    way = [f"({cell['way']})"] if "way" in cell else []
    return " ".join([cell["method"], *backbone, *given, *way])


def _by_way(cell: Cell) -> Iterator[Cell]:
    """Give a cell, then its scores by each other way to segment."""
    yield cell
    for way, scores in cell.get("segmented", {}).items():
        if scores is not None:
            yield cell | scores | {"way": way}


def _grouped(cells: Iterable[Cell], value: Any) -> dict[tuple[str, str], list[float]]:
    groups = defaultdict(list)
    for cell in cells:
        number = value(cell)
        if number is not None:
            groups[label(cell), f"{cell['task']}-{cell['n']}"].append(number)
    return groups


def _table(title: str, cells: list[Cell], value: Any, digits: int) -> str:
    """A row a method, a column a task; mean, spread and number of seeds."""
    groups = _grouped(cells, value)
    columns = sorted({column for _, column in groups})
    rows = sorted({row for row, _ in groups})
    lines = [
        f"## {title}",
        "",
        f"| method | {' | '.join(columns)} | mean |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row in rows:
        found = [groups.get((row, column)) for column in columns]
        texts = [_number(numbers, digits) for numbers in found]
        means = [mean(numbers) for numbers in found if numbers]
        whole = f"{mean(means):.{digits}f}" if len(means) == len(columns) else "–"
        lines.append(f"| {row} | {' | '.join(texts)} | {whole} |")
    return "\n".join(lines)


def _number(numbers: list[float] | None, digits: int) -> str:
    if not numbers:
        return "–"
    text = f"{mean(numbers):.{digits}f}"
    if len(numbers) > 1:
        text += f" ± {stdev(numbers):.{digits}f}"
    return f"{text} ({len(numbers)})"


def _figure(n: int) -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, n, figsize=(4 * n, 3.2), squeeze=False, tight_layout=True)


def _draw_curves(out: Path, cells: list[Cell]) -> None:
    """Dice over the number of annotated slices, a panel a task."""
    tasks = sorted({cell["task"] for cell in cells})
    figure, (axes,) = _figure(len(tasks))
    for axis, task in zip(axes, tasks, strict=True):
        of_task = [cell for cell in cells if cell["task"] == task]
        for name in sorted({label(cell) for cell in of_task}):
            points = defaultdict(list)
            for cell in of_task:
                if label(cell) == name:
                    points[cell["n"]].append(cell["mean_dice"])
            n = sorted(points)
            axis.plot(n, [mean(points[k]) for k in n], "o-", label=name)
        axis.set(title=task, xlabel="annotated", ylabel="Dice")
    axes[0].legend(fontsize=7)
    figure.savefig(out / "dice.png", dpi=120)


def _draw_memory(out: Path, cells: list[Cell]) -> None:
    names = sorted({label(cell) for cell in cells})
    figure, ((axis,),) = _figure(1)
    values = [
        mean(c["peak_memory_mb"] for c in cells if label(c) == name) for name in names
    ]
    axis.barh(names, values)
    axis.set(xlabel="peak memory, MB")
    figure.savefig(out / "memory.png", dpi=120)


def _draw_losses(out: Path, cells: list[Cell]) -> None:
    """The loss of the first seed, a panel a task."""
    tasks = sorted({cell["task"] for cell in cells})
    figure, (axes,) = _figure(len(tasks))
    for axis, task in zip(axes, tasks, strict=True):
        for cell in cells:
            if cell["task"] == task and cell["seed"] == 0 and cell["losses"]:
                steps = range(1, len(cell["losses"]) + 1)
                axis.plot(steps, cell["losses"], lw=0.8, label=label(cell))
        axis.set(title=task, xlabel="step", ylabel="loss", yscale="log")
    axes[0].legend(fontsize=7)
    figure.savefig(out / "loss.png", dpi=120)

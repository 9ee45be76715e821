"""Pictures from the cells of a benchmark."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from cells import DICE, MEMORY, entries, in_order, label
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from cells import Cell


def draw_curves(cells: list[Cell], file: Path) -> None:
    """Dice over the number of annotated images, a panel a data set."""
    figure, panels = _panels(sorted({cell["task"] for cell in cells}))
    rows, colours = entries(cells, DICE), _colours(cells)
    for data_set, axes in panels.items():
        here = [e for e in rows if e.data_set == data_set and e.mean is not None]
        for name in in_order(entry.method for entry in here):
            points = sorted((e for e in here if e.method == name), key=lambda e: e.n)
            axes.errorbar(
                [entry.n for entry in points],
                [entry.mean for entry in points],
                [entry.spread or 0 for entry in points],
                fmt="o-",
                capsize=2,
                color=colours[name],
                label=name,
            )
        axes.set(xlabel="annotated images", ylabel="Dice")
    _save(figure, file)


def draw_memory(cells: list[Cell], file: Path) -> None:
    """A bar a method: the mean of its peaks, and from the smallest to the largest.

    Of the data sets and numbers of images that all methods have, if there are any.
    """
    rows = [e for e in entries(cells, MEMORY) if e.mean is not None]
    names = in_order(entry.method for entry in rows)[::-1]
    shared = set.intersection(
        *({(e.data_set, e.n) for e in rows if e.method == name} for name in names)
    )
    rows = [e for e in rows if not shared or (e.data_set, e.n) in shared]
    figure = Figure(figsize=(6, 1 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    for position, name in enumerate(names):
        peaks = [entry.mean for entry in rows if entry.method == name]
        middle = sum(peaks) / len(peaks)
        reach = [[middle - min(peaks)], [max(peaks) - middle]]
        axes.barh(position, middle, xerr=reach, capsize=2, color="C0")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="peak memory, MB")
    _save(figure, file)


def draw_losses(cells: list[Cell], file: Path) -> None:
    """The loss of a method's first seed at its smallest N, a panel a data set."""
    figure, panels = _panels(sorted({cell["task"] for cell in cells}))
    colours = _colours(cells)
    for task, axes in panels.items():
        here = [cell for cell in cells if cell["task"] == task]
        for name in in_order(map(label, here)):
            cell = min(
                (cell for cell in here if label(cell) == name),
                key=lambda cell: (cell["n"], cell["seed"]),
            )
            axes.plot(
                range(1, len(cell["losses"]) + 1),
                cell["losses"],
                lw=0.8,
                color=colours[name],
                label=f"{name}, N {cell['n']}, seed {cell['seed']}",
            )
        axes.set(xlabel="step", ylabel="loss", yscale="log")
    _save(figure, file)


def draw_parts(stacks: dict[str, dict[str, dict[str, int]]], file: Path) -> None:
    """A bar a method, of bytes by what they are for, and a panel a title.

    Parameters
    ----------
    stacks
        Bytes by title, method and part, each method with the same parts. They are
        written into the file too, as JSON, so that it can be told what it shows.
    file
        The PNG to write.
    """
    n_bars = [len(bars) for bars in stacks.values()]
    figure = Figure(figsize=(9, 1.2 + 0.5 * sum(n_bars)), layout="constrained")
    panels = figure.subplots(len(stacks), sharex=True, height_ratios=n_bars)
    for axes, (title, bars) in zip(panels, stacks.items(), strict=True):
        left = [0.0] * len(bars)
        for part in next(iter(bars.values())):
            widths = [bar[part] / 1e9 for bar in bars.values()]
            axes.barh(list(bars), widths, left=left, label=part)
            left = [sum(both) for both in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set_title(title)
    panels[-1].set(xlabel="peak of memory above the process without a network, GB")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5
    )
    shown = {"Description": json.dumps(stacks)}
    figure.savefig(file, dpi=120, metadata=shown)


def _colours(cells: list[Cell]) -> dict[str, Any]:
    """Give each method a colour, the same one in every panel."""
    palette = mpl.colormaps["tab20"].colors
    names = in_order(map(label, cells))
    return {name: palette[i % len(palette)] for i, name in enumerate(names)}


def _panels(titles: list[str]) -> tuple[Figure, dict[str, Any]]:
    figure = Figure(figsize=(4.5 * len(titles), 5), layout="constrained")
    (row,) = figure.subplots(1, len(titles), squeeze=False)
    for title, axes in zip(titles, row, strict=True):
        axes.set_title(title)
    return figure, dict(zip(titles, row, strict=True))


def _save(figure: Figure, file: Path) -> None:
    """Write a PNG, with one legend for all panels beside them."""
    lines = {
        name: line
        for axes in figure.axes
        for line, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if lines:
        names = in_order(lines)
        figure.legend([lines[name] for name in names], names, loc="outside right upper")
    figure.savefig(file, dpi=120)

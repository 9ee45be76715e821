"""Markdown tables from the entries of a benchmark."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from cells import DICE, HD95, Entry, Metric, entries, in_order
from published import SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cells import Cell

MISSING = "–"
REFERENCE = ("ct", "cxr", "hippo", "nuclei")


def over_n(cells: list[Cell], published: Iterable[Entry]) -> list[Entry]:
    """Dice and HD95, with what was published on the same data sets.

    Parameters
    ----------
    cells
        What a table is about.
    published
        Entries of the paper's table of the same kind; those on data sets without a
        cell are left out.
    """
    data_sets = {cell["task"] for cell in cells}
    measured = [*entries(cells, DICE), *entries(cells, HD95)]
    return measured + [entry for entry in published if entry.data_set in data_sets]


def paper_table(title: str, rows: list[Entry]) -> str:
    """A part a data set, a row a number of images and a metric, a column a method."""
    parts = [f"## {title}"]
    for data_set in sorted({entry.data_set for entry in rows}):
        parts.append(f"### {data_set}")
        parts.append(_by_method([e for e in rows if e.data_set == data_set]))
    if any(entry.source == SOURCE for entry in rows):
        parts.append(
            f"Columns marked (paper) are the values published in {SOURCE}: another "
            "model, computer and choice of images."
        )
    return "\n\n".join(parts)


def _by_method(rows: list[Entry]) -> str:
    ours = in_order(e.method for e in rows if e.source != SOURCE)
    theirs = list(dict.fromkeys(e.method for e in rows if e.source == SOURCE))
    columns = ours + theirs
    found = {(e.n, e.metric, e.method): e for e in rows}
    metrics = (DICE, HD95)
    lines = []
    for n in sorted({entry.n for entry in rows}):
        for metric in metrics:
            row = [found.get((n, metric.title, column)) for column in columns]
            if any(entry and entry.mean is not None for entry in row):
                texts = [_number(entry, metric) for entry in row]
                lines.append([str(n), metric.title, *texts])
    return markdown(["N", "metric", *columns], lines)


def overview(cells: Iterable[Cell], metric: Metric) -> str:
    """A part a number of images, a row a method, a column a data set, and their mean.

    Empty where no cell has the number.
    """
    known = [e for e in entries(cells, metric) if e.mean is not None]
    if not known:
        return ""
    parts = [f"## {metric.title}"]
    for n in sorted({entry.n for entry in known}):
        parts.append(f"### N = {n}")
        parts.append(_by_data_set([e for e in known if e.n == n], metric))
    return "\n\n".join(parts)


def _by_data_set(rows: list[Entry], metric: Metric) -> str:
    found = {(e.method, e.data_set): e for e in rows}
    columns = sorted({entry.data_set for entry in rows})
    counted = REFERENCE if set(columns) >= set(REFERENCE) else columns
    lines = []
    for method in in_order(entry.method for entry in rows):
        row = [found.get((method, column)) for column in columns]
        means = [e.mean for e in row if e is not None and e.data_set in counted]
        known = [number for number in means if number is not None]
        whole = (
            f"{mean(known):.{metric.digits}f}"
            if len(known) == len(counted)
            else MISSING
        )
        lines.append([method, *(_number(entry, metric) for entry in row), whole])
    return markdown(["method", *columns, "mean"], lines)


def _number(entry: Entry | None, metric: Metric) -> str:
    if entry is None or entry.mean is None:
        return MISSING
    text = f"{entry.mean:.{metric.digits}f}"
    if entry.spread is not None:
        text += f" ± {entry.spread:.{metric.digits}f}"
    return text if entry.seeds is None else f"{text} ({entry.seeds})"


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """Write a table."""
    rule = "|---" * len(header) + "|"
    rows = [f"| {' | '.join(line)} |" for line in [header, *lines]]
    return "\n".join([rows[0], rule, *rows[1:]])


def measured_on() -> dict[str, str | int]:
    """Say on what computer, and with which versions, figures were measured."""
    processor = platform.processor()
    with suppress(OSError):
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        named = re.search(r"model name\s*: (.*)", facts)
        processor = processor if named is None else named[1]
    packages = {name: version(name) for name in ("napari-medsaga", "torch")}
    computer = {"processor": processor, "cores": os.cpu_count() or 1}
    return computer | {"python": platform.python_version()} | packages

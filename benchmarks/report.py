"""The report of a benchmark, in the form of MedSAGa's paper (arXiv 2407.15042).

    python benchmarks/report.py OUT

writes, from the cells in OUT, results.md, results.json (the cells), tables.json (what
the paper's tables show), losses.json (what its Figure 4 shows) and the pictures.
Whatever cells there are make a report.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cells import (
    DICE,
    HD95,
    MEMORY,
    MINUTES,
    MISSING_HD95,
    SURFACE_DICE,
    UNTOUCHED,
    ablations,
    by_way,
    compared,
    label,
    read_cells,
    warm_up_pairs,
)
from forecasts import forecasts
from published import TABLE_1, TABLE_2, TABLE_3
from tables import over_n, overview, paper_table

if TYPE_CHECKING:
    from cells import Cell

_HEAD = """# Results

Means over seeds ± the sample's standard deviation (number of seeds); – where there is
no cell. Dice and HD95 are means over classes and test images; the mean over data sets
is that over ct, cxr, hippo and nuclei where there are these. HD95 is in mm, in pixels
where a data set has no spacing, and leaves out an image where the class is missing in
the mask or in the truth; of a volume of which some slices trained, the others are taken
for neighbours. N is the number of annotated slices or images. A method's name says what
was set otherwise than by default."""


def write_report(out: Path) -> None:
    """Write the texts, the JSON files and the pictures from all cells in OUT."""
    cells = read_cells(out)
    judged = [row for cell in cells for row in by_way(cell)]
    short = [{k: v for k, v in cell.items() if k != "losses"} for cell in cells]
    _write_json(out / "results.json", short)
    tables = {
        "Table 1: Dice and HD95 over N": over_n(compared(cells), TABLE_1),
        "Table 2: with and without warm-up": over_n(warm_up_pairs(cells), TABLE_2),
        "Table 3: ablations": over_n(ablations(cells), TABLE_3),
    }
    rows = [
        {"table": title} | asdict(entry)
        for title, found in tables.items()
        for entry in found
    ]
    _write_json(out / "tables.json", rows)
    curves = warm_up_pairs([cell for cell in cells if cell.get("losses")])
    if curves:
        _write_json(out / "losses.json", [_curve(cell) for cell in curves])
    parts = [
        _HEAD,
        *(overview(judged, metric) for metric in (DICE, UNTOUCHED)),
        *(overview(judged, metric) for metric in (HD95, MISSING_HD95, SURFACE_DICE)),
        *(overview(cells, metric) for metric in (MEMORY, MINUTES)),
        forecasts(cells),
        *(paper_table(title, found) for title, found in tables.items() if found),
        *_draw(out, cells, curves),
    ]
    text = "\n\n".join(filter(None, parts))
    (out / "results.md").write_text(text + "\n", encoding="utf-8")


def _curve(cell: Cell) -> dict[str, Any]:
    """Give the loss of each step, to four digits."""
    return {
        **{key: cell[key] for key in ("task", "n", "seed")},
        "method": label(cell),
        "losses": [float(f"{loss:.4g}") for loss in cell["losses"]],
    }


def _draw(out: Path, cells: list[Cell], curves: list[Cell]) -> list[str]:
    """Draw the pictures there are cells for, and give the lines that show them."""
    from figures import draw_curves, draw_losses, draw_memory

    pictures = [
        ("memory", "Figure 1: peak memory", draw_memory, cells),
        ("dice", "Figure 2: Dice over N", draw_curves, compared(cells)),
        ("warm-up", "Figure 4: the loss with and without warm-up", draw_losses, curves),
    ]
    shown = []
    for name, title, draw, what in pictures:
        if what:
            draw(what, out / f"{name}.png")
            shown.append(f"## {title}\n\n![{title}]({name}.png)")
    return shown


def _write_json(file: Path, content: list[dict[str, Any]]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_report(Path(sys.argv[1]))

"""The tables and the picture of docs/memory.md, from what memory.py kept.

    python benchmarks/memory_report.py

prints its tables, and draws docs/images/memory.png. A test compares page and picture
with the files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from memory import METHODS
from tables import markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "memory"
FILES = ("vit_b-1024x1.json", "vit_b-512x4.json")
PICTURE = ROOT / "docs" / "images" / "memory.png"
COUNTED = ("weights", "gradients", "optimiser state", "activations")
REST = "scratch and fragmentation"
WHOLE = "full AdamW, stock"
Cell = dict[str, Any]


def read_results() -> dict[str, list[Cell]]:
    """Give the cells of each file by its title, methods in the order of memory.py."""
    found = {}
    for name in FILES:
        cells = json.loads((RESULTS / name).read_text(encoding="utf-8"))["figures"]
        cells.sort(key=lambda cell: list(METHODS).index(cell["method"]))
        found[title(cells[0])] = cells
    return found


def title(cell: Cell) -> str:
    """Say what was trained on how much."""
    images = "one image" if cell["batch"] == 1 else f"{cell['batch']} images"
    return f"{cell['backbone']}, {cell['side']} x {cell['side']}, {images} a step"


def short_name(cell: Cell) -> str:
    """Give a method's name as the page has it."""
    name: str = cell["method"]
    name = name.replace("SAMed's low-rank updates", "SAMed's")
    return name.replace("our attention and checkpointing", "ours")


def stacks() -> dict[str, dict[str, dict[str, int]]]:
    """Give what the picture shows: bytes by title, method and part."""
    return {
        name: {short_name(cell): parts(cell) for cell in cells}
        for name, cells in read_results().items()
    }


def parts(cell: Cell) -> dict[str, int]:
    """Share out the bytes that a process took; what was not counted is the rest."""
    counted = {name: cell["counted"][name] for name in COUNTED}
    return counted | {REST: cell["bytes"] - sum(counted.values())}


def table(cells: list[Cell]) -> str:
    """Write a row a method: its parts and the whole in MB, its share and its time."""
    (whole,) = (cell["bytes"] for cell in cells if cell["method"] == WHOLE)
    lines = []
    for cell in cells:
        share = "" if cell["method"] == WHOLE else f"{cell['bytes'] / whole:.0%}"
        numbers = [*parts(cell).values(), cell["bytes"]]
        lines.append(
            [
                short_name(cell),
                *(f"{number / 1e6:.0f}" for number in numbers),
                share.replace("%", " %"),
                f"{cell['seconds']:.1f}",
            ]
        )
    header = ["", *COUNTED, REST, "taken, MB", "of full AdamW", "s a step"]
    return markdown(header, lines)


def main() -> None:
    """Print the tables and draw the picture."""
    from figures import draw_parts

    for name, cells in read_results().items():
        print(f"{name}:\n\n{table(cells)}\n")
    draw_parts(stacks(), PICTURE)


if __name__ == "__main__":
    main()

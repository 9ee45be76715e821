"""What a training step takes of memory and time, by method; and what was foreseen.

    python benchmarks/memory.py [--sizes 512x2 1024x1] [--backbones vit_b]
        [--methods ...] [--json FILE]
    python benchmarks/memory.py --count FILE ...

Each cell is a process of its own (memory_cell.py) that takes three steps of a network
with random weights: the peak of resident memory above that of the process before the
network is built, and the seconds of the faster of the last two steps. *stock* is
Segment Anything's own attention without checkpointing, *ours* memory-linear attention;
*lean* gives memory back to the system at once. Run nothing else meanwhile.

Of each cell the bytes of a step's tensors are counted too, without computing any:
weights, gradients, the optimiser's state and activations. `--count` does so anew in
files that are there, and measures nothing. memory_report.py draws them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from tables import markdown, measured_on

METHODS: dict[str, dict[str, Any]] = {
    "full AdamW, stock": {"optimizer": "adamw", "stock": True},
    "SAMed's low-rank updates, stock": {"optimizer": "lora", "stock": True},
    "GaLore, stock": {"optimizer": "galore", "stock": True},
    "full AdamW, our attention and checkpointing": {
        "optimizer": "adamw",
        "checkpointing": True,
    },
    "SAMed's, our attention and checkpointing": {
        "optimizer": "lora",
        "checkpointing": True,
    },
    "GaLore, our attention": {"optimizer": "galore"},
    "GaLore, our attention and checkpointing": {
        "optimizer": "galore",
        "checkpointing": True,
    },
    "Fira, our attention and checkpointing": {
        "optimizer": "fira",
        "checkpointing": True,
    },
    "APOLLO-Mini, our attention and checkpointing": {
        "optimizer": "apollo-mini",
        "checkpointing": True,
    },
    "GaLore, our attention and checkpointing, lean": {
        "optimizer": "galore",
        "checkpointing": True,
        "lean": True,
    },
}

_CELL = Path(__file__).with_name("memory_cell.py")


def run(work: Literal["measure", "count"], cell: dict[str, Any]) -> dict[str, Any]:
    """Do a cell's work in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", str(_CELL), work, json.dumps(cell)],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise SystemExit(ended.stderr[-2000:])
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def count_again(file: Path) -> None:
    """Count the cells of a file by the sources and libraries that are here."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    for cell in kept["figures"]:
        cell["counted"] = run("count", cell)
    measured = {"measured on": kept["measured on"], "counted on": measured_on()}
    _keep(file, measured | {"figures": kept["figures"]})


def _keep(file: Path, kept: dict[str, Any]) -> None:
    file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["512x2", "1024x1"])
    parser.add_argument("--backbones", nargs="+", default=["vit_b"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--count", nargs="+", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.count:
        for file in options.count:
            count_again(file)
        return
    cells = []
    for backbone in options.backbones:
        for size in options.sizes:
            side, batch = map(int, size.split("x"))
            for method in options.methods:
                cell = METHODS[method] | {
                    "method": method,
                    "backbone": backbone,
                    "side": side,
                    "batch": batch,
                    "classes": options.classes,
                    "precision": options.precision,
                }
                cell |= run("measure", cell)
                cell["counted"] = run("count", cell)
                cells.append(cell)
                print(cell, flush=True)
    rows = [
        [
            cell["method"],
            cell["backbone"],
            f"{cell['side']} x {cell['batch']}",
            f"{cell['bytes'] / 1e6:.0f}",
            f"{cell['seconds']:.1f}",
        ]
        for cell in cells
    ]
    print(markdown(["method", "backbone", "size x batch", "MB", "s a step"], rows))
    if options.json:
        here = measured_on()
        kept = {"measured on": here, "counted on": here, "figures": cells}
        _keep(options.json, kept)


if __name__ == "__main__":
    main()

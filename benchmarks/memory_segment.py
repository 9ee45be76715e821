"""What a segmentation takes of memory, usually and lean, and what was foreseen.

    python benchmarks/memory_segment.py [--json FILE]

Each cell is a process of its own: a network with random weights segments noise into
four classes, in fp32. Measured is the peak of resident memory above that of the process
with model and image. Run nothing else meanwhile. A test compares the table of
docs/memory.md with the file that is kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory_cell import begin_to_measure, taken_since
from tables import markdown, measured_on

from medsaga import (
    FineTuneSettings,
    SegmentSettings,
    TrainingData,
    drain,
    fine_tune,
    load_model,
    save_model,
    segment,
    volume_from_array,
)
from medsaga.computing import computing_threads
from medsaga.data.canvas import Canvas
from medsaga.models.folder import TrainedModel
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa
from medsaga.segmentation.plan import Work, plan_segmentation

N_CLASSES = 4
CELLS: tuple[dict[str, Any], ...] = (
    {"backbone": "lite_medsam", "side": 256, "shape": (20, 512, 512)},
    {"backbone": "vit_b", "side": 512, "shape": (2, 512, 512)},
    {"backbone": "lite_medsam", "side": 512, "shape": (2, 512, 512)},
    {"backbone": "vit_b", "side": 1024, "shape": (1, 512, 512)},
    {"backbone": "tiny", "side": 3000, "tile": 256, "shape": (1, 3000, 3000)},
)
WAYS = ("usual", "lean")
Cell = dict[str, Any]


def make_card_in(folder: Path) -> None:
    """Save a small model of four classes, whose card the cells take."""
    random = np.random.default_rng(0)
    image, labels = random.normal(size=(1, 64, 64)), np.zeros((1, 64, 64), np.uint8)
    for value in range(1, N_CLASSES):
        labels[:, 16 * value : 16 * value + 8] = value
    settings = FineTuneSettings(
        backbone="tiny", stages="head", head_views=1, head_steps=1, precision="fp32"
    )
    save_model(drain(fine_tune(TrainingData(image, labels), settings)), folder)


def build(cell: Cell, folder: Path) -> TrainedModel:
    """Give a model of a cell's backbone with random weights."""
    card, backbone = load_model(folder).card, build_backbone(cell["backbone"])
    tile = cell.get("tile", 0)
    canvas = Canvas(
        long_side=cell["side"],
        multiple=backbone.size_multiple,
        tile=tile,
        scale=1.0 if tile else 0.0,
    )
    network = MedSAGa(backbone, N_CLASSES, detail_head=card.detail_head).eval()
    card = replace(card, backbone=cell["backbone"], canvas=canvas)
    return TrainedModel(network, card)


def measure(cell: Cell, folder: Path) -> dict[str, int]:
    """Give the bytes that are foreseen, and those that are taken."""
    array = np.random.default_rng(0).integers(0, 1000, cell["shape"], np.int16)
    model, volume = build(cell, folder), volume_from_array(array)
    is_smoothed = "tile" not in cell
    settings = SegmentSettings(
        lean="on" if cell["way"] == "lean" else "off",
        smooth="on" if is_smoothed else "off",
        precision="fp32",
    )
    work = Work(
        network=model.network,
        card=model.card,
        volume=volume,
        smooth={0: is_smoothed},
        settings=settings,
    )
    nothing_free = 0  # else what surely fits is not counted
    plan = plan_segmentation(work, "fp32", torch.device("cpu"), nothing_free)
    with computing_threads():
        torch.nn.Conv2d(3, 8, 3)(torch.rand(1, 3, 64, 64))
    before = begin_to_measure()
    drain(segment(model, volume, settings))
    return {"foreseen": plan.n_bytes, "bytes": taken_since(before)}


def measure_apart(cell: Cell, folder: Path) -> dict[str, int]:
    """Do the same in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--cell", json.dumps(cell)]
    ended = subprocess.run(
        [*command, "--model", str(folder)], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise SystemExit(ended.stderr[-2000:])
    found: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    return found


def table(figures: list[Cell]) -> str:
    """Write a row a model and image, in MB."""
    rows: dict[tuple[str, str], list[str]] = {}
    for cell in figures:
        side = cell.get("tile", cell["side"])
        name = f"`{cell['backbone']}`, {side} x {side}"
        if "tile" in cell:
            name = f"small network for tests, tiles of {side}, not averaged"
        depth, rows_of, columns = cell["shape"]
        image = f"{rows_of} x {columns} x {depth}"
        numbers = [f"{cell[kind] / 1e6:.0f}" for kind in ("foreseen", "bytes")]
        rows.setdefault((name, image), []).extend(numbers)
    header = ["", "image", "foreseen, MB", "taken, MB", "lean: foreseen", "taken"]
    return markdown(header, [[*what, *numbers] for what, numbers in rows.items()])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure(options.cell, options.model)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        make_card_in(folder)
        figures = []
        for cell in CELLS:
            for way in WAYS:
                asked = cell | {"way": way}
                figures.append(asked | measure_apart(asked, folder))
                print(figures[-1], flush=True)
    print(table(figures))
    if options.json:
        kept = {"measured on": measured_on(), "figures": figures}
        options.json.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

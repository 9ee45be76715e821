"""What a training step takes of memory and time, by method; and what was foreseen.

    python benchmarks/memory.py [--sizes 512x2 1024x1] [--backbones vit_b]
        [--methods ...] [--json FILE]

Each cell is a process of its own that takes three steps of a network with random
weights: the peak of resident memory above that of the process before the network is
built, and the seconds of the faster of the last two steps. *stock* is Segment
Anything's own attention without checkpointing, *ours* memory-linear attention; *lean*
gives memory back to the system at once. What was counted before is in the JSON. Run
nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    "GaLore, our attention and checkpointing, lean": {
        "optimizer": "galore",
        "checkpointing": True,
        "lean": True,
    },
}

_CELL = """
import json, sys, time
import psutil, torch
from medsaga.computing import allocate_leanly, autocast, computing_threads
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.layerwise import LayerwiseOptimizer
from medsaga.training.optim.losses import SegmentationLoss
from medsaga.training.optim.strategy import apply_strategy
from segment_anything.modeling.image_encoder import Attention

cell = json.loads(sys.argv[1])
side, batch = cell["side"], cell["batch"]
lasting, device = None, torch.device("cpu")


def resident(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024


def stock(block, width):
    attention = block.attn
    own = Attention(
        width,
        num_heads=attention.num_heads,
        use_rel_pos=True,
        input_size=[(len(table) + 1) // 2 for table in
                    (attention.rel_pos_h, attention.rel_pos_w)],
    )
    # With what was frozen of them, and low-rank updates.
    own.qkv, own.proj = attention.qkv, attention.proj
    own.rel_pos_h, own.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w
    return own


with computing_threads():
    if cell.get("lean"):
        allocate_leanly(True)
    warm = torch.nn.Conv2d(3, 8, 3)(torch.rand(1, 3, 64, 64)).sum().backward()
    loss_of = SegmentationLoss(0.8)
    open("/proc/self/clear_refs", "w").write("5")
    before = resident("VmRSS")
    is_ours = not cell.get("stock")
    backbone = build_backbone(
        cell["backbone"], checkpointing=cell.get("checkpointing", False)
    )
    network = MedSAGa(backbone, cell["classes"], detail_head=is_ours)
    network = network.to(memory_format=torch.channels_last)
    settings = FineTuneSettings()
    if cell["optimizer"] == "lora":
        apply_strategy(network, "samed", 0)
    if not is_ours:
        for block in backbone.encoder.blocks:
            block.attn = stock(block, block.norm1.normalized_shape[0])
    if cell["optimizer"] == "galore":
        optimizer = LayerwiseOptimizer(parameter_groups(network, settings))
        optimizer.attach()
    else:
        learns = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learns, 1e-4)
    network.train()
    taken = []
    for _ in range(3):
        images = torch.rand(batch, 3, side, side).to(memory_format=torch.channels_last)
        targets = (images[:, 0] > 0.5).long()
        started = time.perf_counter()
        with autocast(device, cell["precision"]):
            logits = network(images)
        loss = loss_of(logits, targets)
        if cell["optimizer"] == "galore":
            with optimizer.step():
                loss.backward()
        else:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        taken.append(time.perf_counter() - started)
print(json.dumps({"bytes": resident("VmHWM") - before, "seconds": min(taken[1:])}))
"""

_FORESEEN = """
import json, sys
from medsaga.memory.counting import count_step
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa
import torch

cell = json.loads(sys.argv[1])
with torch.device("meta"):
    network = MedSAGa(build_backbone(cell["backbone"]), cell["classes"])
size = cell["side"], cell["side"]
print(json.dumps({
    "counted": count_step(
        network,
        cell["batch"],
        size,
        cell["precision"],
        checkpointing=cell.get("checkpointing", False),
    )
}))
"""


def run(code: str, cell: dict[str, Any]) -> dict[str, float]:
    """Run a cell in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(cell)],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise SystemExit(ended.stderr[-2000:])
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["512x2", "1024x1"])
    parser.add_argument("--backbones", nargs="+", default=["vit_b"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
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
                cell |= run(_CELL, cell)
                if cell["optimizer"] == "galore" and not cell.get("stock"):
                    cell |= run(_FORESEEN, cell)
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
        kept = {"measured on": measured_on(), "figures": cells}
        options.json.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a training's plan chooses for a kind of machine, foreseen without any weights.

    python benchmarks/memory_plans.py [--backbones vit_h] [--strategy full]

prints a table for docs/memory.md: what the plan of a training (`plan_memory` in
`medsaga.frontend`) says of two slices a step in fp32. Nothing is measured, and no GPU
is needed; a row takes ten seconds.
"""

from __future__ import annotations

import argparse
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from tables import markdown

from medsaga import FineTuneSettings
from medsaga.memory.counting import count_step
from medsaga.network.backbones import attending, attention
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa
from medsaga.training.optim.strategy import apply_strategy
from medsaga.training.plan import memory

if TYPE_CHECKING:
    from medsaga.frontend import MemoryPlan

BACKBONES = ("lite_medsam", "vit_b", "vit_l", "vit_h")
SIDES = (256, 512, 1024)
_GB = 10**9
MACHINES = {
    "8 GB free on a GPU": (torch.device("cuda"), 8 * _GB),
    "16 GB free on a GPU": (torch.device("cuda"), 16 * _GB),
    "8 GB free, no GPU": (torch.device("cpu"), 8 * _GB),
    "4 GB free, no GPU": (torch.device("cpu"), 4 * _GB),
}


def _count_on_gpu(*given: Any, **named: Any) -> int:
    """Count a step with the attention that a GPU has, though there is none."""
    with patch.object(attention, "attend", attending.attend_fused):
        return count_step(*given, **named)


# The machines of a row want the same counts, which take seconds each.
_COUNTS = {"cuda": cache(_count_on_gpu), "cpu": cache(count_step)}


def plan_on(
    device: torch.device, free: int, network: MedSAGa, settings: Any, side: int
) -> MemoryPlan:
    """Give the plan of a kind of machine."""
    with patch.object(memory, "count_step", _COUNTS[device.type]):
        return memory.plan_step(network, settings, (side, side), "fp32", device, free)


def describe(plan: MemoryPlan) -> str:
    """Say in a few words what was chosen, and the GB that it is to take."""
    said = [f"at most {_gb(plan)}" if plan.is_bound else _gb(plan)]
    said += ["twice"] * plan.checkpointing + ["lean"] * plan.lean
    said += ["one slice"] * (plan.batch_size == 1)
    text = ", ".join(said)
    return text if plan.fits else f"no: {text}"


def _gb(plan: MemoryPlan) -> str:
    return f"{plan.n_bytes / _GB:.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES)
    parser.add_argument("--strategy", default="medsaga")
    options = parser.parse_args()
    print(markdown(["", "side", *MACHINES], []))
    for backbone in options.backbones:
        settings = FineTuneSettings(backbone=backbone, strategy=options.strategy)
        with torch.device("meta"):
            network = MedSAGa(build_backbone(backbone), n_classes=2)
            apply_strategy(network, settings.strategy, settings.seed)
        for side in options.sides:
            plans = [
                plan_on(*machine, network, settings, side)
                for machine in MACHINES.values()
            ]
            row = [f"`{backbone}`", str(side), *map(describe, plans)]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

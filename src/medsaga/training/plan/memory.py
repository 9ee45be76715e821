"""Which settings of a step fit into the memory that is free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from medsaga.computing import free_memory, pick_device
from medsaga.memory.counting import count_step
from medsaga.memory.process import (
    ON_GPU,
    Foreseen,
    Overhead,
    may_be,
    ways_to_allocate,
)
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa
from medsaga.training.optim.galore import basis_shapes
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.strategy import apply_strategy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medsaga.computing import FixedPrecision
    from medsaga.settings.fine_tune import FineTuneSettings
    from medsaga.windows import Size

SAVE_MEMORY = "choose a smaller batch or long side, or close other programs"
OUT_OF_MEMORY = f"The memory ran out: {SAVE_MEMORY}."
_FLOAT = 4
# Of what passes in a step whose blocks are computed once, and twice: convolutions and
# windows leave other pieces than the long rows of a plain ViT. And of a lean one.
_OF_TINY_VIT = Overhead(1.1, 120e6), Overhead(1.6, 170e6)
_OF_VIT = Overhead(1.25, 70e6, of_weights=0.08), Overhead(2.45, 0.0, of_weights=0.48)
_LEAN = Overhead(1.0, 100e6)
_IN_BF16 = 70_000_000  # besides, whatever the way
# More than any backbone takes for a pixel of a batch, and than weights, moments and
# subspaces are of the weights alone: what fits by these need not be counted.
_MOST_PER_PIXEL, _MOST_PER_WEIGHT, _MOST_BESIDE = 55_000, 5, 450e6


@dataclass(frozen=True, kw_only=True)
class MemoryPlan(Foreseen):
    """What a training's steps are taken with, and what they will need.

    Attributes
    ----------
    batch_size
        Slices in a step.
    checkpointing
        Whether blocks are computed twice to keep their activations out of memory.
    """

    batch_size: int
    checkpointing: bool

    def complete(self, settings: FineTuneSettings) -> FineTuneSettings:
        """Give settings that say what was chosen."""
        return replace(
            settings,
            batch_size=self.batch_size,
            checkpointing="on" if self.checkpointing else "off",
            lean="on" if self.lean else "off",
        )


def plan_memory(
    settings: FineTuneSettings,
    size: Size,
    n_classes: int = 2,
    *,
    device: torch.device | None = None,
    free: int | None = None,
) -> MemoryPlan:
    """Foresee what a training's steps will need of memory, without any weights.

    Parameters
    ----------
    settings
        Of the training. With the precision ``auto``, fp32 is planned for.
    size
        Height and width of the images that the network sees.
    n_classes
        Background included.
    device, free
        What computes, and how many bytes of its memory can be used; None asks this
        computer.

    Returns
    -------
    MemoryPlan
        The fastest way that fits; see :func:`plan_step`.

    Raises
    ------
    MedsagaError
        If there is no such backbone, or the rank is too large for it.
    """
    with torch.device("meta"):
        network = MedSAGa(
            build_backbone(settings.backbone),
            n_classes,
            detail_head=settings.detail_head,
        )
        apply_strategy(network, settings.strategy, settings.seed)
    precision: FixedPrecision = "bf16" if settings.precision == "bf16" else "fp32"
    return plan_step(network, settings, size, precision, device or pick_device(), free)


def plan_step(
    network: MedSAGa,
    settings: FineTuneSettings,
    size: Size,
    precision: FixedPrecision,
    device: torch.device,
    free: int | None = None,
) -> MemoryPlan:
    """Choose the fastest way to take a step that fits into memory.

    What the settings say of `checkpointing` and `lean` is followed; with ``auto``
    blocks are computed twice where it is needed, and where that is not enough, memory
    is given back to the system at once. Then the batch is halved until it fits. If
    nothing does, what needs least is planned.

    Parameters
    ----------
    network
        Knows which of its parameters learn; it may be on the meta device.
    settings
        Of the training.
    size
        Height and width of the working images.
    precision
        The number format.
    device
        What computes.
    free
        Bytes that can be used; None asks the device.
    """
    free = free_memory(device) if free is None else free
    bound = _bound(network, settings, size, device, free)
    if "on" not in (settings.checkpointing, settings.lean) and bound.fits:
        return bound
    copies, plan = _copied_bytes(network, settings, device), bound
    weights, kept = weight_bytes(network), optimizer_bytes(network, settings)
    count = cache(partial(count_step, network, size=size, precision=precision))
    for way in _ways(settings, device):
        counted = count(way.batch_size, checkpointing=way.checkpointing)
        tensors = Tensors(weights, kept, counted - weights)
        n_bytes = in_process(tensors, way, network.backbone.name, precision, device)
        plan = MemoryPlan(
            **way._asdict(),
            n_bytes=n_bytes + copies,
            free=free,
        )
        if plan.fits:
            return plan
    return plan


def describe_memory(plan: MemoryPlan, settings: FineTuneSettings) -> str:
    """Say in a sentence what was chosen, and why."""
    text = plan.describe("A step")
    saved = []
    if plan.checkpointing and settings.checkpointing == "auto":
        saved.append("blocks are computed twice (checkpointing)")
    if plan.lean and settings.lean == "auto":
        saved.append("memory is given back as soon as it is free (lean)")
    if plan.batch_size < settings.batch_size:
        saved.append(
            f"{plan.batch_size} in place of {settings.batch_size} slices are in a step"
        )
    if saved:
        text += f"; to save memory, {', '.join(saved)}"
    if not plan.fits:
        text += "; this may not suffice: close other programs, or give a long_side"
    return f"{text}."


class Way(NamedTuple):
    """How a step is taken."""

    batch_size: int
    checkpointing: bool
    lean: bool


class Tensors(NamedTuple):
    """Bytes of what stays from step to step, and of what a step needs at its peak."""

    weights: int
    optimizer: int
    passing: int


def _ways(settings: FineTuneSettings, device: torch.device) -> Iterator[Way]:
    """Give the ways to take a step, from the fastest to the smallest."""
    batch_size = settings.batch_size
    computes_twice = [on for on in (False, True) if may_be(settings.checkpointing, on)]
    lean = ways_to_allocate(settings.lean, device)
    for checkpointing in computes_twice:
        yield Way(batch_size, checkpointing, lean[0])
    if len(lean) > 1:
        yield Way(batch_size, computes_twice[-1], lean=True)
    while batch_size > 1:
        batch_size //= 2
        yield Way(batch_size, computes_twice[-1], lean[-1])


def in_process(
    tensors: Tensors,
    way: Way,
    backbone: str,
    precision: FixedPrecision,
    device: torch.device,
) -> int:
    """Give what a process will take for these tensors, in bytes."""
    if device.type != "cpu":
        return ON_GPU.add_to(sum(tensors))
    once, twice = _OF_TINY_VIT if backbone == "lite_medsam" else _OF_VIT
    overhead = _LEAN if way.lean else twice if way.checkpointing else once
    staying = tensors.weights + tensors.optimizer
    staying += _IN_BF16 if precision == "bf16" else 0
    return staying + overhead.add_to(tensors.passing, tensors.weights)


def _bound(
    network: MedSAGa,
    settings: FineTuneSettings,
    size: Size,
    device: torch.device,
    free: int,
) -> MemoryPlan:
    pixels = settings.batch_size * size[0] * size[1]
    way = Way(settings.batch_size, checkpointing=False, lean=False)
    most = _MOST_PER_WEIGHT * weight_bytes(network) + _MOST_PER_PIXEL * pixels
    return MemoryPlan(
        **way._asdict(),
        n_bytes=round(most + _MOST_BESIDE) + _copied_bytes(network, settings, device),
        free=free,
        is_bound=True,
    )


def _copied_bytes(
    network: MedSAGa, settings: FineTuneSettings, device: torch.device
) -> int:
    """Count what a training keeps of weights besides: the average, and the best.

    The best are in the computer's memory whatever computes.
    """
    n_copies = settings.average_weights + (device.type == "cpu")
    return n_copies * weight_bytes(network)


def weight_bytes(network: MedSAGa) -> int:
    """Count the weights."""
    return sum(p.nbytes for p in network.parameters())


def optimizer_bytes(network: MedSAGa, settings: FineTuneSettings) -> int:
    """Count what GaLore keeps: moments, and subspaces with the moments in them."""
    total = 0
    for group in parameter_groups(network, settings):
        for parameter in group["params"]:
            if "rank" not in group:
                total += 2 * parameter.numel()
                continue
            rows, columns = parameter.flatten(1).shape
            sides = basis_shapes((rows, columns), group["rank"], group["proj_type"])
            low = {"left": rows, "right": columns}
            for side, (length, rank) in sides.items():
                total += length * rank
                low[side] = rank
            total += 2 * low["left"] * low["right"]
    return _FLOAT * total

"""How a segmentation takes the memory that is free, chosen before its first slice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medsaga.computing import free_memory
from medsaga.memory.counting import count_look
from medsaga.memory.process import (
    ON_GPU,
    Foreseen,
    Overhead,
    ways_to_allocate,
)
from medsaga.network.bands import MOST_VALUES
from medsaga.windows import view_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from medsaga.computing import FixedPrecision
    from medsaga.data.volume import Volume
    from medsaga.models.card import ModelCard
    from medsaga.network.medsaga import MedSAGa
    from medsaga.settings.fields import Switch
    from medsaga.settings.segment import SegmentSettings
    from medsaga.windows import Size

_FLOAT = 4
# Where nothing is kept for a gradient; and by a lean allocator.
_USUAL, _LEAN = Overhead(1.25, 110e6), Overhead(1.0, 35e6)
# More than any backbone takes for a pixel that it sees, by the pixels that its logits
# are of, and beside: what fits by it need not be counted.
_MOST_PER_PIXEL, _MOST_BESIDE = 3400, 10e6
# Arrays as large as a band of logits: what is interpolated of it, and what is chosen.
_OF_BAND = 3
# Bytes a voxel while components are numbered and holes filled.
_CLEANING = 8


class _Across(NamedTuple):
    """What the slices across an axis take, in bytes.

    `view` is what the network sees at once, `beside` what is held meanwhile, and `made`
    what is made of its logits.
    """

    view: Size
    beside: int
    made: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """A segmentation that is planned.

    Attributes
    ----------
    network, card, volume
        Who segments what.
    smooth
        Whether the slices across each axis that is gone through are smoothed.
    settings
        Of the segmentation.
    has_paint
        Whether painted slices are carried.
    """

    network: MedSAGa
    card: ModelCard
    volume: Volume
    smooth: Mapping[int, bool]
    settings: SegmentSettings
    has_paint: bool = False


def plan_segmentation(
    work: Work,
    precision: FixedPrecision,
    device: torch.device,
    free: int | None = None,
) -> Foreseen:
    """Choose the fastest way to segment that fits into memory.

    Parameters
    ----------
    work
        What is to be done. The weights and the image are in memory already.
    precision
        The number format.
    device
        What computes. On a GPU its own memory alone is planned.
    free
        Bytes that can be used; None asks the device.
    """
    free = free_memory(device) if free is None else free
    ways = ways_to_allocate(work.settings.lean, device)
    most = _total(
        work, device, partial(_most_of_a_look, work.network, precision=precision)
    )
    bound = _foresee(most, device, free, lean=ways[0], is_bound=True)
    if bound.fits:
        return bound
    look = cache(partial(count_look, work.network, precision=precision))
    n_bytes = _total(work, device, look)
    plan = bound
    for lean in ways:
        plan = _foresee(n_bytes, device, free, lean=lean)
        if plan.fits:
            break
    return plan


def describe_plan(plan: Foreseen, switch: Switch) -> str:
    """Say in a sentence what was chosen, and why; nothing where it is the usual."""
    is_chosen = plan.lean and switch == "auto"
    if plan.fits and not is_chosen:
        return ""
    text = plan.describe("Segmenting")
    if is_chosen:
        text += (
            "; to save memory, it is given back as soon as it is free (lean), which "
            "takes longer"
        )
    if not plan.fits:
        text += (
            "; this may not suffice: close other programs, or give smaller images or "
            "fewer outputs"
        )
    return f"{text}."


def _foresee(
    n_bytes: int,
    device: torch.device,
    free: int,
    *,
    lean: bool,
    is_bound: bool = False,
) -> Foreseen:
    overhead = _LEAN if lean else _USUAL
    overhead = overhead if device.type == "cpu" else ON_GPU
    return Foreseen(
        lean=lean, n_bytes=overhead.add_to(n_bytes), free=free, is_bound=is_bound
    )


def _most_of_a_look(network: MedSAGa, view: Size, precision: FixedPrecision) -> int:
    """Give more bytes than any backbone takes to see a view."""
    stride, n_pixels = network.output_stride, math.prod(view)
    logits = 2 * _FLOAT * network.n_classes * n_pixels // stride**2
    n_weights = sum(parameter.numel() for parameter in network.parameters())
    converted = 2 * n_weights if precision == "bf16" else 0
    seen = round(_MOST_BESIDE + _MOST_PER_PIXEL / stride * n_pixels)
    return seen + logits + converted


def _total(work: Work, device: torch.device, look: Callable[[Size], int]) -> int:
    """Give the bytes of all tensors and arrays; `look` those of seeing a view."""
    across = [_across(work, axis) for axis in work.smooth]
    most = max(one.beside + max(look(one.view), one.made) for one in across)
    return most + (_of_results(work) if device.type == "cpu" else 0)


def _across(work: Work, axis: int) -> _Across:
    canvas, volume = work.card.canvas, work.volume
    size, n_classes = volume.slice_shape(axis), len(work.card.classes)
    padded = canvas.padded_shape(*size, volume.slice_spacing(axis))
    view = view_size(padded, canvas.tile)
    n_channels = 3 if volume.is_rgb or canvas.neighbours else 1
    image = n_channels * (math.prod(size) + math.prod(padded))
    whole, own = n_classes * math.prod(padded), n_classes * math.prod(size)
    made = _OF_BAND * min(own, MOST_VALUES) + (3 * own if work.has_paint else 0)
    if view == padded:
        said = whole // work.network.output_stride**2
        beside = 3 * said if work.smooth[axis] else 0
        made += said + whole
    elif work.smooth[axis]:
        beside = 4 * whole
        made += whole
    else:
        beside = 2 * n_classes * view[0] * padded[1] + min(own, MOST_VALUES)
    return _Across(view, _FLOAT * (image + beside), _FLOAT * made)


def _of_results(work: Work) -> int:
    """Give the bytes of what is filled slice by slice."""
    settings, table = work.settings, work.card.classes
    per_voxel = np.dtype(table.dtype).itemsize
    if settings.probabilities or len(work.smooth) > 1:
        per_voxel += 2 * len(table)
    if settings.entropy:
        per_voxel += _FLOAT
    if settings.largest_component or settings.fill_holes:
        per_voxel += _CLEANING
    return per_voxel * math.prod(work.volume.shape)

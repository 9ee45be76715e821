"""Neighbouring slices seen together: their logits averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from medsaga.data.volume import Volume
    from medsaga.network.inference import SliceLogits
    from medsaga.settings.fields import Switch

_PLACES = 6
_POINTS = 64
_MOST_DIFFERENT = 0.7


def smooth_slices(logits: Iterable[SliceLogits]) -> Iterator[SliceLogits]:
    """Average the logits of each slice with its two neighbours', 1 : 2 : 1.

    That is the geometric mean of what the slices say of a pixel. At the ends the slice
    itself stands in for the neighbour that is missing.

    Parameters
    ----------
    logits
        Of each slice of one stack, in order. One more than was given back has been
        asked for: three are held at a time.
    """
    stack = iter(logits)
    here = next(stack, None)
    if here is None:
        return
    before = here
    for after in stack:
        yield _mean(before, here, after)
        before, here = here, after
    yield _mean(before, here, here)


def _mean(before: SliceLogits, here: SliceLogits, after: SliceLogits) -> SliceLogits:
    # Slices are interpolated alike, so that it may come before that.
    planes = 0.25 * before.planes + 0.5 * here.planes + 0.25 * after.planes
    return here.with_planes(planes)


def is_smoothed(smoothing: Switch, volume: Volume, axis: int) -> bool:
    """Whether the slices of a volume across `axis` are to be smoothed.

    With ``auto`` they are where :func:`neighbours_resemble` says so.
    """
    if smoothing == "auto":
        return neighbours_resemble(volume, axis)
    return smoothing == "on"


def neighbours_resemble(volume: Volume, axis: int) -> bool:
    """Tell whether slices that lie side by side belong together.

    They do if they differ clearly less than slices half the stack apart: in a scan, but
    not in a stack of single images. A few slices are looked at.

    Parameters
    ----------
    volume
        The image.
    axis
        The axis of (z, y, x) that it is sliced along.
    """
    total = volume.shape[axis]
    if volume.is_2d or total < 4:
        return False
    starts = np.unique(np.linspace(0, total - 2, _PLACES).round().astype(int))
    near, far = [], []
    for start in starts:
        here = _thinned(volume, axis, start)
        near.append(np.abs(here - _thinned(volume, axis, start + 1)).mean())
        opposite = (start + total // 2) % total
        far.append(np.abs(here - _thinned(volume, axis, opposite)).mean())
    return bool(np.mean(near) < _MOST_DIFFERENT * np.mean(far))


def _thinned(volume: Volume, axis: int, index: int) -> NDArray[np.float32]:
    """Give at most 64 x 64 pixels of a slice, evenly spread."""
    picked = volume.slice(axis, index)
    rows, cols = (max(1, n // _POINTS) for n in picked.shape[:2])
    return picked[::rows, ::cols].astype(np.float32)

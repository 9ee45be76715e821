"""The intensities of an image that mean something: neither padding nor markers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from medsaga.data.on_demand import remembered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsaga.data.volume import Volume

SAMPLE_SIZE = 1_000_000
"""Voxels that are looked at."""

# What programs write where there is nothing: the ends of the types, and some numbers.
_MARKERS = np.array(
    [-32768, -32767, 32767, 65535, -9999, -99999, 99999, 2**31 - 1, -(2**31), 2**32 - 1]
)
_FEWEST_LEVELS, _FEWEST_BESIDE = 16, 3
_LARGEST_MEASURED = 1e15
# How many times the range of all other values a marker lies beyond them. Any value that
# lies so far away that the others would become one grey is taken for one, but for what
# CT and cameras of 12 bits give: air, and what is saturated.
_GAP, _GAP_OF_OTHERS, _SMALLEST_OTHER = 1, 10, 4096


def sample_values(volume: Volume, most: int = SAMPLE_SIZE) -> NDArray[np.float64]:
    """Give finite intensities on a regular grid of about so many voxels at most.

    The longest side is thinned first, so that of a few large slices none is left out.
    Padding and markers such as -32768 or 1e20 are left out.
    """
    return remembered(
        volume.array,
        ("sample", most),
        lambda: without_markers(_sample(volume, most)),
    )


def extremes(volume: Volume, most: int = SAMPLE_SIZE) -> tuple[float, float]:
    """Give the smallest and the largest intensity; (0, 0) where none is finite.

    Where there are markers, of a sample of about `most` voxels.
    """
    return remembered(
        volume.array, ("extremes", most), lambda: _find_extremes(volume, most)
    )


def _find_extremes(volume: Volume, most: int) -> tuple[float, float]:
    ends = _extremes(volume)
    values = without_markers(np.append(_sample(volume, most), ends))
    return float(values.min()), float(values.max())


def without_markers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out a single value at either end that lies far beyond all others."""
    while values.size:
        markers = [e for e in (values.min(), values.max()) if _is_far(e, values)]
        if not markers:
            break
        values = values[values != markers[0]]
    return values


def _is_far(end: float, values: NDArray[np.float64]) -> bool:
    others = values[(values != end) & ~_may_mark(values)]
    if not others.size:
        return False
    low, high = float(others.min()), float(others.max())
    gap, span = max(low - end, end - high), high - low
    # Of few values each may mean something, as in a phantom or a mask; but no marker.
    if _may_mark(np.array([end]))[0]:
        is_far, fewest = gap > _GAP * span > 0, _FEWEST_BESIDE
    else:
        is_far = abs(end) >= _SMALLEST_OTHER and gap > _GAP_OF_OTHERS * span > 0
        fewest = _FEWEST_LEVELS
    return is_far and np.unique(others).size >= fewest


def _may_mark(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isin(values, _MARKERS) | (np.abs(values) >= _LARGEST_MEASURED)


def _sample(volume: Volume, most: int) -> NDArray[np.float64]:
    steps, sides = [1, 1, 1], list(volume.shape)
    while math.prod(sides) > most:
        longest = sides.index(max(sides))
        steps[longest] += 1
        sides[longest] = math.ceil(volume.shape[longest] / steps[longest])
    values = np.asarray(volume.array[tuple(slice(None, None, step) for step in steps)])
    values = values.astype(np.float64).ravel()
    finite: NDArray[np.float64] = values[np.isfinite(values)]
    return finite


def _extremes(volume: Volume) -> tuple[float, float]:
    low, high = float(volume.array.min()), float(volume.array.max())
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    array = np.asarray(volume.array)
    values = array[np.isfinite(array)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)

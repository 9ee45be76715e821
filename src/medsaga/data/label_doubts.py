"""Labels that are hardly meant as classes: numbers of objects, smoothed masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from medsaga.metrics import share_of_equal_neighbours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medsaga.data.annotation import Annotation
    from medsaga.data.volume import Volume

# An object's number is on one slice or a few, and there it is one small blob.
_FEWEST_OBJECTS, _MOST_SLICES_EACH, _LARGEST_SHARE = 12, 3.5, 0.02
_ONE_BLOB = 0.9
# Of neighbours in a mask nearly all are equal.
_LEAST_EQUAL = 0.5
# What programs for pictures mark with, by their bits.
_WHITE = (255, 65535)
# Of a smoothed mask the values between 0 and its own are at its edge.
_FEWEST_STEPS, _AT_EDGE, _MOST_BETWEEN, _EDGE_WIDTH = 8, 0.95, 0.9, 2


def label_doubts(labels: Sequence[Volume], annotation: Annotation) -> list[str]:
    """Ask, one sentence each, what labels on the annotated slices are likely to be."""
    slices = [
        annotation.read(labels[volume], index).values
        for volume, index in annotation.slices
    ]
    if not slices:
        return []
    doubts = (_numbered_objects(slices), _steps(slices), _two_ones(labels))
    return [doubt for doubt in doubts if doubt is not None]


def _numbered_objects(slices: Sequence[NDArray[np.integer]]) -> str | None:
    shown = [np.unique(one[one != 0]) for one in slices]
    values = np.unique(np.concatenate(shown))
    n_shown = sum(map(len, shown))
    if len(values) < _FEWEST_OBJECTS or n_shown > _MOST_SLICES_EACH * len(values):
        return None
    shares, n_single = [], 0
    for one, those in zip(slices, shown, strict=True):
        ranks = np.searchsorted(those, one, side="right") * (one != 0)
        places = ndimage.find_objects(ranks)
        for value, place in zip(those, places, strict=True):
            blob = one[place] == value
            shares.append(np.count_nonzero(blob) / one.size)
            n_single += ndimage.label(blob, np.ones((3, 3)))[1] == 1
    if n_single < _ONE_BLOB * n_shown or np.median(shares) > _LARGEST_SHARE:
        return None
    return (
        f"The labels hold {len(values)} values, nearly each of them one small blob: "
        "are they the numbers of single objects? Then give all objects of a kind one "
        "value, such as 1, or each becomes a class of its own."
    )


def _steps(slices: Sequence[NDArray[np.integer]]) -> str | None:
    """Notice many values that are steps between others, at edges or everywhere."""
    painted = np.concatenate([one[one != 0] for one in slices])
    values, counts = np.unique(painted, return_counts=True)
    if len(values) <= _FEWEST_STEPS:
        return None
    return _smoothed(slices, values, counts) or _changing(slices, len(values))


def _smoothed(
    slices: Sequence[NDArray[np.integer]],
    values: NDArray[np.integer],
    counts: NDArray[np.integer],
) -> str | None:
    """Notice a mask that was smoothed: all its values but one lie along edges."""
    full = values[counts.argmax()]
    if full != values[-1] or values[0] < 0:
        return None
    n_painted = int(counts.sum())
    n_between = n_painted - int(counts.max())
    n_at_edge = 0
    for one in slices:
        between = (one != 0) & (one != full)
        ends = ndimage.binary_dilation(
            ~between, np.ones((3, 3)), iterations=_EDGE_WIDTH
        )
        n_at_edge += int(np.count_nonzero(between & ends))
    is_rim = n_at_edge >= _AT_EDGE * n_between
    if not is_rim or n_between > _MOST_BETWEEN * n_painted:
        return None
    return (
        f"The labels hold {len(values)} values, all but {full} along edges: is this a "
        "mask that was smoothed or resized? Then save it without that, with nearest "
        "neighbours, or each value becomes a class."
    )


def _changing(slices: Sequence[NDArray[np.integer]], n_values: int) -> str | None:
    """Notice what has no areas: a mask smoothed widely, or an image."""
    shares = [share_of_equal_neighbours(one) for one in slices]
    weights = [np.count_nonzero(one) for one in slices]
    if np.average(shares, weights=weights) >= _LEAST_EQUAL:
        return None
    return (
        f"The labels hold {n_values} values that change from pixel to pixel: is "
        "this a mask that was smoothed, or an image? Then save it with one value for "
        "each class, or each value becomes a class."
    )


def _two_ones(labels: Sequence[Volume]) -> str | None:
    """Notice masks of one class that name it differently, such as 1 and 255."""
    if len(labels) < 2:
        return None
    named: dict[int, str] = {}
    for volume in labels:
        array = np.asarray(volume.array)
        low, high = int(array.min()), int(array.max())
        n_ends = np.count_nonzero((array == 0) | (array == high))
        if low == 0 < high and n_ends == array.size:
            named.setdefault(high, volume.name)
    white = next((value for value in _WHITE if value in named), None)
    if white is None or 1 not in named:
        return None
    return (
        f"{named[1]} marks with the value 1 and {named[white]} with {white}: if that "
        "is one class, save both with one value, or it becomes two."
    )

"""Cleaning of a finished mask: islands of a class taken away, holes in it filled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from medsaga.settings.segment import SegmentSettings

_Box = tuple[slice, ...]


def clean_mask(
    mask: NDArray[np.integer], values: Iterable[int], settings: SegmentSettings
) -> NDArray[np.integer]:
    """Give a mask as it is, or cleaned as the settings ask for.

    Parameters
    ----------
    mask
        (z, y, x) label values, 0 is background; one slice alone is cleaned in 2-D.
    values
        The classes to clean.
    settings
        Whether to keep the largest component, and whether to fill holes: in this order,
        so that holes which an island of another class leaves are filled too.
    """
    values = tuple(values)
    if settings.largest_component:
        mask = keep_largest_components(mask, values)
    if settings.fill_holes:
        mask = fill_holes(mask, values)
    return mask


def keep_largest_components(
    mask: NDArray[np.integer], values: Iterable[int]
) -> NDArray[np.integer]:
    """Give a mask with only the largest connected component of each class.

    Voxels that touch by a face, an edge or a corner are connected. Of two equally large
    components the first one stays. The others become background.

    Parameters
    ----------
    mask
        (z, y, x) label values, 0 is background.
    values
        The classes; others are left as they are.
    """
    kept = mask.copy()
    for value in values:
        box = _box_of(mask, value)
        if box is None:
            continue
        inside = mask[box] == value
        touching = ndimage.generate_binary_structure(inside.ndim, inside.ndim)
        components, _ = ndimage.label(inside, touching)
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        kept[box][inside & (components != sizes.argmax())] = 0
    return kept


def fill_holes(mask: NDArray[np.integer], values: Iterable[int]) -> NDArray[np.integer]:
    """Give a mask whose classes have no holes of background.

    A hole of a class is what it encloses: no way along faces leads out of it to the
    border of the mask. Of a hole only the background is filled, other classes in it
    stay. What several classes enclose goes to the innermost, the one with the smallest
    hole there; on a tie to the first.

    Parameters
    ----------
    mask
        (z, y, x) label values, 0 is background. A mask of one slice is filled in 2-D.
    values
        The classes; others are left as they are.
    """
    filled = mask.copy()
    # Across a single slice every hole would be open.
    thin = mask.shape.index(1) if 1 in mask.shape else ()
    flat = filled.squeeze(thin)
    holes = [hole for value in values for hole in _holes_of(mask.squeeze(thin), value)]
    for _, value, box, hole in sorted(holes, key=lambda found: found[0]):
        flat[box][hole & (flat[box] == 0)] = value
    return filled


def _holes_of(
    mask: NDArray[np.integer], value: int
) -> list[tuple[int, int, _Box, NDArray[np.bool_]]]:
    """Give the holes of a class: their size, the class, where and which voxels."""
    around = _box_of(mask, value)
    if around is None:
        return []
    inside = mask[around] == value
    enclosed = ndimage.binary_fill_holes(inside) & ~inside
    numbered, _ = ndimage.label(enclosed)
    holes = []
    for number, box in enumerate(ndimage.find_objects(numbered), 1):
        hole = numbered[box] == number
        holes.append((int(hole.sum()), value, _within(around, box), hole))
    return holes


def _box_of(mask: NDArray[np.integer], value: int) -> _Box | None:
    """Give the smallest box that holds a class; None where there is none of it."""
    inside = mask == value
    axes = range(mask.ndim)
    box: list[slice] = []
    for axis in axes:
        others = tuple(other for other in axes if other != axis)
        found = np.flatnonzero(inside.any(axis=others))
        if not found.size:
            return None
        box.append(slice(int(found[0]), int(found[-1]) + 1))
        inside = inside[(slice(None),) * axis + (box[-1],)]
    return tuple(box)


def _within(around: _Box, box: _Box) -> _Box:
    """Give a box that is counted within another one as one of the whole."""
    return tuple(
        slice(outer.start + inner.start, outer.start + inner.stop)
        for outer, inner in zip(around, box, strict=True)
    )

"""Signed distances: how far a pixel lies inside a class, in mm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsaga.data.canvas import Spacing
    from medsaga.propagation.frame import Frame
    from medsaga.propagation.paint import Paint

# How far outside a class distances count, in its widest half width. Where a class is
# gone it has this much against it everywhere, so that between a slice with it and one
# without it its widest part vanishes some two thirds of the way. Distances without such
# a limit let it vanish at once: mean Dice over 19 tasks .862 in place of .880.
_OUTSIDE = 0.4
_LEAST_WIDTH = 1e-3
_FAR = -60_000.0  # what half precision holds


def signed_distances(
    paint: Paint, frame: Frame, spacing: Spacing | None
) -> tuple[dict[int, NDArray[np.float16]], NDArray[np.float32]]:
    """Give the signed distances of every class on each painted slice.

    Parameters
    ----------
    paint
        The slices.
    frame
        Where, and on which grid.
    spacing
        Size of a pixel in mm along rows and columns; None counts in pixels.

    Returns
    -------
    distances : dict
        (k, height, width) by slice, in the order of `paint.values`: mm to the class's
        boundary, positive inside. In half precision, as there may be many of them; near
        a boundary that is exact enough.
    least : array
        (k,): what no distance lies below, which depends on how wide a class is.
    """
    side, distances = spacing or (1.0, 1.0), {}
    deepest = np.full(len(paint.values), _LEAST_WIDTH, np.float32)
    for index, found in sorted(paint.slices.items()):
        cut = frame.cut(found)
        maps = [_signed_distance(cut == value, side) for value in paint.values]
        deepest = np.maximum(deepest, [one.max() for one in maps])
        on_grid = [frame.to_grid(one).astype(np.float16) for one in maps]
        distances[index] = np.stack(on_grid)
    least = -_OUTSIDE * deepest
    for grid in distances.values():
        np.maximum(grid, least[:, None, None].astype(np.float16), out=grid)
    return distances, least.astype(np.float32)


def _signed_distance(mask: NDArray[np.bool_], side: Spacing) -> NDArray[Any]:
    """Give mm to the mask's boundary, positive inside; without a mask far outside."""
    if not mask.any():
        return np.full(mask.shape, _FAR, np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling=side)
    outside = ndimage.distance_transform_edt(~mask, sampling=side)
    distance: NDArray[Any] = (inside - outside).astype(np.float32)
    return distance

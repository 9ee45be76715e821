"""How fine the structures are that were painted."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from medsaga.data.annotation import iterate_slices
from medsaga.data.canvas import physical_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medsaga.data.annotation import Annotation
    from medsaga.data.volume import Volume


def finest_width(
    images: Sequence[Volume], labels: Sequence[Volume], annotation: Annotation
) -> float | None:
    """Measure how wide the finest class is, as part of a slice's long side.

    The width of a class is four times its area divided by its circumference, both
    summed over the annotated slices: the diameter of its parts if they are discs, twice
    the thickness if they are lines. The circumference is pi / 4 of the pixel sides
    along it, which is right in the mean over all directions.

    Parameters
    ----------
    images, labels
        Pairs of the same shape.
    annotation
        Which slices are annotated.

    Returns
    -------
    float or None
        None where nothing is known of widths: strokes have but the brush's, and a class
        without an edge has none.
    """
    if annotation.background_value is not None:
        return None
    areas: defaultdict[int, float] = defaultdict(float)
    outlines: defaultdict[int, float] = defaultdict(float)
    said = iterate_slices(labels, annotation)
    for (v, _), label in zip(annotation.slices, said, strict=True):
        painted = label.values
        rows, cols = painted.shape
        spacing = images[v].slice_spacing(annotation.axis)
        shape = physical_shape(rows, cols, spacing)
        height, width = (side / max(shape) for side in shape)
        row, col = height / rows, width / cols
        _add(areas, painted[painted != 0], row * col)
        _add(outlines, _beside_an_edge(painted), col)
        _add(outlines, _beside_an_edge(painted.T), row)
    widths = [
        4 * areas[value] / (outline * math.pi / 4)
        for value, outline in outlines.items()
        if value
    ]
    return min(widths, default=None)


def _beside_an_edge(painted: NDArray[np.generic]) -> NDArray[np.generic]:
    """Give both values wherever a row's differs from the next row's."""
    above, below = painted[:-1], painted[1:]
    differs = above != below
    return np.concatenate([above[differs], below[differs]])


def _add(
    sums: defaultdict[int, float], values: NDArray[np.generic], weight: float
) -> None:
    for value, number in zip(*np.unique(values, return_counts=True), strict=True):
        sums[int(value)] += float(number) * weight

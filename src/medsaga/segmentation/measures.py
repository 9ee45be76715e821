"""How much of each class a mask holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsaga.data.volume import slice_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsaga.data.volume import Volume

_MM3_PER_ML = 1000.0


@dataclass(frozen=True, kw_only=True)
class ClassMeasure:
    """How much there is of one class.

    Attributes
    ----------
    value
        Of the label.
    n_voxels
        Voxels, or pixels of a 2-D image.
    n_slices
        Slices that show it.
    size
        Millilitres of a volume, square millimetres of a 2-D image; None where the
        spacing is not known.
    """

    value: int
    n_voxels: int
    n_slices: int
    size: float | None


def measure_classes(
    mask: Volume, values: Sequence[int], axis: int = 0
) -> tuple[ClassMeasure, ...]:
    """Measure the classes of a mask, slice by slice.

    Parameters
    ----------
    mask
        Label values (z, y, x).
    values
        Those of the classes, without background.
    axis
        The axis that slices are counted along.
    """
    n_voxels = np.zeros(len(values), np.int64)
    n_slices = np.zeros(len(values), np.int64)
    for index in range(mask.shape[axis]):
        here = np.asarray(mask.array[slice_place(axis, index)])
        counted = np.array([np.count_nonzero(here == value) for value in values])
        n_voxels += counted
        n_slices += counted > 0
    of_one = _size_of_voxel(mask)
    return tuple(
        ClassMeasure(
            value=value,
            n_voxels=int(n),
            n_slices=int(slices),
            size=None if of_one is None else float(n) * of_one,
        )
        for value, n, slices in zip(values, n_voxels, n_slices, strict=True)
    )


def _size_of_voxel(mask: Volume) -> float | None:
    if mask.spacing is None:
        return None
    if mask.is_2d:
        return mask.spacing[1] * mask.spacing[2]
    return math.prod(mask.spacing) / _MM3_PER_ML

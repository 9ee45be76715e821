"""Whole numbers in the smallest type that holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Torch can do little with the unsigned types beside the first.
_KINDS = (np.uint8, np.int16, np.int32, np.int64, np.uint64)


def smallest_integers(array: NDArray[Any]) -> NDArray[Any]:
    """Copy whole numbers, or a mask, in C order as the smallest type that holds them.

    A mask stays one, and what is not whole keeps its type.
    """
    if array.dtype == bool:
        return np.array(array, order="C")
    ends = (array.min(), array.max()) if array.size else (0, 0)
    fitting = (k for k in _KINDS if all(end == np.array(end).astype(k) for end in ends))
    kind = next(fitting, array.dtype)
    return np.array(array, dtype=kind, order="C")

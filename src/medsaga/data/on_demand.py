"""Arrays of many files: read when they are asked for, in the memory of a few."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from numpy.typing import DTypeLike, NDArray

_Found = TypeVar("_Found")
# Of the memory that is free when the first file is read.
_HELD_SHARE = 1 / 8
# What is found out about an array and is larger than this is not remembered.
_LARGEST_REMEMBERED = 2**17


class HeldArrays:
    """The arrays that were used last, up to so many bytes; one at least.

    Parameters
    ----------
    most
        Bytes that they may take; None allows an eighth of what is free now.
    """

    def __init__(self, most: int | None = None) -> None:
        free = psutil.virtual_memory().available
        self._most = int(_HELD_SHARE * free) if most is None else most
        self._arrays: OrderedDict[object, NDArray[Any]] = OrderedDict()

    def hold(self, key: object, array: NDArray[Any]) -> None:
        """Hold an array, and let go of those that were not used for longest."""
        self._arrays[key] = array
        self._arrays.move_to_end(key)
        while len(self._arrays) > 1 and self._n_bytes() > self._most:
            self._arrays.popitem(last=False)

    def get(self, key: object) -> NDArray[Any] | None:
        """Give what is held under a key, if it still is."""
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def _n_bytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())


class ArrayOnDemand:
    """An array that is made anew when it is asked for and is held no more.

    Parameters
    ----------
    make
        Makes it.
    array
        What it made now.
    held
        Where it is held while there is room.

    Attributes
    ----------
    shape, dtype, ndim, size
        As of the array.
    """

    def __init__(
        self, make: Callable[[], NDArray[Any]], array: NDArray[Any], held: HeldArrays
    ) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self.ndim, self.size = array.ndim, array.size
        self._make, self._held = make, held
        self._key = object()  # an id would be another array's once this one is gone
        self._slices: dict[tuple[int, int], NDArray[Any]] = {}
        self._remembered: dict[Hashable, Any] = {}
        held.hold(self._key, array)

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        array = self._whole()
        return np.array(array, dtype=dtype) if copy else np.asarray(array, dtype=dtype)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, place: Any) -> NDArray[Any]:
        kept = self._slices.get(_named(place))
        found: NDArray[Any] = self._whole()[place] if kept is None else kept
        return found

    def min(self) -> Any:
        """Give the smallest value."""
        return self._whole().min()

    def max(self) -> Any:
        """Give the largest value."""
        return self._whole().max()

    def keep_slices(self, places: Iterable[tuple[slice | int, ...]]) -> None:
        """Keep the slices that the array is indexed with by these."""
        self._slices.update({_named(place): np.array(self[place]) for place in places})

    def forget_slices(self) -> None:
        """Let go of all slices that are kept."""
        self._slices.clear()

    def remember(self, key: Hashable, find: Callable[[], _Found]) -> _Found:
        """Give what `find` finds out about the array, the second time from memory."""
        if key in self._remembered:
            return cast("_Found", self._remembered[key])
        found = find()
        if getattr(found, "nbytes", 0) <= _LARGEST_REMEMBERED:
            self._remembered[key] = found
        return found

    def _whole(self) -> NDArray[Any]:
        array = self._held.get(self._key)
        if array is None:
            array = self._make()
            self._held.hold(self._key, array)
        return array


def remembered(array: Any, key: Hashable, find: Callable[[], _Found]) -> _Found:
    """Find something out about an array, of one on demand but once."""
    if isinstance(array, ArrayOnDemand):
        return array.remember(key, find)
    return find()


def _named(place: Any) -> tuple[int, int]:
    """Name the slice that an array is indexed with; (-1, -1) where it is none."""
    parts = place if isinstance(place, tuple) else (place,)
    *before, last = parts or (None,)
    is_whole = all(isinstance(p, slice) and p == slice(None) for p in before)
    if is_whole and isinstance(last, (int, np.integer)) and last >= 0:
        return len(before), int(last)
    return -1, -1

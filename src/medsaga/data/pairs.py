"""Pairs of files, read one after the other: of many, what trains is kept alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from medsaga.data.annotation import labelled_slices
from medsaga.data.files import read_volume
from medsaga.data.intensity.doubts import remember_values
from medsaga.data.matching import match_labels
from medsaga.data.on_demand import ArrayOnDemand, HeldArrays
from medsaga.data.volume import slice_place
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from medsaga.data.volume import Volume


@dataclass(frozen=True, kw_only=True)
class WantedSlices:
    """What is going to be asked of images and labels that are read on demand.

    Another slice takes another reading of its file.

    Attributes
    ----------
    axis
        Slices across this axis of (z, y, x); None for the one with the fewest labels.
    indices
        Of those with a label these alone; None for all.
    besides
        Those without a label that train too.
    with_neighbours
        Of the images those below and above as well.
    """

    axis: int | None = None
    indices: Sequence[int] | None = None
    besides: Sequence[int] = ()
    with_neighbours: bool = False

    def places(
        self, labels: Volume
    ) -> tuple[list[tuple[slice | int, ...]], list[tuple[slice | int, ...]]]:
        """Give where the slices are in an image's labels, and where in the image."""
        flags = labelled_slices(labels)
        axis = self.axis
        if axis is None:
            axis = min(range(3), key=lambda a: int(flags[a].sum()))
        last = len(flags[axis]) - 1
        found = {int(i) for i in np.flatnonzero(flags[axis])}
        if self.indices is not None:
            found = set(self.indices)
        found = {int(i) for i in found | set(self.besides) if 0 <= i <= last}
        seen = found
        if self.with_neighbours:
            seen = {min(max(i + d, 0), last) for i in found for d in (-1, 0, 1)}
        in_labels, in_image = sorted(found), sorted(seen)
        return (
            [slice_place(axis, i) for i in in_labels],
            [slice_place(axis, i) for i in in_image],
        )


ALL_SLICES = WantedSlices()


class PairReader:
    """Reads pairs of image and labels, each file once.

    Of several files the slices that train are kept alone, with what is asked of the
    intensities. Labels are kept packed beside them; an image is read again when another
    part of it is asked for.

    Parameters
    ----------
    n_pairs
        How many there are.
    wanted
        Which slices to keep.

    Attributes
    ----------
    images, labels
        What was read, pair by pair.
    doubts
        A sentence for each pair of which it is not sure that it fits.
    """

    def __init__(self, n_pairs: int, wanted: WantedSlices) -> None:
        self._held = HeldArrays() if n_pairs > 1 else None
        self._wanted = wanted
        self._names: set[str] = set()
        self.images: list[Volume] = []
        self.labels: list[Volume] = []
        self.doubts: list[str] = []

    def take(self, image: Volume | Path, labels: Volume, *, packs: bool) -> None:
        """Read an image, and put the labels on its grid; `packs` says whether to pack.

        Raises
        ------
        MedsagaError
            If it cannot be read, or the two do not fit together.
        """
        volume = read_volume(image) if isinstance(image, Path) else image
        labels, doubt = match_labels(volume, labels)
        self.doubts += [] if doubt is None else [doubt]
        if self._held is not None and packs:
            packed = _packed_on_demand(labels.array, self._held)
            labels = replace(labels, array=cast("NDArray[Any]", packed))
            packed.keep_slices(self._wanted.places(labels)[0])
        if self._held is not None and isinstance(image, Path):
            array = _file_on_demand(image, volume, self._held)
            volume = replace(volume, array=cast("NDArray[Any]", array))
            array.keep_slices(self._wanted.places(labels)[1])
            remember_values(volume)
        self.images.append(self._told_apart(volume))
        self.labels.append(labels)

    def _told_apart(self, volume: Volume) -> Volume:
        """Give one of a name that is taken a number: slices are known by names."""
        name, number = volume.name, 1
        while name in self._names:
            number += 1
            name = f"{volume.name} ({number})"
        self._names.add(name)
        return replace(volume, name=name)


def forget_slices(volumes: Iterable[Volume]) -> None:
    """Let go of the slices that are kept of what is read on demand."""
    for volume in volumes:
        array: Any = volume.array
        if isinstance(array, ArrayOnDemand):
            array.forget_slices()


def _file_on_demand(path: Path, image: Volume, held: HeldArrays) -> ArrayOnDemand:
    was = _state(path)

    def read() -> NDArray[Any]:
        if path.is_file() and _state(path) != was:
            raise MedsagaError(
                f"{path.name} has changed since it was first read: start again."
            )
        return read_volume(path).array

    return ArrayOnDemand(read, image.array, held)


def _packed_on_demand(labels: NDArray[Any], held: HeldArrays) -> ArrayOnDemand:
    packed = zlib.compress(np.ascontiguousarray(labels).data, level=1)
    shape, dtype = labels.shape, labels.dtype

    def unpack() -> NDArray[Any]:
        return np.frombuffer(zlib.decompress(packed), dtype).reshape(shape)

    return ArrayOnDemand(unpack, labels, held)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns

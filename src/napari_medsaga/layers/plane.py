"""The slice that a viewer shows: where one points on it, and paint put onto it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medsaga import MedsagaError
from napari_medsaga.layers.convert import (
    array_of,
    index_on,
    mirrored_against,
    place_on,
    seen_at,
    shape_of,
    slice_shown,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari import Viewer
    from napari.layers import Image, Labels, Layer
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Plane:
    """A slice of an image, in the axes (z, y, x) of its volume.

    Attributes
    ----------
    axis, index
        Slice `index` across `axis`; of a 2-D image the only one there is.
    is_2d
        Whether the image has two axes.
    """

    axis: int
    index: int
    is_2d: bool = False

    @classmethod
    def shown(cls, viewer: Viewer, image: Image) -> Plane | None:
        """Give the one that the viewer shows; None where it shows three dimensions."""
        dims = viewer.dims
        first = dims.ndim - image.ndim
        across = [a - first for a in dims.not_displayed if a >= first]
        if dims.ndisplay != 2 or len(across) != image.ndim - 2:
            return None
        if not across:
            return cls(0, 0, is_2d=True)
        return cls(across[0], slice_shown(viewer, image, across[0]))

    def position(
        self, viewer: Viewer, image: Layer, world: Sequence[float]
    ) -> tuple[float, float]:
        """Give row and column of a place in the viewer's world.

        The first pixel runs from 0 to 1.
        """
        place = place_on(viewer, image, world)
        across = () if self.is_2d else (self.axis,)
        row, column = (place[a] + 0.5 for a in range(image.ndim) if a not in across)
        return float(row), float(column)

    def outline(self, image: Layer, corners: NDArray[Any]) -> NDArray[Any]:
        """Give (n, 2) rows and columns as points in the array's axes of the image."""
        points = np.asarray(corners, float) - 0.5
        return points if self.is_2d else np.insert(points, self.axis, self.index, 1)

    def labels_place(self, labels: Labels, image: Image) -> tuple[Any, ...]:
        """Give what a Labels layer on the image is indexed with for this slice.

        What it gives is a view (rows, columns), turned as the image's slice is.

        Raises
        ------
        MedsagaError
            If the layer does not lie on the image.
        """
        mirrored = None
        if shape_of(labels) == shape_of(image):
            mirrored = mirrored_against(labels, image)
        if mirrored is None:
            raise MedsagaError(
                f"{labels.name} does not lie on {image.name}: choose labels that were "
                "painted on it."
            )
        turned = [slice(None, None, -1 if a in mirrored else 1) for a in range(3)]
        if self.is_2d:
            return tuple(turned[:2])
        index = index_on(image, labels, self.axis, self.index)
        return (*turned[: self.axis], index, *turned[self.axis + 1 :])


def limits_shown(image: Image) -> tuple[float, float] | None:
    """Give the intensities that are shown black and white; None of colours."""
    if image.rgb or image.contrast_limits is None:
        return None
    low, high = image.contrast_limits
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class Painted:
    """What was painted at once, and what was there before.

    `indices` are those of a Labels layer's array.
    """

    labels: Labels
    indices: tuple[NDArray[np.intp], ...]
    before: NDArray[Any]
    value: NDArray[Any]

    @property
    def n_pixels(self) -> int:
        """How many pixels became others."""
        return len(self.before)

    def take_back(self) -> None:
        """Put back what was there, where nothing else was painted since."""
        same = np.asarray(self.labels.data[self.indices]) == self.value
        indices = tuple(axis[same] for axis in self.indices)
        if same.any():
            self.labels.data_setitem(indices, self.before[same])


def paint(
    labels: Labels,
    image: Image,
    plane: Plane,
    mask: NDArray[np.bool_],
    values: NDArray[Any] | int,
) -> Painted:
    """Paint pixels of a slice, as one step that the layer can undo.

    What carries another label stays while the layer preserves labels.

    Parameters
    ----------
    labels, image
        The layer, and the image that it lies on.
    plane
        The slice.
    mask
        (rows, columns), in the image's order.
    values
        Of the pixels in the mask: one, or (rows, columns).

    Raises
    ------
    MedsagaError
        If the layer does not lie on the image, or cannot hold a value.
    """
    place = plane.labels_place(labels, image)
    array = array_of(labels)
    values = np.broadcast_to(np.asarray(values), mask.shape)
    _check_values(labels, values[mask])
    here = np.asarray(array[place])
    changed = mask & (here != values)
    if labels.preserve_labels:
        changed &= here == 0
    indices = _indices(array.shape, place, changed)
    new = values[changed].astype(array.dtype)
    found = Painted(labels, indices, here[changed].copy(), new)
    if found.n_pixels:
        labels.data_setitem(indices, new)
    return found


def _check_values(labels: Labels, values: NDArray[Any]) -> None:
    info = np.iinfo(array_of(labels).dtype)
    if values.size and (values.max() > info.max or values.min() < info.min):
        raise MedsagaError(
            f"{labels.name} holds label values from {info.min} to {info.max}: use a "
            "layer of another type, or smaller values."
        )


def _indices(
    shape: tuple[int, ...], place: tuple[Any, ...], chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], ...]:
    """Give the array's indices of the pixels that are chosen of a view of it."""
    within = iter(np.nonzero(chosen))
    n_chosen = int(chosen.sum())
    indices = []
    for size, part in zip(shape, place, strict=True):
        if isinstance(part, slice):
            along = next(within)
            indices.append(size - 1 - along if part.step == -1 else along)
        else:
            indices.append(np.full(n_chosen, part, np.intp))
    return tuple(indices)


def go_to(viewer: Viewer, image: Image, axis: int, index: int) -> None:
    """Look at a slice, in the plane that is cut along its axis.

    Parameters
    ----------
    viewer
        The viewer.
    image
        An image of three axes; of another one nothing happens.
    axis, index
        Slice `index` across `axis`.
    """
    if image.ndim != 3:
        return
    place, dims = seen_at(viewer, image, axis, index), viewer.dims
    across = dims.ndim - image.ndim + axis
    if across in dims.displayed and dims.ndisplay == 2:
        dims.order = (across, *(a for a in dims.order if a != across))
    # All of them: in a layer that is turned the others say too which slice it is.
    dims.set_point(range(dims.ndim - image.ndim, dims.ndim), place)

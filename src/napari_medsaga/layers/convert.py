"""napari layers to the engine's volumes and back: the only place that knows both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from medsaga import MedsagaError, Volume, volume_from_array
from napari_medsaga.layers.label_classes import (
    class_colours,
    class_names,
    labels_options,
    rename_classes,
)
from napari_medsaga.layers.place import (
    Place,
    geometry_of,
    mirrored_axes,
    mm_per,
    place_of,
    place_options,
    ratios,
    world_affine,
    world_in_mm,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari import Viewer
    from napari.layers import Layer
    from numpy.typing import NDArray

__all__ = [
    "LayerDataTuple",
    "Place",
    "array_of",
    "as_image",
    "as_labels",
    "class_colours",
    "class_names",
    "geometry_of",
    "index_on",
    "labels_on",
    "labels_options",
    "lies_on",
    "mirrored_against",
    "place_of",
    "place_on",
    "place_options",
    "rename_classes",
    "seen_at",
    "shape_of",
    "slice_shown",
    "unused_name",
    "volume_of",
    "world_affine",
]

_CLASSES = "medsaga_classes"

LayerDataTuple = tuple[Any, dict[str, Any], str]


def array_of(layer: Layer) -> Any:
    """Give a layer's array at full resolution, lazy where the layer's is."""
    return layer.data[0] if layer.multiscale else layer.data


def shape_of(layer: Layer) -> tuple[int, ...]:
    """Give the shape of a layer in its own axes, without colour channels."""
    return tuple(array_of(layer).shape[: layer.ndim])


def volume_of(layer: Layer) -> Volume:
    """Give a layer as a volume; nothing is copied or computed.

    Raises
    ------
    MedsagaError
        If the layer has other than two or three axes.
    """
    if layer.ndim not in (2, 3):
        raise MedsagaError(
            f"{layer.name} has {layer.ndim} axes: choose a layer with two or three, "
            "such as one time point or channel of it."
        )
    array = _like_numpy(array_of(layer))
    rgb = isinstance(layer, Image) and layer.rgb
    if array.dtype == bool:
        array = array.astype(np.uint8)
    spacing = _spacing_in_mm(layer)
    volume = volume_from_array(array, spacing=spacing, name=layer.name, rgb=rgb)
    place = place_of(layer)
    if place is None or not _still_holds(place, layer, volume.spacing):
        return volume
    return Volume(
        array=volume.array,
        affine=place.affine,
        spacing=place.spacing,
        name=layer.name,
        is_2d=place.is_2d,
        source=place.source,
    )


def _like_numpy(array: Any) -> Any:
    """Give an array that can do what numpy's can: napari takes anything with a shape.

    Such as zarr's and HDF5's, which read all of what is asked for at once.
    """
    if not hasattr(array, "ndim"):
        return np.asarray(array)
    if hasattr(array, "__array_function__"):
        return array
    import dask.array

    return dask.array.from_array(array)  # type: ignore[no-untyped-call]


def _still_holds(
    place: Place, layer: Layer, spacing: tuple[float, float, float] | None
) -> bool:
    """Whether a layer has neither been cropped nor rescaled since it was read."""
    if place.shape != shape_of(layer):
        return False
    if place.spacing is None or spacing is None:
        return place.spacing is spacing
    return np.allclose(place.spacing[place.is_2d :], spacing[place.is_2d :])


def lies_on(layer: Layer, other: Layer) -> bool:
    """Whether voxels of the same index lie on each other in two layers."""
    return shape_of(layer) == shape_of(other) and mirrored_against(layer, other) == ()


def mirrored_against(layer: Layer, other: Layer) -> tuple[int, ...] | None:
    """Give the axes along which a layer runs against another one of its shape.

    None where the voxels of the two do not lie on each other.
    """
    scale = np.diag([*ratios(layer.units, other.units), 1.0])
    matrix = np.linalg.inv(world_affine(other)) @ scale @ world_affine(layer)
    return mirrored_axes(matrix, shape_of(layer))


def labels_on(labels: Labels, image: Layer) -> Volume:
    """Give a Labels layer as a volume on the grid of an image; nothing is copied.

    Layers of one shape need not lie on each other: napari mirrors a new Labels layer
    against the images if several of them are selected. Labels that lie on the image
    have its place, whatever the file says that they were read from: what is seen
    trains. Another shape is left to `medsaga.frontend.check_pair`.

    Raises
    ------
    MedsagaError
        If the layers are of one shape but lie elsewhere, or have too many axes.
    """
    volume = volume_of(labels)
    if shape_of(labels) != shape_of(image):
        return volume
    mirrored = mirrored_against(labels, image)
    if mirrored is None:
        raise MedsagaError(
            f"{labels.name} does not lie on {image.name}: choose labels that were "
            "painted on it, or save them on its grid."
        )
    axes = tuple(axis + volume.is_2d for axis in mirrored)
    array = np.flip(volume.array, axes) if axes else volume.array
    return replace(volume_of(image), array=array, name=labels.name)


def _spacing_in_mm(layer: Layer) -> tuple[float, ...] | None:
    """Voxel size along the layer's axes; None where they are plain pixels."""
    lengths = np.linalg.norm(world_in_mm(layer)[:-1, :-1], axis=0)
    has_lengths = all(mm_per(unit) is not None for unit in layer.units)
    if not has_lengths and np.allclose(lengths, 1):
        return None
    return tuple(lengths.tolist())


def as_labels(layer: Image) -> LayerDataTuple:
    """Give an image as the Labels layer that it should have been opened as.

    Raises
    ------
    MedsagaError
        If it is a colour image or holds other than whole numbers.
    """
    if layer.rgb:
        raise MedsagaError(
            f"{layer.name} is a colour image: choose one with a whole number in each "
            "pixel, 0 for background."
        )
    array = np.asarray(array_of(layer))
    if array.dtype.kind not in "iu":
        array = _whole_numbers(array, layer.name)
    if not array.flags.writeable:
        array = array.copy()  # it is there to be painted on
    options = _same_but_type(layer)
    return array, options | options["metadata"].pop(_CLASSES, {}), "labels"


def as_image(layer: Labels) -> LayerDataTuple:
    """Give a Labels layer as the image that it should have been opened as.

    For the way back it carries names and colours of the classes.
    """
    options = _same_but_type(layer)
    classes = {"features": layer.features, "colormap": layer.colormap}
    options["metadata"][_CLASSES] = classes
    return array_of(layer), options, "image"


def _same_but_type(layer: Layer) -> dict[str, Any]:
    return geometry_of(layer) | {"name": layer.name, "metadata": dict(layer.metadata)}


def _whole_numbers(array: NDArray[Any], name: str) -> NDArray[np.integer]:
    if array.dtype.kind not in "bf" or not all(_are_whole(part) for part in array):
        raise MedsagaError(
            f"{name} holds values that are no whole numbers, as labels are: choose an "
            "image of labels."
        )
    if array.dtype == bool:
        return array.astype(np.uint8)
    small = np.abs(array).max() <= np.iinfo(np.int32).max
    return array.astype(np.int32 if small else np.int64)


def _are_whole(values: NDArray[Any]) -> bool:
    # Infinity is its own rounding, and floats count exactly only up to 2 ** 53.
    return bool((np.abs(values) <= 2.0**53).all() and (values == np.rint(values)).all())


def slice_shown(viewer: Viewer, layer: Layer, axis: int) -> int:
    """Give the index of the slice along a layer's axis that the viewer stands at."""
    if len(viewer.dims.point) < layer.ndim:
        return 0
    index = round(float(place_on(viewer, layer, viewer.dims.point)[axis]))
    return int(np.clip(index, 0, shape_of(layer)[axis] - 1))


def place_on(viewer: Viewer, layer: Layer, world: Sequence[float]) -> NDArray[Any]:
    """Give where a place in the viewer's world lies in a layer's array."""
    point = np.asarray(world[-layer.ndim :], dtype=float)
    return np.asarray(layer.world_to_data(point / _viewer_scale(viewer, layer)))


def seen_at(viewer: Viewer, layer: Layer, axis: int, index: int) -> NDArray[Any]:
    """Give where the viewer has to stand to see the middle of a slice of a layer.

    These are the last numbers of `viewer.dims.point`, one for each axis of the layer.
    """
    position = [size // 2 for size in shape_of(layer)]
    position[axis] = index
    world = np.asarray(layer.data_to_world(position), dtype=float)
    return world * _viewer_scale(viewer, layer)


def _viewer_scale(viewer: Viewer, layer: Layer) -> NDArray[np.float64]:
    """Give factors from a layer's lengths to those of the viewer.

    With layers in mm and in µm the viewer counts in µm, each layer in its own unit.
    """
    units = getattr(viewer.dims, "units", None)  # earlier versions have none
    if units is None or len(units) < layer.ndim:
        return np.ones(layer.ndim)
    return ratios(layer.units, units[-layer.ndim :])


def index_on(layer: Layer, other: Layer, axis: int, index: int) -> int:
    """Give the index that a slice of a layer has in another one on the same grid.

    The two may be mirrored against each other.
    """
    position = [0] * layer.ndim
    position[axis] = index
    world = np.asarray(layer.data_to_world(position), dtype=float)
    world *= ratios(layer.units, other.units)
    return round(float(other.world_to_data(world)[axis]))


def unused_name(viewer: Viewer, name: str) -> str:
    """Give a layer name that is not taken, by counting up."""
    taken = {layer.name for layer in viewer.layers}
    candidates: Sequence[str] = [name, *(f"{name} {i}" for i in range(2, 1000))]
    return next(c for c in candidates if c not in taken)

"""Writes layers as NIfTI, in the order, orientation and header of their source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from napari.layers import Labels

from medsaga import MedsagaError, Volume
from napari_medsaga.layers.place import (
    GEOMETRY,
    Place,
    mirrored_axes,
    place_in,
    place_of,
    world_in_mm,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

# From homogeneous (z, y, x) to (x, y, z) and back.
_REVERSED = np.eye(4)[[2, 1, 0, 3]]
# The reader shows the world's axes to the head, the back and the left; NIfTI's run to
# the right, the front and the head.
_FROM_WORLD = np.diag([-1.0, -1.0, 1.0, 1.0]) @ _REVERSED


def write_labels(path: str, data: Any, attributes: Mapping[str, Any]) -> list[str]:
    """Write a Labels layer as NIfTI, and give the path it got.

    Parameters
    ----------
    path
        Ends in ``.nii`` or ``.nii.gz``.
    data
        (z, y, x) or (y, x); a list of such arrays, finest first, if multiscale.
    attributes
        The layer's state, as napari gives it.

    Raises
    ------
    MedsagaError
        If the layer is no 2-D or 3-D image, or the file cannot be written.
    """
    return _write(path, data, attributes, is_labels=True)


def write_image(path: str, data: Any, attributes: Mapping[str, Any]) -> list[str]:
    """Write an Image layer as NIfTI; see `write_labels`.

    Raises
    ------
    MedsagaError
        If the image is coloured, complex, not 2-D or 3-D, or cannot be written.
    """
    if attributes.get("rgb"):
        raise MedsagaError(
            f"{attributes.get('name', 'The image')} is a colour image, which is not "
            "written as NIfTI: save it as TIFF."
        )
    return _write(path, data, attributes, is_labels=False)


def _write(
    path: str, data: Any, attributes: Mapping[str, Any], *, is_labels: bool
) -> list[str]:
    from medsaga import write_volume

    volume = placed_volume(data, attributes)
    return [str(write_volume(volume, path, is_labels=is_labels))]


def placed_volume(data: Any, attributes: Mapping[str, Any]) -> Volume:
    """Give a layer's data as a volume that is written where the layer lies.

    A layer that lies on the grid of a file goes back into that file's order and
    header: its own file, or that of a layer in the viewer, as Labels layers that are
    made by hand know of none. Others get an affine from the layer's place in the world.

    Parameters
    ----------
    data, attributes
        As for `write_labels`.

    Raises
    ------
    MedsagaError
        If the data are complex, have other than two or three axes, or lie on several
        2-D files.
    """
    array = _as_array(data, attributes)
    name = str(attributes.get("name", "image"))
    world = _world_of(array.ndim, attributes)
    own = place_in(attributes.get("metadata", {}))
    places = [own] if own is not None else [*_places_in_viewer()]
    found = [(g, p) for p in places if (g := _on_grid(array, world, p)) is not None]
    if not found:
        return _volume(array, _affine_of(world, own), None, name)
    if array.ndim == 2 and len({str(place.affine) for _, place in found}) > 1:
        raise MedsagaError(
            f"{name} lies on several 2-D files from different places, which look the "
            "same here: close the others, then save it again."
        )
    flipped, place = found[0]
    return _volume(flipped, place.affine, place, name)


def _as_array(data: Any, attributes: Mapping[str, Any]) -> NDArray[Any]:
    if attributes.get("multiscale"):
        data = data[0]
    array = np.asarray(data)
    name = attributes.get("name", "The layer")
    if array.ndim not in (2, 3):
        raise MedsagaError(
            f"{name} has {array.ndim} axes: save a layer with two or three, or slice "
            "one off with Layers > Split Stack."
        )
    if array.dtype.kind == "c":
        raise MedsagaError(
            f"{name} holds complex numbers: save one number for each voxel, such as "
            "the magnitude."
        )
    return array


def _world_of(ndim: int, attributes: Mapping[str, Any]) -> NDArray[np.float64]:
    geometry = {key: attributes[key] for key in GEOMETRY if key in attributes}
    return world_in_mm(Labels(np.zeros((1,) * ndim, np.uint8), **geometry))


def _places_in_viewer() -> Iterator[Place]:
    viewer = napari.current_viewer()
    for layer in viewer.layers if viewer is not None else ():
        place = place_of(layer)
        if place is not None:
            yield place


def _on_grid(
    array: NDArray[Any], world: NDArray[np.float64], place: Place
) -> NDArray[Any] | None:
    """Give the array in the order of a place's axes; None where its grid is another."""
    if array.shape != place.shape:
        return None
    mirrored = mirrored_axes(_to_place(world, place), array.shape)
    if mirrored is None:
        return None
    flipped: NDArray[Any] = np.flip(array, mirrored)
    return flipped


def _to_place(world: NDArray[np.float64], place: Place) -> NDArray[np.float64]:
    """Give the matrix from a layer's indices to those of a place's file."""
    shown = _world_of(len(place.shape), place.geometry())
    matrix: NDArray[np.float64] = np.linalg.inv(shown) @ world
    return matrix


def _affine_of(world: NDArray[np.float64], place: Place | None) -> NDArray[np.float64]:
    """Give the affine of a layer on a grid of its own, such as a cropped one."""
    if len(world) == 3:
        flat = np.eye(4)
        flat[np.ix_([1, 2, 3], [1, 2, 3])] = world
        return _REVERSED @ flat @ _REVERSED
    if place is None or place.affine is None or len(place.shape) != 3:
        return _FROM_WORLD @ world @ _REVERSED
    to_file = _REVERSED @ _to_place(world, place) @ _REVERSED
    affine: NDArray[np.float64] = place.affine @ to_file
    return affine


def _volume(
    array: NDArray[Any],
    affine: NDArray[np.float64] | None,
    place: Place | None,
    name: str,
) -> Volume:
    is_2d = array.ndim == 2
    return Volume(
        array=array[np.newaxis] if is_2d else array,
        affine=affine,
        spacing=None if place is None else place.spacing,
        name=name,
        is_2d=is_2d,
        source=None if place is None else place.source,
    )

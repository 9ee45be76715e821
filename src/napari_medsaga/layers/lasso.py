"""The part of a slice that is lassoed: shapes that are drawn around it and selected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from napari.layers import Shapes

from medsaga import MedsagaError
from napari_medsaga.layers.convert import shape_of
from napari_medsaga.layers.place import ratios, world_affine

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image
    from numpy.typing import NDArray

    from napari_medsaga.layers.plane import Plane

_OPEN = ("line", "path")
_CORNERS_OF_ELLIPSE = 90


def lassoed(viewer: Viewer, image: Image, plane: Plane) -> NDArray[np.bool_] | None:
    """Give what the selected shapes of the active Shapes layer enclose on a slice.

    Parameters
    ----------
    viewer
        The viewer.
    image, plane
        The slice.

    Returns
    -------
    array or None
        (rows, columns), in the image's order; None where no Shapes layer is active or
        nothing of it is selected.

    Raises
    ------
    MedsagaError
        If the layer has other axes than the image.
    """
    layer = viewer.layers.selection.active
    if not isinstance(layer, Shapes) or not layer.selected_data:
        return None
    if layer.ndim != image.ndim:
        raise MedsagaError(
            f"{layer.name} has {layer.ndim} axes and {image.name} {image.ndim}: draw "
            "the lasso on a Shapes layer that is made while the image is selected."
        )
    scale = np.diag([*ratios(layer.units, image.units), 1.0])
    matrix = np.linalg.inv(world_affine(image)) @ scale @ world_affine(layer)
    across = () if plane.is_2d else (plane.axis,)
    shape = [n for a, n in enumerate(shape_of(image)) if a not in across]
    mask = np.zeros(shape, np.uint8)
    for number in layer.selected_data:
        kind, corners = layer.shape_type[number], np.asarray(layer.data[number])
        points = _outline(corners, kind) @ matrix[:-1, :-1].T + matrix[:-1, -1]
        if not plane.is_2d and np.abs(points[:, plane.axis] - plane.index).max() > 0.5:
            continue  # of another slice
        if kind not in _OPEN:
            places = np.rint(np.delete(points, across, axis=1)[:, ::-1])
            cv2.fillPoly(mask, [places.astype(np.int32)], 1)
    return mask.astype(bool)


def _outline(corners: NDArray[Any], kind: str) -> NDArray[Any]:
    """Give the corners of a shape; an ellipse is stored as the box around it."""
    if kind != "ellipse":
        return corners
    middle = corners.mean(0)
    along, beside = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angles = np.linspace(0, 2 * np.pi, _CORNERS_OF_ELLIPSE, endpoint=False)[:, None]
    outline: NDArray[Any] = middle + np.cos(angles) * along + np.sin(angles) * beside
    return outline

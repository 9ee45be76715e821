"""What is suggested for a slice, and taking it into the annotation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from medsaga.frontend import count
from napari_medsaga.layers.convert import class_names, index_on, lies_on
from napari_medsaga.layers.plane import Painted, Plane, paint
from napari_medsaga.layers.predictions import prediction_of
from napari_medsaga.layers.slice_marks import mark_slice
from napari_medsaga.widgets.layer_choice import is_offered

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image
    from numpy.typing import NDArray

    from medsaga import Box

# Of the drawn box, what the class map's own box takes at least.
_FILLS = 0.5


def suggestion_for(
    viewer: Viewer, image: Image, labels: Labels, plane: Plane
) -> tuple[Labels, NDArray[Any]] | None:
    """Find what is suggested for a slice, and the layer that suggests it.

    That is the preview of a training, what was filled in, or a model's result on this
    image: of several visible layers that show something there, the uppermost.

    Parameters
    ----------
    viewer
        The viewer.
    image, labels
        The image, and the layer that is painted on, which suggests nothing.
    plane
        The slice.

    Returns
    -------
    tuple of Labels and array, or None
        The layer, and (rows, columns) label values in the image's order.
    """
    for layer in reversed(viewer.layers):
        if layer is labels or not layer.visible or not _suggests(layer, image):
            continue
        values = np.asarray(layer.data[plane.labels_place(layer, image)])
        if values.any():
            return layer, values
    return None


def _suggests(layer: Any, image: Image) -> bool:
    if not isinstance(layer, Labels) or layer.multiscale:
        return False
    prediction = prediction_of(layer)
    of_image = prediction is not None and prediction.image() is image
    is_ours = of_image or not is_offered(layer)
    return is_ours and layer.ndim == image.ndim and lies_on(layer, image)


def class_in_box(
    viewer: Viewer,
    image: Image,
    labels: Labels,
    plane: Plane,
    box: Box,
) -> NDArray[np.bool_] | None:
    """Give what a model has of the chosen class in a box, if that fills it.

    Inside a box a trained model's class map is better than LiteMedSAM's own mask: Dice
    0.932 to 0.888 on the organs of a CT, 0.914 to 0.897 on a spleen (docs/choices.md).

    Parameters
    ----------
    viewer, image, labels, plane
        As for :func:`suggestion_for`.
    box
        In pixels of the slice.

    Returns
    -------
    array or None
        (rows, columns); None without a trained model's result, or where its class lies
        otherwise than the box says.
    """
    found = suggestion_for(viewer, image, labels, plane)
    if found is None:
        return None
    layer, values = found
    prediction = prediction_of(layer)
    if prediction is None or prediction.model is None:
        return None
    rows = slice(max(0, round(box.top)), max(0, round(box.bottom)))
    columns = slice(max(0, round(box.left)), max(0, round(box.right)))
    mask = np.zeros(values.shape, bool)
    mask[rows, columns] = values[rows, columns] == int(labels.selected_label)
    if not mask.any():
        return None
    own = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    filled = np.prod([part[-1] - part[0] + 1 for part in own])
    drawn = (box.bottom - box.top) * (box.right - box.left)
    return mask if filled >= _FILLS * drawn else None


def accept(
    viewer: Viewer,
    image: Image,
    labels: Labels,
    plane: Plane,
    *,
    value: int | None = None,
    within: NDArray[np.bool_] | None = None,
) -> tuple[Painted | None, str]:
    """Take what is suggested for a slice into the annotation.

    What is painted there already stays: paint is known, a suggestion is not.

    Parameters
    ----------
    viewer, image, labels, plane
        As for :func:`suggestion_for`.
    value
        Of the one class to take; None takes all.
    within
        (rows, columns) that are taken; None: all.

    Returns
    -------
    Painted or None, and str
        What was painted, and a sentence about it.

    Raises
    ------
    MedsagaError
        If the labels do not lie on the image, or cannot hold a value.
    """
    if prediction_of(labels) is not None:
        return _accept_as_is(image, labels, plane)
    found = suggestion_for(viewer, image, labels, plane)
    if found is None:
        return None, (
            "Nothing is suggested here: fill between slices, or train a model, and "
            "keep its layer visible."
        )
    layer, values = found
    taken = values != 0 if value is None else values == value
    if within is not None:
        taken &= within
    here = np.asarray(labels.data[plane.labels_place(labels, image)])
    taken &= here == 0
    if not taken.any():
        what = "" if value is None else f" of {_name(labels, value)}"
        where = "" if within is None else " inside the lasso"
        return (
            None,
            f"{layer.name} suggests nothing{what} beside what is painted{where}.",
        )
    painted = paint(labels, image, plane, taken, values)
    _mark(image, labels, plane)
    pixels = count(painted.n_pixels, "pixel")
    return painted, f"Accepted {pixels} from {layer.name}; Ctrl+Z takes it back."


def _accept_as_is(
    image: Image, labels: Labels, plane: Plane
) -> tuple[Painted | None, str]:
    """Say of a slice of a result that it is right: it trains with those corrected."""
    _mark(image, labels, plane)
    return None, "Accepted as it is: this slice trains in the next round."


def _mark(image: Image, labels: Labels, plane: Plane) -> None:
    if not plane.is_2d:
        index = index_on(image, labels, plane.axis, plane.index)
        mark_slice(labels, "accepted", plane.axis, index)


def _name(labels: Labels, value: int) -> str:
    return class_names(labels).get(value, f"class {value}")

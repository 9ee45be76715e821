"""One time point or channel of a layer with four axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_medsaga.layers.convert import (
    LayerDataTuple,
    array_of,
    slice_shown,
    unused_name,
    world_affine,
)

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image


def has_parts(image: Image | None) -> bool:
    """Whether an image has an axis too many, of times or channels."""
    return image is not None and image.ndim == 4


def shown_part(viewer: Viewer, image: Image) -> LayerDataTuple:
    """Give the part of an image along its first axis that the viewer shows.

    Nothing is copied. It lies where it lies in the whole image.

    Parameters
    ----------
    viewer
        The viewer.
    image
        A layer of four axes.
    """
    index = slice_shown(viewer, image, 0)
    name = f"{image.name} [{image.axis_labels[0]} {index}]"
    options = {
        "name": unused_name(viewer, name),
        "affine": np.delete(np.delete(world_affine(image), 0, 0), 0, 1),
        "units": image.units[1:],
        "axis_labels": image.axis_labels[1:],
        "rgb": image.rgb,
    }
    if not image.rgb:
        options |= {
            "contrast_limits": image.contrast_limits,
            "colormap": image.colormap,
        }
    return array_of(image)[index], options, "image"

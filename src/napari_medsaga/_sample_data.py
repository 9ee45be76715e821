"""What napari's menu File > Open Sample offers."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LayerDataTuple = tuple["NDArray[Any]", dict[str, Any], str]

# The volume's axes run to the head, the front and the right. napari draws the second
# downwards and the third to the right, and radiologists want the front at the top and
# the patient's right on the left: so both are mirrored, on the layer, not in the array.
_RADIOLOGICAL = np.diag([1.0, -1.0, -1.0, 1.0])


def open_phantom() -> list[LayerDataTuple]:
    """Synthetic abdominal CT with a few annotated slices, as napari layers.

    Returns
    -------
    list of (array, keyword arguments of the layer, layer type)
        An Image in HU and a Labels layer, both (z, y, x), scaled to mm.
    """
    # Opening the menu imports this module: what takes time is imported on the click.
    from medsaga import read_labels, read_volume
    from medsaga.data.intensity import WINDOWS

    with as_file(files("napari_medsaga") / "sample_data") as folder:
        image = read_volume(folder / "phantom_ct.nii.gz")
        labels = read_labels(folder / "phantom_labels.nii.gz")
        classes = json.loads((folder / "phantom_classes.json").read_text("utf-8"))
    place = {
        "scale": image.spacing,
        "affine": _RADIOLOGICAL,
        "units": ("mm", "mm", "mm"),
        "axis_labels": ("z", "y", "x"),
    }
    image_options = {
        "name": "phantom",
        "colormap": "gray",
        "contrast_limits": WINDOWS["soft tissue"],
    }
    return [
        (image.array, image_options | place, "image"),
        (labels.array, _class_options(classes) | place, "labels"),
    ]


def _class_options(classes: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Names and colours of the classes, as keyword arguments of a Labels layer."""
    colours: dict[int | None, str] = {int(v): c["colour"] for v, c in classes.items()}
    return {
        "name": "phantom annotations",
        "features": {
            "index": [0, *map(int, classes)],
            "name": ["background", *(c["name"] for c in classes.values())],
        },
        # napari needs a colour for the values that have none of their own.
        "colormap": colours | {0: "transparent", None: "transparent"},
    }

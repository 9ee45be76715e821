"""What napari's menu File > Open Sample offers."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_medsaga.layers.convert import LayerDataTuple


def open_phantom() -> list[LayerDataTuple]:
    """Synthetic abdominal CT with a few annotated slices, as napari layers.

    Returns
    -------
    list of (array, keyword arguments of the layer, layer type)
        An Image in HU and a Labels layer, both (z, y, x), scaled to mm.
    """
    return _open("phantom_labels.nii.gz", "phantom annotations")


def open_phantom_truth() -> list[LayerDataTuple]:
    """Synthetic abdominal CT with every organ on every slice.

    Returns
    -------
    list of (array, keyword arguments of the layer, layer type)
        As of `open_phantom`.
    """
    return _open("phantom_truth.nii.gz", "phantom truth")


def _open(labels_file: str, labels_name: str) -> list[LayerDataTuple]:
    # Opening the menu imports this module: what takes time is imported on the click.
    from medsaga import read_labels, read_volume
    from napari_medsaga.files.readers import image_options
    from napari_medsaga.layers.convert import labels_options, place_options

    with as_file(files("napari_medsaga") / "sample_data") as folder:
        image = read_volume(folder / "phantom_ct.nii.gz")
        labels = read_labels(folder / labels_file)
        classes = json.loads((folder / "phantom_classes.json").read_text("utf-8"))
    shown = labels_options(_table_of(classes)) | place_options(labels)
    _look_at_paint(labels.array)
    return [
        (image.array, image_options(image) | {"name": "phantom"}, "image"),
        (labels.array, shown | {"name": labels_name}, "labels"),
    ]


def _look_at_paint(labels: NDArray[Any]) -> None:
    """Have the viewer stand at a painted slice once the sample is open.

    napari opens it in the middle, where nothing may be painted.
    """
    import numpy as np
    from napari import current_viewer
    from qtpy.QtCore import QTimer

    painted = np.flatnonzero(labels.any(axis=(1, 2)))
    viewer = current_viewer()
    if viewer is None or not len(painted):
        return
    index = int(painted[np.abs(painted - len(labels) // 2).argmin()])

    def go() -> None:
        from napari_medsaga.layers.plane import go_to

        if "phantom" in viewer.layers:
            go_to(viewer, viewer.layers["phantom"], 0, index)

    QTimer.singleShot(0, go)


def _table_of(classes: dict[str, dict[str, str]]) -> Any:
    from medsaga.frontend import ClassTable

    return ClassTable(
        values=(0, *map(int, classes)),
        names=("background", *(c["name"] for c in classes.values())),
        colours=(None, *(c["colour"] for c in classes.values())),
    )

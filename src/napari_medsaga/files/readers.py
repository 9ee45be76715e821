"""Opens volumes as napari layers: images or labels, where they are in the patient."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsaga import frontend
from napari_medsaga.layers.convert import LayerDataTuple, place_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from medsaga import Volume

    Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_MOST_LABELS = 256
# But not what says the opposite: unsegmented, unlabelled, masked.
_LABEL_NAME = re.compile(r"(?<!un)(seg|label|mask(?!ed))")


def get_reader(path: Paths) -> Callable[[Paths], list[LayerDataTuple]] | None:
    """Give the function that reads a file or several, or None if it cannot."""
    endings = frontend.viewer_endings()
    readable = all(p.name.lower().endswith(endings) for p in _as_paths(path))
    return read_layers if readable else None


def read_layers(path: Paths) -> list[LayerDataTuple]:
    """Read volumes, a layer each.

    Returns
    -------
    list of (array, keyword arguments of the layer, layer type)
        (z, y, x), (z, y, x, 3) or, of 2-D files, without z. Labels where the file says
        so, or by its name and values; else an image.

    Raises
    ------
    MedsagaError
        If a file is broken, or holds several volumes.
    """
    return [_read_layer(p) for p in _as_paths(path)]


def image_options(volume: Volume) -> dict[str, Any]:
    """Give the keyword arguments of the Image layer that shows a volume well."""
    if volume.is_rgb:
        return {"name": volume.name, "rgb": True} | place_options(volume)
    limits = frontend.display_limits(volume)
    return {"name": volume.name, "contrast_limits": limits} | place_options(volume)


def _as_paths(path: Paths) -> list[Path]:
    paths = [path] if isinstance(path, (str, os.PathLike)) else path
    return [Path(p) for p in paths]


def _read_layer(path: Path) -> LayerDataTuple:
    from medsaga import read_volume

    volume = read_volume(path)
    labels = _as_labels(volume, path)
    if labels is not None:
        options = {"name": labels.name} | place_options(labels)
        return _layer_array(labels), options, "labels"
    return _layer_array(volume), image_options(volume), "image"


def _as_labels(volume: Volume, path: Path) -> Volume | None:
    """Give a file's volume as labels if that is what it holds, else None."""
    if volume.is_rgb:
        return None
    is_named_so = _LABEL_NAME.search(volume.name.lower()) is not None
    if not volume.holds_labels and not is_named_so:
        return None
    # Integers that are scaled on disk, and what numpy has saved, are fractions here.
    is_integer = volume.array.dtype.kind in "iu"
    labels = volume if is_integer else _read_whole_numbers(path)
    if labels is None or volume.holds_labels:
        return labels
    values = frontend.distinct_values(labels.array, _MOST_LABELS)
    return labels if len(values) <= _MOST_LABELS else None


def _read_whole_numbers(path: Path) -> Volume | None:
    from medsaga import MedsagaError, read_labels

    try:
        return read_labels(path)
    except MedsagaError:
        return None  # whatever its intent, it can be looked at as an image


def _layer_array(volume: Volume) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = volume.array[0] if volume.is_2d else volume.array
    return array

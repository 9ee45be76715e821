"""Names and colours of the classes of a Labels layer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import DirectLabelColormap, label_colormap
from vispy.color import Color

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari.layers import Labels

    from medsaga.frontend import ClassTable

# Okabe and Ito's palette, which the colour-blind can tell apart.
_PALETTE = (
    *("#e69f00", "#56b4e9", "#009e73", "#f0e442"),
    *("#0072b2", "#d55e00", "#cc79a7", "#999999"),
)


def class_names(layer: Labels) -> dict[int, str]:
    """Give the names of a Labels layer's values, from its `features`."""
    table = _features_by_value(layer)
    if "name" not in table:
        return {}
    pairs = zip(table.index, table["name"], strict=True)
    return {int(value): name for value, name in pairs if isinstance(name, str)}


def rename_classes(layer: Labels, names: Mapping[int, str]) -> None:
    """Write class names into a Labels layer's `features`; no pixel is touched."""
    table = _features_by_value(layer)
    known = class_names(layer) | dict(names)
    table = table.reindex([*table.index, *(v for v in names if v not in table.index)])
    table["name"] = [known.get(int(value)) for value in table.index]
    layer.features = table.rename_axis("index").reset_index()


def _features_by_value(layer: Labels) -> Any:
    """Give a layer's features, a row for each label value, as napari matches them."""
    features = layer.features
    if "index" not in features:
        return features.copy()  # the row's number is the value
    return features.drop_duplicates("index", keep="last").set_index("index")


def class_colours(layer: Labels, values: Iterable[int]) -> dict[int, str]:
    """Give each label value's colour in a Labels layer, as ``#rrggbb``."""
    colormap = layer.colormap
    if isinstance(colormap, DirectLabelColormap):
        table, other = colormap.color_dict, colormap.default_color
        mapped = {v: np.ravel(table.get(v, other))[:3] for v in values if v}
    else:
        colormap = _unselective(colormap)
        mapped = {v: np.ravel(colormap.map(v))[:3] for v in values if v}
    return {value: str(Color(colour).hex) for value, colour in mapped.items()}


def _unselective(colormap: Any) -> Any:
    """Give a colormap that shows all values, where only the selected one is shown."""
    if not colormap.use_selection:
        return colormap
    return type(colormap)(**colormap.model_dump() | {"use_selection": False})


def labels_options(table: ClassTable, like: Labels | None = None) -> dict[str, Any]:
    """Give the keyword arguments of a Labels layer that shows a model's classes.

    Names and colours are the table's. A value that has no colour there, such as one
    that the user adds, gets that of `like`, or napari's own.
    """
    colours = dict(_usual_colours()) if like is None else _colours_of(like)
    known = zip(table.values, table.colours, strict=True)
    colours |= {v: colour for v, colour in known if v and colour is not None}
    missing = [v for v in table.values if v not in colours]
    colours |= {v: _PALETTE[v % len(_PALETTE)] for v in missing}
    return {
        "features": {"index": list(table.values), "name": list(table.names)},
        "colormap": DirectLabelColormap(color_dict=colours),
    }


def _colours_of(layer: Labels) -> dict[int | None, Any]:
    """Give a layer's colours, with one that can be seen for every other value."""
    colours: dict[int | None, Any] = {0: "transparent"}
    if not isinstance(layer.colormap, DirectLabelColormap):
        return colours | {None: "white"} | _mapped(_unselective(layer.colormap))
    colours |= {v: c for v, c in layer.colormap.color_dict.items() if v != 0}
    if None not in colours or colours[None][3] == 0:
        colours[None] = "white"
    return colours


@cache
def _usual_colours() -> dict[int | None, Any]:
    return {0: "transparent", None: "white"} | _mapped(label_colormap())


def _mapped(colormap: Any) -> dict[int | None, Any]:
    values = range(1, 256)
    return dict(zip(values, colormap.map(np.array(values, np.uint8)), strict=True))

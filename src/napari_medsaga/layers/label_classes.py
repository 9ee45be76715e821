"""Names and colours of the classes of a Labels layer."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from functools import cache
from itertools import count
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
_MORE_COLOURS = 64
_GOLDEN = 0.618034


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


def add_class(layer: Labels, name: str = "", painted: Iterable[int] = ()) -> int:
    """Name one more class, in a colour of its own, and give its label value.

    The value is the first that is neither named nor among those `painted`.
    """
    names = class_names(layer)
    used = {*names, *painted, 0}
    value = next(v for v in count(1) if v not in used)
    taken = {*names.values()}
    usual = (f"class {n}" for n in count(value))
    rename_classes(layer, {value: name or next(n for n in usual if n not in taken)})
    colours = class_colours(layer, [v for v in used if v])
    recolour_class(layer, value, distinct_colour(colours.values()))
    return value


def recolour_class(layer: Labels, value: int, colour: str) -> None:
    """Show a label value in another colour; the others keep theirs."""
    colours = _colours_of(layer) | {value: colour}
    layer.colormap = DirectLabelColormap(color_dict=colours)


def distinct_colour(taken: Iterable[str]) -> str:
    """Give the colour of a palette that is least like those that are taken."""
    known = [Color(colour).rgb for colour in taken]
    if not known:
        return _PALETTE[0]
    candidates = [*_PALETTE, *(_hue(n) for n in range(_MORE_COLOURS))]
    distances = [
        min(float(np.abs(np.subtract(Color(c).rgb, k)).sum()) for k in known)
        for c in candidates
    ]
    far = max(distances)
    enough = (c for c, d in zip(candidates, distances, strict=True) if d >= far / 2)
    return next(enough)


def _hue(number: int) -> str:
    """Give a bright colour; each is turned by the golden ratio against the last."""
    return str(Color(hsv_to_rgb(number * _GOLDEN % 1, 0.85, 0.95)).hex)


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

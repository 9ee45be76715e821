"""A sheet of overlays: some slices of an image with the truth and the prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from medsaga import ModelCard, Volume

_N_SLICES = 5
_WIDTH = 2.6  # inches of one picture
_DPI = 130
_BACKGROUND, _INK = "#16181c", "#e8e8e8"
_TITLES = ("Image", "Truth", "Prediction, truth outlined")
_OPACITY = 0.55


def draw_sheet(
    card: ModelCard,
    image: Volume,
    mask: Volume,
    truth: Volume,
    slices: Sequence[int],
    dice: Mapping[int, float],
) -> NDArray[np.uint8]:
    """Draw image, truth and prediction of a few slices.

    Patients are seen from the feet (radiological convention): their right is on the
    left.

    Parameters
    ----------
    card
        Gives classes, colours, intensity window and axis.
    image, mask, truth
        (z, y, x), on one grid.
    slices
        Indices along the card's axis to choose from; some are drawn, evenly spread.
    dice
        By label value, for the legend.

    Returns
    -------
    NDArray
        (rows, columns, 3) uint8.
    """
    picked = np.linspace(0, len(slices) - 1, min(_N_SLICES, len(slices)) + 2)[1:-1]
    chosen = [slices[i] for i in sorted(set(picked.round().astype(int).tolist()))]
    colours = _colours(card)
    limits = card.intensity.limits(image)
    figure, grid = _grid(image, card.axis, len(chosen))
    for index, column in zip(chosen, grid.T, strict=True):
        grey, true, predicted = (
            _as_seen(v.slice(card.axis, index)) for v in (image, truth, mask)
        )
        for axes in column:
            _draw_image(axes, grey, limits, _aspect(image, card.axis))
        column[0].set_title(f"slice {index}", color=_INK, fontsize=11)
        _draw_areas(column[1], true, colours)
        _draw_areas(column[2], predicted, colours)
        _draw_outlines(column[2], true, colours)
    for axes, title in zip(grid[:, 0], _TITLES, strict=True):
        axes.set_ylabel(title, color=_INK, fontsize=11)
    _draw_legend(figure, card, colours, dice)
    return _pixels(FigureCanvasAgg(figure))


def _pixels(canvas: Any) -> NDArray[np.uint8]:
    canvas.draw()
    pixels: NDArray[np.uint8] = np.array(canvas.buffer_rgba())
    return pixels[..., :3]


def _grid(image: Volume, axis: int, n_columns: int) -> tuple[Figure, NDArray[Any]]:
    rows, columns = image.slice(axis, 0).shape[:2]
    height = _WIDTH * rows * _aspect(image, axis) / columns
    figure = Figure(
        figsize=(_WIDTH * n_columns + 0.4, len(_TITLES) * height + 0.9),
        dpi=_DPI,
        facecolor=_BACKGROUND,
        layout="constrained",
    )
    grid: NDArray[Any] = figure.subplots(len(_TITLES), n_columns, squeeze=False)
    return figure, grid


def _aspect(image: Volume, axis: int) -> float:
    """Height of a pixel over its width."""
    spacing = image.slice_spacing(axis)
    return 1.0 if spacing is None else spacing[0] / spacing[1]


def _as_seen(picture: NDArray[Any]) -> NDArray[Any]:
    """Turn a slice of a canonical volume as it is looked at."""
    return picture[::-1, ::-1]


def _colours(card: ModelCard) -> dict[int, tuple[float, float, float]]:
    palette = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    pairs = zip(card.classes.values, card.classes.colours, strict=True)
    return {
        value: to_rgb(colour or palette[i % len(palette)])
        for i, (value, colour) in enumerate(pairs)
        if value != 0
    }


def _draw_image(
    axes: Axes, picture: NDArray[Any], limits: tuple[float, float], aspect: float
) -> None:
    low, high = limits
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high, aspect=aspect)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_areas(
    axes: Axes, mask: NDArray[Any], colours: Mapping[int, tuple[float, float, float]]
) -> None:
    overlay = np.zeros((*mask.shape, 4))
    for value, colour in colours.items():
        overlay[mask == value] = (*colour, _OPACITY)
    axes.imshow(overlay, aspect=axes.get_aspect(), interpolation="nearest")


def _draw_outlines(
    axes: Axes, mask: NDArray[Any], colours: Mapping[int, tuple[float, float, float]]
) -> None:
    for value, colour in colours.items():
        if (mask == value).any():
            bright = tuple(0.5 + 0.5 * part for part in colour)
            axes.contour(mask == value, levels=[0.5], colors=[bright], linewidths=1.0)


def _draw_legend(
    figure: Figure,
    card: ModelCard,
    colours: Mapping[int, tuple[float, float, float]],
    dice: Mapping[int, float],
) -> None:
    names = card.classes.names_by_value
    handles = [
        Line2D(
            [], [], color=colour, linewidth=6, label=_label(names[value], dice, value)
        )
        for value, colour in colours.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        labelcolor=_INK,
        fontsize=11,
    )


def _label(name: str, dice: Mapping[int, float], value: int) -> str:
    return f"{name} {dice[value]:.2f}" if value in dice else name

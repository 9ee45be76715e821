"""The size that a model works at, and whether it sees a slice's neighbours.

A slice is scaled to the canvas at its true proportions (the *content*), then padded at
the bottom and the right up to a size that the backbone takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from medsaga.settings.fine_tune import FineTuneSettings
    from medsaga.windows import Size

Spacing = tuple[float, float]

# Beyond eight times, the axis with the fine pixels would be squeezed to a few of them.
_LARGEST_ANISOTROPY = 8.0
_SMALLEST_LONG_SIDE = 64
_LARGEST_ENLARGED = 128  # four times, for an embedding of stride 16
_ROUND_TO = 32
_FINEST_PIXELS = 8  # below that, Dice falls steeply (docs/choices.md)
_TOO_FINE, _FINE_PIXELS = 6, 12  # less than the one: tiles, for the other
_HARDLY_SCALED = 1.25  # then not at all, which blurs nothing
_WORTH_TILES = 1.5  # tiles see less of what lies around


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The size that a model works at, and what its three channels hold.

    Attributes
    ----------
    long_side
        Pixels along the longer side of the content; where there are tiles, of that of
        the largest slice that trained.
    multiple
        Height and width of the padded image are multiples of it.
    neighbours
        Whether the channels are the slice below, the slice itself and the one above;
        else they are its colours, or grey three times.
    tile
        Longest side of what is seen of the working image at once; 0: all of it.
    scale
        Where there are tiles: pixels of the content for each of the slice's finer
        pixels, whatever the slice's size is. Else 0.
    """

    long_side: int
    multiple: int
    neighbours: bool = False
    tile: int = 0
    scale: float = 0.0

    def content_shape(self, rows: int, cols: int, spacing: Spacing | None) -> Size:
        """(height, width) of a scaled slice, before padding.

        Parameters
        ----------
        rows, cols
            Size of the slice in pixels.
        spacing
            Size of a pixel in mm along rows and columns; None: pixels are square.
        """
        height, width = physical_shape(rows, cols, spacing)
        factor = self.scale or self.long_side / max(height, width)
        return max(1, round(height * factor)), max(1, round(width * factor))

    def padded_shape(self, rows: int, cols: int, spacing: Spacing | None) -> Size:
        """(height, width) of the working image: the content, padded."""
        height, width = self.content_shape(rows, cols, spacing)
        return _round_up(height, self.multiple), _round_up(width, self.multiple)


def choose_long_side(
    slices: Iterable[tuple[Size, Spacing | None]],
    settings: FineTuneSettings,
    multiple: int,
    embedding_stride: int = 4,
    finest: float | None = None,
) -> int:
    """Choose the long side of the canvas for a training.

    It is `settings.long_side` if that is given. Else it is the largest slice's own, in
    units of its finest pixel side, rounded up to a multiple of 32, at least 64 and at
    most `settings.max_long_side`, or twice that where what is painted would be less
    than 8 pixels wide. This is for an embedding of stride 4; SAM's ViTs, whose
    embedding is four times coarser, have four times the limits whatever is painted,
    and enlarge images up to four times, to at most 512.

    Parameters
    ----------
    slices
        ((rows, columns), spacing) of at least one slice.
    settings
        The settings of the training.
    multiple
        What the backbone's sizes must be multiples of; the long side is one.
    embedding_stride
        Pixels per feature of the backbone's embedding.
    finest
        What :func:`~medsaga.data.survey.finest_width` gives; None where it is not
        known.
    """
    if settings.long_side > 0:
        return _round_up(settings.long_side, multiple)
    enlarged = max(1, embedding_stride // 4)
    largest = settings.max_long_side * enlarged
    if finest is not None and enlarged == 1:
        needed = math.ceil(_FINEST_PIXELS / finest)
        largest = min(max(largest, needed), 2 * largest)
    own = max(max(physical_shape(*shape, spacing)) for shape, spacing in slices)
    step = math.lcm(_ROUND_TO, multiple)
    wanted = max(_round_up(math.ceil(own), step), _SMALLEST_LONG_SIDE)
    wanted = max(wanted, enlarged * min(wanted, _LARGEST_ENLARGED))
    if wanted <= largest:
        return _round_up(wanted, multiple)
    return max(multiple, largest // multiple * multiple)


def choose_canvas(
    slices: Sequence[tuple[Size, Spacing | None]],
    settings: FineTuneSettings,
    multiple: int,
    embedding_stride: int = 4,
    finest: float | None = None,
    *,
    neighbours: bool = False,
) -> Canvas:
    """Choose the size that a training works at, and whether it cuts images in tiles.

    It does where :func:`choose_long_side` leaves what is painted less than 6 pixels
    wide and the slices are clearly finer than that: they are worked at so that it is 12
    pixels wide, or at their own resolution, and seen in tiles of
    `settings.max_long_side`. For the parameters see there.
    """
    long_side = choose_long_side(slices, settings, multiple, embedding_stride, finest)
    whole = Canvas(long_side=long_side, multiple=multiple, neighbours=neighbours)
    is_fine = finest is not None and finest * long_side < _TOO_FINE
    if not (settings.tiles and is_fine) or settings.long_side or embedding_stride > 4:
        return whole
    assert finest is not None
    own = max(max(physical_shape(*shape, spacing)) for shape, spacing in slices)
    needed = _FINE_PIXELS / finest
    scale = 1.0 if needed * _HARDLY_SCALED > own else needed / own
    if scale * own < _WORTH_TILES * long_side:
        return whole
    tile = _round_up(settings.max_long_side, multiple)
    return replace(whole, long_side=math.ceil(scale * own), tile=tile, scale=scale)


def physical_shape(
    rows: int, cols: int, spacing: Spacing | None
) -> tuple[float, float]:
    """Height and width of a slice in units of its finer pixel side."""
    if spacing is None or not all(math.isfinite(s) and s > 0 for s in spacing):
        return float(rows), float(cols)
    ratio = spacing[0] / spacing[1]
    ratio = min(max(ratio, 1 / _LARGEST_ANISOTROPY), _LARGEST_ANISOTROPY)
    return rows * max(ratio, 1.0), cols * max(1 / ratio, 1.0)


def _round_up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple

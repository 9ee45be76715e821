"""Logits at a slice's own resolution, band by band of its rows.

A large slice of many classes has logits that are many times its size: what is made of
them is made band by band.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from medsaga.windows import Size, Window, view_size, window_weight, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Band = tuple[slice, Tensor]
"""Rows of a slice, and their (k, rows, columns) logits."""

MOST_VALUES = 2**23
"""So many logits a band has: 32 MiB."""
_ROWS_AT_ONCE = 16  # of tiles that are done


def restore_in_bands(
    pieces: Iterable[Tensor], content: Size, size: Size
) -> Iterator[Band]:
    """Bring logits that come row by row to a slice's own resolution.

    Parameters
    ----------
    pieces
        (k, n, W) each: the rows of the content from the first to the last.
    content
        Height and width of all of them.
    size
        Rows and columns of the slice.

    Yields
    ------
    Band
        The next rows, as bilinear interpolation of the whole would give them.
    """
    if content[0] > size[0]:  # each row is of many, and the whole no larger than those
        yield slice(0, size[0]), resize(torch.cat(list(pieces), dim=1), size)
        return
    places = _places(content[0], size[0])
    below = places.floor().long()
    held, top, given = None, 0, 0
    for piece in pieces:
        held = piece if held is None else torch.cat([held, piece], dim=1)
        end = top + held.shape[1]
        ready = int((below <= end - 2).sum()) if end < content[0] else size[0]
        step = max(1, MOST_VALUES // (len(held) * size[1]))
        for first in range(given, ready, step):
            rows = slice(first, min(first + step, ready))
            yield rows, _between(held, places[rows] - top, size[1])
        given = max(given, ready)
        if given < size[0]:
            needed = int(below[given])
            held, top = held[:, needed - top :].clone(), needed


def join_bands(bands: Iterable[Band]) -> Tensor:
    """Give the (k, rows, columns) logits that bands are of."""
    parts = [logits for _, logits in bands]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _places(length: int, n: int) -> Tensor:
    """Give where each of `n` pixels lies among `length`, as torch interpolates."""
    return ((torch.arange(n) + 0.5) * (length / n) - 0.5).clamp(0, length - 1)


def _between(held: Tensor, places: Tensor, columns: int) -> Tensor:
    """Interpolate rows at `places` of those that are held, then their columns."""
    below = places.floor().long()
    above = (below + 1).clamp(max=held.shape[1] - 1)
    part = (places - below).to(held.device)
    rows = held[:, below.to(held.device)]
    if part.any():
        rows = torch.lerp(rows, held[:, above.to(held.device)], part[:, None])
    return resize(rows, (len(places), columns))


def rows_of_tiles(
    look: Callable[[Window], Tensor], content: Size, padded: Size, tile: int
) -> Iterator[Tensor]:
    """Give the logits of an image's content, of tiles that fade into one another.

    No more than one row of tiles is held.

    Parameters
    ----------
    look
        Gives the (k, h, w) logits of a window.
    content, padded
        Height and width of the image without and with its padding.
    tile
        Longest side of a window.

    Yields
    ------
    Tensor
        (k, n, W) fp32: the next rows.
    """
    size, top, held = view_size(padded, tile), 0, None
    for row, group in groupby(windows(content, padded, tile), lambda window: window[0]):
        for window in group:
            part = resize(look(window).float(), size)
            held = held or _TileRow(part, padded[1])
            if row.start > top:
                yield from held.finished(row.start - top, content[1])
                held.move_up(row.start - top)
                top = row.start
            held.add(part, window[1])
    assert held is not None  # an image has a window
    yield from held.finished(content[0] - top, content[1])


class _TileRow:
    """The weighed sums of a row of tiles, `width` pixels wide; `tile` is one of it."""

    def __init__(self, tile: Tensor, width: int) -> None:
        n_classes, *size = tile.shape
        self._weight = window_weight((size[0], size[1])).to(tile.device)
        self._sums = tile.new_zeros((n_classes, size[0], width))
        self._weights = tile.new_zeros((size[0], width))

    def add(self, tile: Tensor, columns: slice) -> None:
        self._sums[:, :, columns] += tile * self._weight
        self._weights[:, columns] += self._weight

    def finished(self, n: int, width: int) -> Iterator[Tensor]:
        """Give the first `n` rows, as far as the content goes."""
        for first in range(0, n, _ROWS_AT_ONCE):
            rows = slice(first, min(first + _ROWS_AT_ONCE, n))
            weights = self._weights[rows, :width].clamp_min(1e-6)
            yield self._sums[:, rows, :width] / weights

    def move_up(self, n: int) -> None:
        """Drop the first `n` rows, and begin as many anew."""
        for rows in (self._sums, self._weights):
            kept = rows[..., n:, :].clone()
            rows.zero_()
            rows[..., : kept.shape[-2], :] = kept


def resize(planes: Tensor, size: Size) -> Tensor:
    """Interpolate (k, h, w) planes bilinearly; smaller ones are means of many."""
    if planes.shape[-2:] == size:
        return planes
    return F.interpolate(planes[None], size=size, mode="bilinear", antialias=True)[0]

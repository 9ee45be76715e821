"""Working images, and windows: the parts of large ones that a network sees one by one.

Rows and columns, nothing else: what is in an image is not looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Size = tuple[int, int]
Window = tuple[slice, slice]

# What lies beside a window is not seen from it, so that its rim is told less well.
_OVERLAP = 32
# Along each side: a second or two.
_TILES_SHOWN = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class WorkingImage:
    """A slice, or a part of one, as a model sees it.

    Attributes
    ----------
    image
        (3, H, W) float32 in [0, 1], padded; not to be written into.
    content
        Height and width of the part that is not padding.
    size
        Rows and columns of the slice itself.
    """

    image: Tensor
    content: Size
    size: Size

    @property
    def padded(self) -> Size:
        """Height and width of `image`."""
        return self.image.shape[1], self.image.shape[2]


def view_size(size: Size, tile: int) -> Size:
    """Give the size of what is seen at once of an image of `size`.

    `tile` is its longest side; 0 stands for the whole image.
    """
    return (min(size[0], tile), min(size[1], tile)) if tile else size


def windows(content: Size, padded: Size, tile: int) -> list[Window]:
    """Cover the content of a working image with windows that overlap.

    Parameters
    ----------
    content
        Height and width of the part that is not padding.
    padded
        Those of the working image, at least as large.
    tile
        Longest side of a window.

    Returns
    -------
    list of Window
        Rows and columns, all of one size, row by row.
    """
    size = view_size(padded, tile)
    rows, cols = (_spans(own, side) for own, side in zip(content, size, strict=True))
    return [(row, col) for row in rows for col in cols]


def _spans(length: int, side: int) -> list[slice]:
    """Spread spans of `side` over `length`, each overlapping the next."""
    last = max(0, length - side)
    starts = np.linspace(0, last, math.ceil(last / _step(side)) + 1).round().astype(int)
    return [slice(start, start + side) for start in starts.tolist()]


def _step(side: int) -> int:
    """Tell how far apart windows are at most."""
    return max(1, side - min(_OVERLAP, side // 2))


def middle_window(content: Size, padded: Size, tile: int) -> Window:
    """Give the middle of a working image, no more of it than is soon looked at."""
    rows, cols = (
        _middle(own, side, tile) for own, side in zip(content, padded, strict=True)
    )
    return rows, cols


def _middle(content: int, padded: int, tile: int) -> slice:
    most = tile + (_TILES_SHOWN - 1) * _step(tile)
    shown = min(padded, most) if tile else padded
    start = max(0, (content - shown) // 2)
    return slice(start, start + shown)


def window_weight(size: Size) -> Tensor:
    """Give how much each pixel of a window counts where windows overlap: (H, W)."""
    ramps = []
    for side in size:
        from_edge = torch.minimum(torch.arange(side), torch.arange(side).flip(0)) + 1
        ramps.append((from_edge / _OVERLAP).clamp(max=1))
    return ramps[0][:, None] * ramps[1]


def content_of(window: Window, content: Size) -> Size:
    """Give the height and width of what a window shows of the content."""
    height, width = (
        min(own, span.stop) - span.start
        for span, own in zip(window, content, strict=True)
    )
    return height, width


def scaled_window(window: Window, content: Size, size: Size) -> Window:
    """Give the window in an array of another resolution than the content's."""
    rows, cols = (
        slice(round(span.start * new / old), round(min(span.stop, old) * new / old))
        for span, old, new in zip(window, content, size, strict=True)
    )
    return rows, cols

"""Clicks: the structure that one lies in, and masks mended where one says so.

LiteMedSAM was trained on boxes alone, and makes nothing of SAM's points: a click alone
has a Dice of 0, and clicks beside a box make its mask worse (docs/choices.md). So a
click becomes boxes, of which the best mask is taken, and further clicks move the
boundary of what is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from medsaga.prompts.prompt import Click

    Decode = Callable[[Tensor], tuple[Tensor, Tensor]]
    """Takes (n, 4) boxes; gives (n, height, width) logits and (n,) qualities."""

# Sides of the boxes that are tried around a click, of an image of 256 pixels.
_SIDES = (8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0)
_MOST_REDRAWN = 4  # the best of them
_OUTSIDE = -9.0
# A click speaks for what lies around it, up to so many times as far as the boundary.
_REACH, _LEAST_REACH = 1.5, 1.5
_SURE = 2.0  # logit that a mended pixel gets at least
_LIKE = 0.5  # logits that differ by less are taken for alike


def mask_around(
    decode: Decode, place: tuple[float, float], size: tuple[int, int], side: int
) -> tuple[Tensor, float]:
    """Give the logits of the structure that a place lies in.

    Boxes of several sizes around it are tried, the best are drawn anew around what
    their masks have there, and the mask is taken that the network finds best and that
    fills its box.

    Parameters
    ----------
    decode
        Gives the masks of boxes.
    place
        Row and column, in pixels of the image.
    size
        Height and width of its content.
    side
        Pixels along each side of the image with its padding.

    Returns
    -------
    logits : Tensor
        (height, width), far below 0 beside the structure.
    quality : float
        What the network takes for its overlap; 0 where nothing was found.
    """
    half = torch.tensor(_SIDES) * side / (2 * 256)
    row, column = place
    boxes = torch.stack([column - half, row - half, column + half, row + half], 1)
    logits, qualities = decode(_within(boxes, size))
    pixel = min(int(row), size[0] - 1), min(int(column), size[1] - 1)
    parts = [_part_at(one, pixel) for one in logits]
    order = qualities.argsort(descending=True).tolist()
    drawn = [_box_of(part) for n in order if (part := parts[n]) is not None]
    best, score = torch.full_like(logits[0], _OUTSIDE), 0.0
    if not drawn:
        return best, score
    boxes = torch.tensor(drawn[:_MOST_REDRAWN])
    for one, quality, box in zip(*decode(boxes), boxes, strict=True):
        part = _part_at(one, pixel)
        if part is None:
            continue
        fits = float(quality) * _overlap(torch.tensor(_box_of(part)), box)
        if fits > score:
            best, score = torch.where(part, one, _OUTSIDE), fits
    return best, score


def _within(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    most = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    return boxes.clamp_min(0).minimum(most)


def _part_at(logits: Tensor, pixel: tuple[int, int]) -> Tensor | None:
    """Give the connected part of a mask that a pixel is in; None outside of it."""
    parts, _ = ndimage.label(logits.cpu().numpy() > 0)
    number = parts[pixel]
    return torch.from_numpy(parts == number).to(logits.device) if number else None


def _box_of(part: Tensor) -> list[float]:
    rows, columns = torch.nonzero(part, as_tuple=True)
    first, last = (rows.min(), columns.min()), (rows.max() + 1, columns.max() + 1)
    return [float(first[1]), float(first[0]), float(last[1]), float(last[0])]


def _overlap(one: Tensor, other: Tensor) -> float:
    """Give the intersection of two boxes over their union."""
    low, high = torch.maximum(one[:2], other[:2]), torch.minimum(one[2:], other[2:])
    both = (high - low).clamp_min(0).prod()
    areas = (one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()
    return float(both / (areas - both).clamp_min(1e-6))


def mend(logits: NDArray[np.float32], click: Click) -> NDArray[np.float32]:
    """Move a mask's boundary so that a click is in it, or no longer.

    What is as likely as the clicked pixel, or likelier, joins the mask as far as half
    as far again as the mask is away; and the reverse.

    Parameters
    ----------
    logits
        (rows, columns) of the slice, above 0 inside.
    click
        In pixels of the slice.
    """
    rows, columns = logits.shape
    row, column = min(int(click.row), rows - 1), min(int(click.column), columns - 1)
    inside = logits > 0
    here = logits[row, column]
    away = _distance_to_boundary(inside, (row, column))
    reach = _REACH * away + _LEAST_REACH
    y, x = np.ogrid[:rows, :columns]
    near = (y - row) ** 2 + (x - column) ** 2 <= reach * reach
    mended = logits.copy()
    if click.adds:
        joins = near & (logits >= here - _LIKE)
        mended[joins] = np.maximum(mended[joins], _SURE)
    else:
        leaves = near & (logits <= here + _LIKE)
        mended[leaves] = np.minimum(mended[leaves], -_SURE)
    return mended


def _distance_to_boundary(inside: NDArray[np.bool_], pixel: tuple[int, int]) -> float:
    """Give how far the nearest pixel of the other kind is; without one a pixel."""
    others = np.argwhere(inside != inside[pixel])
    if not len(others):
        return 1.0
    return float(np.sqrt(((others - np.array(pixel)) ** 2).sum(1).min()))

"""The class logits of one slice, at the slice's own resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medsaga.computing import FixedPrecision, autocast
from medsaga.network.bands import (
    MOST_VALUES,
    Band,
    resize,
    restore_in_bands,
    rows_of_tiles,
)
from medsaga.windows import Size, Window, WorkingImage, view_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medsaga.network.medsaga import MedSAGa


@dataclass(frozen=True, eq=False, kw_only=True)
class SliceLogits:
    """What a network says of a slice, at the resolution at which it says it.

    Attributes
    ----------
    planes
        (k, h, w) fp32, at the working image's size or a fraction of it.
    padded
        Height and width of the working image.
    content
        Those of its part that is not padding.
    size
        Rows and columns of the slice.
    """

    planes: Tensor
    padded: Size
    content: Size
    size: Size

    def with_planes(self, planes: Tensor) -> SliceLogits:
        """Give others of the same slice, or of one that is as large."""
        return replace(self, planes=planes)

    def restore(self) -> Tensor:
        """Give the (k, rows, columns) logits at the slice's own resolution."""
        return resize(self._working(), self.size)

    def bands(self) -> Iterator[Band]:
        """Give the same, band by band of rows; one that is small as a whole."""
        rows, columns = self.size
        if len(self.planes) * rows * columns <= MOST_VALUES:
            yield slice(0, rows), self.restore()
            return
        yield from restore_in_bands([self._working()], self.content, self.size)

    def _working(self) -> Tensor:
        """Give those of the content, at the working image's size."""
        # Upsampled first: a cut at the logits' own size would fall between its pixels.
        full = resize(self.planes.float(), self.padded)
        return full[:, : self.content[0], : self.content[1]]


def predict_image(
    network: MedSAGa, seen: WorkingImage, precision: FixedPrecision, tile: int = 0
) -> Tensor:
    """Return the logits of a working image. The network must be in eval mode.

    Parameters
    ----------
    network
        The model.
    seen
        What it is to look at.
    precision
        The number format to compute in.
    tile
        Longest side of what the network sees at once; 0: the whole image.

    Returns
    -------
    Tensor
        (k, rows, columns), fp32, on the network's device.
    """
    return look_at(network, seen, precision, tile).restore()


def look_at(
    network: MedSAGa, seen: WorkingImage, precision: FixedPrecision, tile: int = 0
) -> SliceLogits:
    """Return the same at the resolution at which the network gives it."""
    padded, content = seen.padded, seen.content
    if view_size(padded, tile) == padded:
        planes = _logits(network, seen.image, precision).float()
    else:
        planes = torch.cat(list(_tile_rows(network, seen, precision, tile)), dim=1)
        padded = content
    return SliceLogits(planes=planes, padded=padded, content=content, size=seen.size)


def predict_in_bands(
    network: MedSAGa, seen: WorkingImage, precision: FixedPrecision, tile: int = 0
) -> Iterator[Band]:
    """Yield what :func:`predict_image` returns, band by band of rows.

    Of an image that is seen in tiles no more is held than a row of them.
    """
    if view_size(seen.padded, tile) == seen.padded:
        return look_at(network, seen, precision).bands()
    rows = _tile_rows(network, seen, precision, tile)
    return restore_in_bands(rows, seen.content, seen.size)


def _tile_rows(
    network: MedSAGa, seen: WorkingImage, precision: FixedPrecision, tile: int
) -> Iterator[Tensor]:
    def look(window: Window) -> Tensor:
        return _logits(network, seen.image[:, window[0], window[1]], precision)

    return rows_of_tiles(look, seen.content, seen.padded, tile)


def _logits(network: MedSAGa, image: Tensor, precision: FixedPrecision) -> Tensor:
    device = next(network.parameters()).device
    images = image[None].to(device, memory_format=torch.channels_last)
    with torch.no_grad(), autocast(device, precision):
        logits: Tensor = network(images)[0]
    return logits

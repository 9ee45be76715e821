"""The class logits of one slice, at the slice's own resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from medsaga.computing import FixedPrecision, autocast
from medsaga.windows import Size, view_size, window_weight, windows

if TYPE_CHECKING:
    from medsaga.network.medsaga import MedSAGa


def predict_image(
    network: MedSAGa,
    image: Tensor,
    content: Size,
    size: Size,
    precision: FixedPrecision,
    tile: int = 0,
) -> Tensor:
    """Return the logits of a working image. The network must be in eval mode.

    Parameters
    ----------
    network
        The model.
    image
        (3, H, W) in [0, 1], padded.
    content
        Height and width of the part that is not padding.
    size
        Rows and columns of the slice that it was made of.
    precision
        The number format to compute in.
    tile
        Longest side of what the network sees at once; 0: the whole image.

    Returns
    -------
    Tensor
        (k, rows, columns), fp32, on the network's device.
    """
    padded = (image.shape[1], image.shape[2])
    if view_size(padded, tile) == padded:
        logits = _logits(network, image, precision)
    else:
        logits = _from_tiles(network, image, content, precision, tile)
    return restore_logits(
        logits, padded=padded, content=content, rows=size[0], cols=size[1]
    )


def _logits(network: MedSAGa, image: Tensor, precision: FixedPrecision) -> Tensor:
    device = next(network.parameters()).device
    images = image[None].to(device, memory_format=torch.channels_last)
    with torch.no_grad(), autocast(device, precision):
        logits: Tensor = network(images)[0]
    return logits


def _from_tiles(
    network: MedSAGa,
    image: Tensor,
    content: Size,
    precision: FixedPrecision,
    tile: int,
) -> Tensor:
    """Give the logits of an image, of tiles that fade into one another."""
    padded = (image.shape[1], image.shape[2])
    size = view_size(padded, tile)
    weight = window_weight(size).to(next(network.parameters()).device)
    total, seen = weight.new_zeros(padded), None
    for rows, cols in windows(content, padded, tile):
        part = _logits(network, image[:, rows, cols], precision).float()
        if part.shape[-2:] != size:
            part = _resize(part, size)
        if seen is None:
            seen = part.new_zeros((len(part), *padded))
        seen[:, rows, cols] += part * weight
        total[rows, cols] += weight
    assert seen is not None
    return seen.div_(total.clamp_min(1e-6))


def restore_logits(
    logits: Tensor, *, padded: Size, content: Size, rows: int, cols: int
) -> Tensor:
    """Bring a model's logits back to a slice's own resolution.

    Parameters
    ----------
    logits
        (k, H, W), at the working image's size or a fraction of it.
    padded
        (height, width) of the working image that went into the model.
    content
        Height and width of its top left part that is not padding.
    rows, cols
        Size of the slice.

    Returns
    -------
    Tensor
        (k, rows, cols) float32.
    """
    full = logits.float()
    if full.shape[-2:] != padded:
        # Upsampled first: a cut at the logits' own size would fall between its pixels.
        full = _resize(full, padded)
    return _resize(full[:, : content[0], : content[1]], (rows, cols))


def _resize(planes: Tensor, size: Size) -> Tensor:
    if planes.shape[-2:] == size:
        return planes
    return F.interpolate(planes[None], size=size, mode="bilinear", antialias=True)[0]

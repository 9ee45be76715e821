"""The class logits of one slice, at the slice's own resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from medsaga.computing import FixedPrecision, autocast

if TYPE_CHECKING:
    from medsaga.network.medsaga import MedSAGa


_Size = tuple[int, int]


def predict_image(
    network: MedSAGa,
    image: Tensor,
    content: _Size,
    size: _Size,
    precision: FixedPrecision,
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

    Returns
    -------
    Tensor
        (k, rows, columns), fp32, on the network's device.
    """
    device = next(network.parameters()).device
    images = image[None].to(device, memory_format=torch.channels_last)
    with torch.no_grad(), autocast(device, precision):
        logits = network(images)[0]
    padded = (image.shape[1], image.shape[2])
    return restore_logits(
        logits, padded=padded, content=content, rows=size[0], cols=size[1]
    )


def restore_logits(
    logits: Tensor, *, padded: _Size, content: _Size, rows: int, cols: int
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


def _resize(planes: Tensor, size: _Size) -> Tensor:
    return F.interpolate(planes[None], size=size, mode="bilinear", antialias=True)[0]

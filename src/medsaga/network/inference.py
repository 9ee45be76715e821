"""The class logits of one slice, at the slice's own resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medsaga.computing import FixedPrecision, autocast
from medsaga.data.samples import working_image
from medsaga.data.sizing import restore_logits

if TYPE_CHECKING:
    from medsaga.data.canvas import Canvas, Size
    from medsaga.data.volume import Volume
    from medsaga.network.medsaga import MedSAGa


def predict_slice(
    network: MedSAGa,
    volume: Volume,
    axis: int,
    index: int,
    *,
    limits: tuple[float, float],
    canvas: Canvas,
    precision: FixedPrecision,
) -> Tensor:
    """Return the logits of one slice. The network must be in eval mode.

    Parameters
    ----------
    network
        The model.
    volume, axis, index
        Slice `index` across `axis` of this volume.
    limits
        The intensities that become 0 and 1.
    canvas
        The working size, and what the channels hold.
    precision
        The number format to compute in.

    Returns
    -------
    Tensor
        (k, rows, columns), fp32, on the network's device.

    Raises
    ------
    MedsagaError
        If the model looks at neighbouring slices and the volume has colours.
    """
    image, content = working_image(volume, axis, index, limits, canvas)
    size = volume.slice_shape(axis)
    return predict_image(network, image, content, size, precision)


def predict_image(
    network: MedSAGa,
    image: Tensor,
    content: Size,
    size: Size,
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

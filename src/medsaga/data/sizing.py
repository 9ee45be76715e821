"""Scaling and padding: from a slice to the model's working image and back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medsaga.windows import Size

_FINEST = 4
IGNORE = -1
"""Class index of pixels that no loss and no score counts, such as padding."""


def resize_image(array: NDArray[Any], size: Size) -> Tensor:
    """Scale an image with antialiased bilinear interpolation.

    Parameters
    ----------
    array
        (rows, columns) or (rows, columns, 3), float in [0, 1].
    size
        (height, width) of the result.

    Returns
    -------
    Tensor
        (3, height, width) float32 in [0, 1]. Grey is one plane seen three times: do
        not write into it.
    """
    image = _tensor(array)
    planes = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
    if planes.shape[-2:] != size:
        planes = _bilinear(planes, size).clamp(0, 1)
    return planes.expand(3, -1, -1)


def resize_target(
    indices: NDArray[Any], size: Size, *, keep_strokes: bool = False
) -> Tensor:
    """Scale class indices (rows, columns) to (height, width) int64.

    Each pixel takes the class that has most of it, weighted as :func:`resize_image`
    weights the image, whose boundaries so stay where the image has them: nearest
    pixels are half a pixel off at half the size. With `keep_strokes` as
    :func:`scale_targets` does.
    """
    if keep_strokes:
        return scale_targets(_tensor(indices)[None], size, keep_strokes=True)[0]
    if tuple(indices.shape) == tuple(size):
        return _tensor(indices).long()
    found = torch.full(size, IGNORE)
    most = torch.full(size, -math.inf)
    # One after the other: all at once they would be large at the slice's own size.
    for index in np.unique(indices).tolist():
        part = _bilinear(_tensor(indices == index)[None], size)[0]
        found[part > most] = index
        most = torch.maximum(most, part)
    return found


def labels_for_views(indices: NDArray[Any], content: Size) -> Tensor:
    """Give the class indices of a slice as finely as views of it are drawn from them.

    Parameters
    ----------
    indices
        (rows, columns) class indices, -1 where ignored, at the slice's own resolution.
    content
        Height and width of the slice at the working size.

    Returns
    -------
    Tensor
        int16, at the slice's own resolution, but at least that of `content` and at
        most four times that along each axis: a boundary then lies within an eighth of
        a working pixel of where it was painted.
    """
    rows, cols = (
        min(max(own, working), _FINEST * working)
        for own, working in zip(indices.shape, content, strict=True)
    )
    return resize_target(indices, (rows, cols)).short()


def scale_targets(targets: Tensor, size: Size, *, keep_strokes: bool = False) -> Tensor:
    """Scale class indices, nearest pixel.

    Parameters
    ----------
    targets
        (B, H, W) class indices, -1 where ignored.
    size
        (height, width) of the result.
    keep_strokes
        Where that pixel is ignored, take another one that comes to lie in the same
        place, the class with the highest index: a stroke of one pixel would vanish
        where an image shrinks.

    Returns
    -------
    Tensor
        (B, *size) int64.
    """
    scaled = _nearest(targets, size)
    if keep_strokes:
        height, width = targets.shape[1:]
        # Where it is enlarged, the nearest pixel misses none.
        smaller = min(height, size[0]), min(width, size[1])
        scaled = torch.where(
            scaled == IGNORE, _nearest(_highest(targets, smaller), size), scaled
        )
    return scaled


def _nearest(targets: Tensor, size: Size) -> Tensor:
    planes = targets[:, None].float()
    return F.interpolate(planes, size=size, mode="nearest-exact")[:, 0].long()


def _highest(targets: Tensor, size: Size) -> Tensor:
    """Shrink (B, H, W) to the highest index of the pixels in each place."""
    places = [
        (2 * torch.arange(n, device=targets.device) + 1) * m // (2 * n)
        for n, m in zip(targets.shape[1:], size, strict=True)
    ]
    place = (places[0][:, None] * size[1] + places[1]).flatten()
    found = targets.new_full((len(targets), size[0] * size[1]), IGNORE)
    found = found.scatter_reduce(
        1, place.expand(len(targets), -1), targets.flatten(1), "amax"
    )
    return found.reshape(-1, *size)


def pad_image(image: Tensor, size: Size) -> Tensor:
    """Pad (3, h, w) with 0 at the bottom and the right to (3, *size)."""
    # Grey stays one plane seen three times, a third of the memory of a large data set.
    planes = image[:1] if image.stride(0) == 0 else image
    return _pad(planes, size, 0).expand(3, -1, -1)


def pad_target(target: Tensor, size: Size) -> Tensor:
    """Pad (h, w) with -1, ignored, at the bottom and the right to `size`."""
    return _pad(target, size, IGNORE)


def collate(
    pairs: Sequence[tuple[Tensor, Tensor]], least: Size = (0, 0)
) -> tuple[Tensor, Tensor]:
    """Pad images and targets to their largest height and width and stack them.

    Parameters
    ----------
    pairs
        ((3, h, w) image, (h, w) target), sizes may differ.
    least
        Height and width that they are padded to at least.

    Returns
    -------
    tuple of Tensor
        (B, 3, H, W) images and (B, H, W) targets.
    """
    size = (
        max(least[0], *(target.shape[0] for _, target in pairs)),
        max(least[1], *(target.shape[1] for _, target in pairs)),
    )
    images = torch.stack([pad_image(image, size) for image, _ in pairs])
    return images, torch.stack([pad_target(target, size) for _, target in pairs])


def _tensor(array: NDArray[Any]) -> Tensor:
    # Torch takes no array that is mirrored or of foreign byte order, and warns of a
    # read-only one: those are copied.
    return torch.from_numpy(np.require(array, np.float32, ("C", "W")))


def _bilinear(planes: Tensor, size: Size) -> Tensor:
    """Scale (channels, h, w); where it shrinks, the pixels in between are averaged."""
    return F.interpolate(
        planes[None], size=size, mode="bilinear", align_corners=False, antialias=True
    )[0]


def _pad(planes: Tensor, size: Size, value: int) -> Tensor:
    below, beside = size[0] - planes.shape[-2], size[1] - planes.shape[-1]
    if not (below or beside):
        return planes  # without the copy
    return F.pad(planes, (0, beside, 0, below), value=value)

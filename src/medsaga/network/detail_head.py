"""The detail head: a per-pixel classifier over a backbone's feature pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medsaga.network.backbones.base import Level

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH = 128
"""Channels that are classified."""
DROPOUT = 0.1
"""Share of them that a training leaves out at random."""
# SAM's decoder gives its masks at a quarter of the embedding's stride.
_DECODER_SCALE = 4


class ConvStem(nn.Module):
    """Fine feature maps for a backbone that has none: three strided convolutions.

    A ViT's tokens are 16 pixels apart, too coarse for the edges of small structures.
    """

    levels = (Level(64, 4), Level(128, 8))

    def __init__(self) -> None:
        super().__init__()
        (fine, _), (coarse, _) = self.levels
        self.to_half = nn.Conv2d(3, fine // 2, 3, stride=2, padding=1)
        self.to_quarter = nn.Conv2d(fine // 2, fine, 3, stride=2, padding=1)
        self.to_eighth = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return (B, 64, H / 4, W / 4) and (B, 128, H / 8, W / 8) maps of images."""
        quarter = F.gelu(self.to_quarter(F.gelu(self.to_half(images))))
        return [quarter, F.gelu(self.to_eighth(quarter))]


class DetailHead(nn.Module):
    """Class logits from all levels of a pyramid, at the finest level's resolution.

    Each level goes through a 1 x 1 convolution to a common width and is enlarged; their
    sum goes through ReLU, dropout and a 1 x 1 convolution to the classes.

    Parameters
    ----------
    levels
        Channels and strides of the backbone's pyramid. If none is as fine as the mask
        decoder's output, a :class:`ConvStem` adds some.
    n_classes
        Number of classes k, background included.

    Attributes
    ----------
    levels
        The stem's, if there is one, and then the backbone's.
    """

    def __init__(self, levels: Sequence[Level], n_classes: int) -> None:
        super().__init__()
        finest = min(level.stride for level in levels)
        is_coarse = finest > max(1, levels[-1].stride // _DECODER_SCALE)
        self.stem = ConvStem() if is_coarse else None
        self.levels: tuple[Level, ...] = (
            *(self.stem.levels if self.stem else ()),
            *levels,
        )
        self.reduce = nn.ModuleList(
            nn.Conv2d(level.channels, WIDTH, 1, bias=False) for level in self.levels
        )
        self.bias = nn.Parameter(torch.zeros(WIDTH, 1, 1))
        # Of whole channels: random numbers for every pixel cost 3 % of a step.
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classify = nn.Conv2d(WIDTH, n_classes, 1)

    def forward(self, pyramid: Sequence[Tensor], images: Tensor) -> Tensor:
        """Return (B, k, h, w) logits of the finest level's resolution.

        Parameters
        ----------
        pyramid
            What the backbone gives of `images`.
        images
            (B, 3, H, W) in [0, 1].
        """
        logits: Tensor = self.classify(self.dropout(self.hidden(pyramid, images)))
        return logits

    def hidden(self, pyramid: Sequence[Tensor], images: Tensor) -> Tensor:
        """Return the (B, 128, h, w) maps that are classified."""
        return F.relu(self._mix(self.features(pyramid, images)))

    def features(self, pyramid: Sequence[Tensor], images: Tensor) -> list[Tensor]:
        """Return the maps that the head looks at, one for each of `levels`."""
        return [*(self.stem(images) if self.stem else ()), *pyramid]

    def _mix(self, maps: Sequence[Tensor]) -> Tensor:
        sums: dict[tuple[int, ...], Tensor] = {}  # maps of one size add up before
        for reduce, level in zip(self.reduce, maps, strict=True):  # they are enlarged
            reduced = reduce(level)
            size = reduced.shape[-2:]
            sums[size] = sums[size] + reduced if size in sums else reduced
        finest = max(sums)
        mixed = sums.pop(finest)
        for coarse in sums.values():
            mixed = mixed + F.interpolate(
                coarse, size=finest, mode="bilinear", align_corners=False
            )
        return mixed + self.bias


def sample_pyramid(
    maps: Iterable[Tensor], points: Tensor, size: tuple[int, int]
) -> Tensor:
    """Read the features of single pixels, as bilinear enlargement would give them.

    Parameters
    ----------
    maps
        Feature maps (1, channels, h, w) of one image.
    points
        (n, 2) row and column of pixels of the image.
    size
        Rows and columns of the image.

    Returns
    -------
    Tensor
        (n, sum of channels), the maps' channels one after the other.
    """
    extent = torch.tensor(size, device=points.device)
    centred = (2 * points + 1) / extent - 1  # pixel centres, the image spans [-1, 1]
    grid = centred.flip(-1).view(1, 1, -1, 2)  # grid_sample wants (x, y)
    return torch.cat(
        [
            F.grid_sample(
                level.float(),
                grid.float(),
                mode="bilinear",
                padding_mode="border",
                align_corners=False,
            )[0, :, 0].T
            for level in maps
        ],
        dim=1,
    )

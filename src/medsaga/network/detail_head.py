"""The detail head: a per-pixel classifier over a backbone's feature pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medsaga.computing import seeded
from medsaga.network.backbones.base import Level

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WIDTH = 128
_DROPOUT = 0.1
_LEAST_DEVIATION = 0.3
# Measured: Dice on other slices and images is some 0.02 higher than without.
_LABEL_SMOOTHING = 0.1
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
            nn.Conv2d(level.channels, _WIDTH, 1, bias=False) for level in self.levels
        )
        self.bias = nn.Parameter(torch.zeros(_WIDTH, 1, 1))
        # Of whole channels: random numbers for every pixel cost 3 % of a step.
        self.dropout = nn.Dropout2d(_DROPOUT)
        self.classify = nn.Conv2d(_WIDTH, n_classes, 1)

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


class PixelFit:
    """The detail head and the decoder's linear map, fitted jointly on sampled pixels.

    A two-layer classifier on standardised pyramid features plus a linear one on
    standardised decoder features. :meth:`write_to` folds the standardisation into the
    network's own convolutions, so that the network computes the same logits.

    Parameters
    ----------
    features
        (n, D) features of n pixels: the pyramid's, then the decoder's. Standardised in
        place to save memory.
    targets
        (n,) class indices.
    channels
        How many of the D features come from each map; the last map is the decoder's.
    n_classes
        Number of classes k.
    learning_rate
        AdamW's.
    seed
        Of the initial weights, the batches and the dropout.

    Attributes
    ----------
    layers
        What is fitted.
    """

    def __init__(
        self,
        features: Tensor,
        targets: Tensor,
        *,
        channels: Sequence[int],
        n_classes: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        self._features, self._targets = features, targets
        *_, n_decoder = channels
        self._n_pyramid = features.shape[1] - n_decoder
        self._mean, self._deviation = _standardise(features, channels)
        device = features.device
        with seeded(torch.device("cpu"), seed):
            self._reduce = nn.Linear(self._n_pyramid, _WIDTH).to(device)
            self._classify = nn.Linear(_WIDTH, n_classes).to(device)
            self._linear = nn.Linear(n_decoder, n_classes, bias=False).to(device)
        self._generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList([self._reduce, self._classify, self._linear])
        self._optimizer = torch.optim.AdamW(
            self.layers.parameters(), lr=learning_rate, weight_decay=0.01
        )

    def step(self, batch_size: int = 1024) -> float:
        """Take one optimiser step on randomly drawn pixels and return the loss."""
        chosen = torch.randint(
            len(self._targets), (batch_size,), generator=self._generator
        ).to(self._targets.device)
        features = self._features[chosen].float()
        logits = self._logits(features)
        loss = F.cross_entropy(
            logits, self._targets[chosen], label_smoothing=_LABEL_SMOOTHING
        )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.item()

    def _logits(self, features: Tensor) -> Tensor:
        pyramid, decoder = torch.tensor_split(features, [self._n_pyramid], dim=1)
        hidden = F.relu(self._reduce(pyramid))
        kept = torch.rand(hidden.shape, generator=self._generator) >= _DROPOUT
        hidden = hidden * kept.to(hidden) / (1 - _DROPOUT)
        logits: Tensor = self._classify(hidden) + self._linear(decoder)
        return logits

    @torch.no_grad()
    def write_to(self, head: DetailHead) -> Tensor:
        """Copy the fit into `head` and return the decoder's (k, n_decoder) map."""
        n = self._n_pyramid
        weight = self._reduce.weight / self._deviation[:n]
        head.bias[:, 0, 0] = self._reduce.bias - weight @ self._mean[:n]
        channels = [level.channels for level in head.levels]
        for convolution, part in zip(
            head.reduce, torch.split(weight, channels, dim=1), strict=True
        ):
            convolution.get_parameter("weight")[:, :, 0, 0] = part
        linear = self._linear.weight / self._deviation[n:]
        head.classify.weight[:, :, 0, 0] = self._classify.weight
        # The masks of the decoder have no bias of their own: the head's carries it.
        bias = head.classify.bias
        assert bias is not None
        bias.copy_(self._classify.bias - linear @ self._mean[n:])
        return linear


def _standardise(features: Tensor, channels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Standardise the columns in place, in blocks, and return means and deviations.

    No deviation is taken for less than a part of the median of its map's. Some of
    LiteMedSAM's channels are dead: divided by their own deviation they would get
    weights in the hundreds, and the first change of the encoder would drown the logits.
    """
    rows = features.shape[0]
    total = torch.zeros(features.shape[1], device=features.device)
    squares = torch.zeros_like(total)
    for block in torch.split(features, 8192):
        total += block.float().sum(0)
    mean = total / rows
    for block in torch.split(features, 8192):
        squares += (block.float() - mean).square().sum(0)
    maps = torch.split((squares / rows).sqrt().clamp_min(1e-4), list(channels))
    deviation = torch.cat([d.clamp_min(_LEAST_DEVIATION * d.median()) for d in maps])
    for block in torch.split(features, 8192):
        block.copy_((block.float() - mean) / deviation)
    return mean, deviation

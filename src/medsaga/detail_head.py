"""The detail head: a per-pixel classifier over a backbone's feature pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medsaga.computing import seeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from medsaga.backbones.base import Level

_WIDTH = 128
_DROPOUT = 0.1


class DetailHead(nn.Module):
    """Class logits from all levels of a pyramid, at the finest level's resolution.

    Each level goes through a 1 x 1 convolution to a common width and is enlarged; their
    sum goes through ReLU, dropout and a 1 x 1 convolution to the classes.

    Parameters
    ----------
    levels
        The pyramid's channels and strides.
    n_classes
        Number of classes k, background included.
    """

    def __init__(self, levels: Sequence[Level], n_classes: int) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.reduce = nn.ModuleList(
            nn.Conv2d(level.channels, _WIDTH, 1, bias=False) for level in levels
        )
        self.bias = nn.Parameter(torch.zeros(_WIDTH, 1, 1))
        # Of whole channels: random numbers for every pixel cost 3 % of a step.
        self.dropout = nn.Dropout2d(_DROPOUT)
        self.classify = nn.Conv2d(_WIDTH, n_classes, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return (B, k, h, w) logits of a pyramid's finest resolution."""
        logits: Tensor = self.classify(self.dropout(F.relu(self._mix(pyramid))))
        return logits

    def _mix(self, pyramid: Sequence[Tensor]) -> Tensor:
        sums: dict[tuple[int, ...], Tensor] = {}  # maps of one size add up before
        for reduce, level in zip(
            self.reduce, pyramid, strict=True
        ):  # they are enlarged
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
    n_decoder
        How many of the D features are the decoder's.
    n_classes
        Number of classes k.
    learning_rate
        AdamW's.
    seed
        Of the initial weights, the batches and the dropout.
    """

    def __init__(
        self,
        features: Tensor,
        targets: Tensor,
        *,
        n_decoder: int,
        n_classes: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        self._features, self._targets = features, targets
        self._n_pyramid = features.shape[1] - n_decoder
        self._mean, self._deviation = _standardise(features)
        device = features.device
        with seeded(torch.device("cpu"), seed):
            self._reduce = nn.Linear(self._n_pyramid, _WIDTH).to(device)
            self._classify = nn.Linear(_WIDTH, n_classes).to(device)
            self._linear = nn.Linear(n_decoder, n_classes, bias=False).to(device)
        self._generator = torch.Generator().manual_seed(seed)
        modules = nn.ModuleList([self._reduce, self._classify, self._linear])
        self._optimizer = torch.optim.AdamW(
            modules.parameters(), lr=learning_rate, weight_decay=0.01
        )

    def step(self, batch_size: int = 1024) -> float:
        """Take one optimiser step on randomly drawn pixels and return the loss."""
        chosen = torch.randint(
            len(self._targets), (batch_size,), generator=self._generator
        ).to(self._targets.device)
        features = self._features[chosen].float()
        logits = self._logits(features)
        loss = F.cross_entropy(logits, self._targets[chosen])
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


def _standardise(features: Tensor) -> tuple[Tensor, Tensor]:
    """Standardise the columns in place, in blocks, and return means and deviations."""
    rows = features.shape[0]
    total = torch.zeros(features.shape[1], device=features.device)
    squares = torch.zeros_like(total)
    for block in torch.split(features, 8192):
        total += block.float().sum(0)
    mean = total / rows
    for block in torch.split(features, 8192):
        squares += (block.float() - mean).square().sum(0)
    deviation = (squares / rows).sqrt().clamp_min(1e-4)
    for block in torch.split(features, 8192):
        block.copy_((block.float() - mean) / deviation)
    return mean, deviation

"""The detail head and the decoder's linear map, fitted to features of pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medsaga.computing import seeded
from medsaga.network.detail_head import DROPOUT, WIDTH
from medsaga.training.optim.averaging import WeightAverage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsaga.network.detail_head import DetailHead

_LEAST_DEVIATION = 0.3
_LOWER_RATE = 0.5
# Measured: Dice on other slices and images is some 0.02 higher than without.
LABEL_SMOOTHING = 0.1


class FitLayers(nn.Module):
    """A two-layer classifier of the pyramid's features, a linear one of the decoder's.

    Parameters
    ----------
    n_pyramid, n_decoder
        How many features there are.
    n_classes
        Number of classes k.
    seed
        Of the initial weights, drawn on the CPU.
    """

    def __init__(
        self, n_pyramid: int, n_decoder: int, n_classes: int, seed: int
    ) -> None:
        super().__init__()
        with seeded(torch.device("cpu"), seed):
            self.reduce = nn.Linear(n_pyramid, WIDTH)
            self.classify = nn.Linear(WIDTH, n_classes)
            self.linear = nn.Linear(n_decoder, n_classes, bias=False)


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
    features, targets
        As given, the features standardised by `scale`, which are means and deviations.
    n_pyramid
        How many of the features are the pyramid's.
    learning_rate, seed
        As given.
    n_steps
        Steps so far.
    averages_after
        After so many steps the weights of each go into a mean, which :meth:`finish`
        puts in their place; None for none.
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
        self.features, self.targets = features, targets
        self.learning_rate, self.seed = learning_rate, seed
        *_, n_decoder = channels
        self.n_pyramid = features.shape[1] - n_decoder
        self.scale = _standardise(features, channels)
        self.layers = FitLayers(self.n_pyramid, n_decoder, n_classes, seed)
        self.layers.to(features.device)
        self._generator = torch.Generator().manual_seed(seed)
        self.n_steps = 0
        self.averages_after: float | None = None
        self._average = WeightAverage(self.layers)
        self._optimizer = torch.optim.AdamW(
            self.layers.parameters(), lr=learning_rate, weight_decay=0.01
        )

    def step(self, batch_size: int = 1024) -> float:
        """Take one optimiser step on randomly drawn pixels and return the loss.

        One that is not finite changes nothing but the rate of the steps after it.
        """
        chosen = torch.randint(
            len(self.targets), (batch_size,), generator=self._generator
        ).to(self.targets.device)
        features = self.features[chosen].float()
        logits = self._logits(features)
        loss = F.cross_entropy(
            logits, self.targets[chosen], label_smoothing=LABEL_SMOOTHING
        )
        self.n_steps += 1
        value: float = loss.item()
        if not math.isfinite(value):
            for group in self._optimizer.param_groups:
                group["lr"] *= _LOWER_RATE
            return value
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self.averages_after is not None and self.n_steps > self.averages_after:
            self._average.update()
        return value

    def finish(self) -> None:
        """Put the mean of the late weights in their place."""
        self._average.write()

    def _logits(self, features: Tensor) -> Tensor:
        pyramid, decoder = torch.tensor_split(features, [self.n_pyramid], dim=1)
        hidden = F.relu(self.layers.reduce(pyramid))
        kept = torch.rand(hidden.shape, generator=self._generator) >= DROPOUT
        hidden = hidden * kept.to(hidden) / (1 - DROPOUT)
        logits: Tensor = self.layers.classify(hidden) + self.layers.linear(decoder)
        return logits

    def write_to(self, head: DetailHead) -> Tensor:
        """Copy the fit into `head` and return the decoder's (k, n_decoder) map."""
        return write_fit(self.layers, self.scale, head)


@torch.no_grad()
def write_fit(
    layers: FitLayers, scale: tuple[Tensor, Tensor], head: DetailHead
) -> Tensor:
    """Copy fitted layers into `head` and return the decoder's (k, n_decoder) map.

    The standardisation by `scale` is folded in, so that the network computes the same
    logits from features as they are.
    """
    mean, deviation = scale
    n = layers.reduce.in_features
    weight = layers.reduce.weight / deviation[:n]
    head.bias[:, 0, 0] = layers.reduce.bias - weight @ mean[:n]
    channels = [level.channels for level in head.levels]
    for convolution, part in zip(
        head.reduce, torch.split(weight, channels, dim=1), strict=True
    ):
        convolution.get_parameter("weight")[:, :, 0, 0] = part
    linear = layers.linear.weight / deviation[n:]
    head.classify.weight[:, :, 0, 0] = layers.classify.weight
    # The masks of the decoder have no bias of their own: the head's carries it.
    bias = head.classify.bias
    assert bias is not None
    bias.copy_(layers.classify.bias - linear @ mean[n:])
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

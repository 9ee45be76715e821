"""Heads fitted without one of the training slices each, all at the same time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medsaga.network.detail_head import DROPOUT, WIDTH
from medsaga.training.optim.averaging import WeightAverage
from medsaga.training.pixel_fit import LABEL_SMOOTHING, FitLayers, write_fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsaga.network.detail_head import DetailHead
    from medsaga.training.pixel_fit import PixelFit

_BATCH = 512


class LeftOutFits:
    """One head for each slice that is left out, fitted to the pixels of the others.

    A step draws pixels once, for all heads: it costs little more than one head's step.

    Parameters
    ----------
    fit
        The fit to the pixels of all slices, whose standardised features are used.
    slices
        (n,) number of the slice that each pixel comes from.
    left_out
        For each of the h heads the slice that it does not see.
    n_steps
        How many steps there will be; the weights' mean over the later half is kept.
    """

    def __init__(
        self,
        fit: PixelFit,
        slices: Tensor,
        left_out: Sequence[int],
        n_steps: int,
    ) -> None:
        self._fit, self._slices, self._n_steps = fit, slices, n_steps
        self._left_out = slices.new_tensor(left_out)
        of_all = fit.layers
        start = FitLayers(
            of_all.reduce.in_features,
            of_all.linear.in_features,
            of_all.classify.out_features,
            fit.seed,
        ).to(fit.features.device)
        self._stacked = nn.ParameterList(
            parameter.detach().expand(len(left_out), *parameter.shape).clone()
            for parameter in start.parameters()
        )
        self._layers = start
        self._generator = torch.Generator().manual_seed(fit.seed)
        self._average = WeightAverage(self._stacked)
        self._optimizer = torch.optim.AdamW(
            self._stacked.parameters(), lr=fit.learning_rate, weight_decay=0.01
        )

    def step(self, number: int) -> float:
        """Take step `number` of all and return the mean loss.

        One that is not finite changes nothing.
        """
        fit = self._fit
        chosen = torch.randint(
            len(fit.targets), (_BATCH,), generator=self._generator
        ).to(fit.targets.device)
        targets, n_heads = fit.targets[chosen], len(self._left_out)
        logits = self._logits(fit.features[chosen].float())
        loss = F.cross_entropy(
            logits.flatten(0, 1),
            targets.repeat(n_heads),
            label_smoothing=LABEL_SMOOTHING,
            reduction="none",
        ).view(n_heads, -1)
        seen = self._slices[chosen] != self._left_out[:, None]
        mean = (loss * seen).sum(1) / seen.sum(1).clamp_min(1)
        if not torch.isfinite(mean).all():
            return math.nan
        self._optimizer.zero_grad()
        mean.sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if number > self._n_steps / 2:
            self._average.update()
        return mean.mean().item()

    def finish(self) -> None:
        """Put the mean of the late weights in their place."""
        self._average.write()

    @torch.no_grad()
    def write_to(self, number: int, head: DetailHead) -> Tensor:
        """Copy head `number` into `head`, and return the decoder's map."""
        for own, stacked in zip(self._layers.parameters(), self._stacked, strict=True):
            own.copy_(stacked[number])
        return write_fit(self._layers, self._fit.scale, head)

    def _logits(self, features: Tensor) -> Tensor:
        """Give (h, pixels, classes)."""
        reduce, bias, classify, offset, linear = self._stacked
        pyramid, decoder = features.tensor_split([self._fit.n_pyramid], dim=1)
        hidden = F.relu(pyramid @ reduce.flatten(0, 1).T + bias.flatten())
        kept = torch.rand(len(features), WIDTH, generator=self._generator) >= DROPOUT
        hidden = hidden.view(len(features), -1, WIDTH) * kept.to(hidden)[:, None]
        hidden = hidden.transpose(0, 1) / (1 - DROPOUT)
        logits = hidden @ classify.transpose(1, 2) + offset[:, None]
        found: Tensor = logits + decoder @ linear.transpose(1, 2)
        return found

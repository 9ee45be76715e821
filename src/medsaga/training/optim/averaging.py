"""Copies of a network's weights: the running average, and the best so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from medsaga.events import Validated


class WeightAverage:
    """The mean of a network's parameters over the steps at which it was updated."""

    def __init__(self, network: nn.Module) -> None:
        self._parameters: list[Tensor] = list(network.parameters())
        self._mean: list[Tensor] = []
        self.n_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters as they are into the mean."""
        self.n_updates += 1
        if self.n_updates == 1:
            self._mean = [parameter.clone() for parameter in self._parameters]
            return
        torch._foreach_lerp_(self._mean, self._parameters, 1 / self.n_updates)

    def restart(self) -> None:
        """Forget the steps so far."""
        self._mean, self.n_updates = [], 0

    @torch.no_grad()
    def write(self) -> None:
        """Put the mean into the network; without any update nothing changes."""
        for parameter, mean in zip(self._parameters, self._mean, strict=False):
            parameter.copy_(mean)


class BestWeights:
    """The parameters that scored best, and their scores; None before the first."""

    def __init__(self, network: nn.Module) -> None:
        self._parameters = list(network.parameters())
        self._kept: list[Tensor] = []
        self.scores: Validated | None = None
        self.n_since = 0

    @property
    def score(self) -> float:
        """The mean Dice of the best."""
        return float("-inf") if self.scores is None else self.scores.mean_dice

    @torch.no_grad()
    def offer(self, scores: Validated) -> None:
        """Keep the parameters as they are if they are the best so far."""
        is_best = scores.mean_dice > self.score
        self.n_since = 0 if is_best else self.n_since + 1
        if is_best:
            self.scores = scores
            self._kept = [parameter.clone() for parameter in self._parameters]

    @torch.no_grad()
    def write(self) -> None:
        """Put the best parameters into the network; without any, nothing changes."""
        for parameter, kept in zip(self._parameters, self._kept, strict=False):
            parameter.copy_(kept)

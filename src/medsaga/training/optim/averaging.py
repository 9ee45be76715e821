"""Copies of a network's weights: the running average, and the best so far."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medsaga.events import Validated

if TYPE_CHECKING:
    from collections.abc import Mapping


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

    def state_dict(self) -> dict[str, Tensor]:
        """Give the mean of each parameter by its number; empty before any update."""
        return _numbered(self._mean)

    def load_state_dict(self, state: Mapping[str, Tensor], n_updates: int) -> None:
        """Take over a mean over `n_updates` steps."""
        self._mean = _in_order(state, self._parameters)
        self.n_updates = n_updates


class BestWeights:
    """The parameters that scored best, and their scores; None before the first.

    They are kept in the computer's memory: a GPU's is short, and they are seldom moved.
    """

    def __init__(self, network: nn.Module) -> None:
        self._parameters: list[Tensor] = list(network.parameters())
        self._kept: list[Tensor] = []
        self.scores: Validated | None = None

    @property
    def score(self) -> float:
        """The mean Dice of the best."""
        return float("-inf") if self.scores is None else self.scores.mean_dice

    @torch.no_grad()
    def offer(self, scores: Validated) -> None:
        """Keep the parameters as they are if they are the best so far."""
        if scores.mean_dice > self.score:
            self.scores = scores
            self._kept = [p.detach().to("cpu", copy=True) for p in self._parameters]

    @torch.no_grad()
    def write(self) -> None:
        """Put the best parameters into the network; without any, nothing changes."""
        for parameter, kept in zip(self._parameters, self._kept, strict=False):
            parameter.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """Give the best of each parameter by its number; empty without any."""
        return _numbered(self._kept)

    def notes(self) -> dict[str, Any] | None:
        """Give the scores as JSON can hold them."""
        return None if self.scores is None else asdict(self.scores)

    def load_state_dict(
        self, state: Mapping[str, Tensor], notes: Mapping[str, Any] | None
    ) -> None:
        """Take over the best of a training, with what `notes` gave."""
        self._kept = _in_order(state, self._parameters, torch.device("cpu"))
        if notes is not None:
            by_class = {
                name: {int(value): score for value, score in notes[name].items()}
                for name in ("dice", "hd95")
            }
            self.scores = Validated(**{**notes, **by_class})


def _numbered(tensors: list[Tensor]) -> dict[str, Tensor]:
    return {str(number): tensor for number, tensor in enumerate(tensors)}


def _in_order(
    state: Mapping[str, Tensor],
    like: list[Tensor],
    device: torch.device | None = None,
) -> list[Tensor]:
    """Give tensors by their numbers, as the parameters lie in memory.

    They are on the parameters' device, or on another one.
    """
    return [
        torch.empty_like(parameter, device=device).copy_(state[str(number)])
        for number, parameter in enumerate(like if state else ())
    ]

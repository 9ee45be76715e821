"""GaLore's AdamW, of one parameter.

The update is that of ``galore_torch.GaLoreAdamW`` to the last bit, without importing
it: it brings bitsandbytes and transformers along, of which nothing is used here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from medsaga.training.optim.galore import Projector

_EPSILON = 1e-6


@dataclass(kw_only=True, eq=False)
class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101), in GaLore's subspace.

    With a projector the moments are those of the gradient's coordinates in its
    subspace (Zhao et al. 2024, arXiv 2403.03507, algorithm 2).

    Parameters
    ----------
    lr, beta1, beta2, weight_decay
        As usual; `lr` may be changed at any time.
    projector
        None: the gradient as it is.

    Attributes
    ----------
    n_steps
        Updates so far.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    projector: Projector | None = None
    n_steps: int = field(default=0, init=False)
    _mean: Tensor | None = field(default=None, init=False)
    _square: Tensor | None = field(default=None, init=False)

    @torch.no_grad()
    def update(self, parameter: Tensor, grad: Tensor) -> None:
        """Move a parameter, in place, by a gradient of its shape."""
        parameter.add_(self._change(grad), alpha=-self._rate())
        if self.weight_decay > 0:
            # After the step, as the reference does it, where PyTorch's comes before.
            parameter.add_(parameter, alpha=-self.lr * self.weight_decay)

    def _change(self, grad: Tensor) -> Tensor:
        """Take a gradient in, and give the change of its parameter at a rate of -1."""
        if self.projector is None:
            return self._adapt(grad)
        low = self.projector.project(grad, self.n_steps)
        return self.projector.project_back(self._adapt(low))

    def _adapt(self, grad: Tensor) -> Tensor:
        """Take a gradient into the moments; give their quotient, of its shape."""
        if self._mean is None or self._square is None:
            self._mean, self._square = torch.zeros_like(grad), torch.zeros_like(grad)
        self.n_steps += 1
        self._mean.mul_(self.beta1).add_(grad, alpha=1 - self.beta1)
        self._square.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        return self._mean / self._square.sqrt().add_(_EPSILON)

    def _rate(self) -> float:
        """Give the rate, corrected for moments that began at 0."""
        of_mean = 1 - self.beta1**self.n_steps
        of_square = 1 - self.beta2**self.n_steps
        return self.lr * math.sqrt(of_square) / of_mean

    def state_dict(self) -> dict[str, Tensor]:
        """Give the moments (the live ones), the count and the subspace, as tensors.

        Empty before the first update.
        """
        if self._mean is None or self._square is None:
            return {}
        tensors = {
            "step": torch.tensor(self.n_steps),
            # safetensors refuses channels-last tensors.
            "exp_avg": self._mean.contiguous(),
            "exp_avg_sq": self._square.contiguous(),
        }
        return tensors | (self.projector.state_dict() if self.projector else {})

    def load_state_dict(self, saved: Mapping[str, Tensor], parameter: Tensor) -> None:
        """Take copies of what :meth:`state_dict` gave, onto a parameter's device.

        Raises
        ------
        MedsagaError
            If they are those of another shape or subspace.
        """
        if self.projector is not None:
            self.projector.load_state_dict(saved, parameter)
        elif saved["exp_avg"].shape != parameter.shape:
            raise MedsagaError(
                "The saved optimiser state has other shapes than the parameters: "
                "continue with the settings that it was saved with."
            )
        self.n_steps = int(saved["step"])
        self._mean, self._square = (
            saved[moment].to(parameter.device, copy=True)
            for moment in ("exp_avg", "exp_avg_sq")
        )

"""Fira and APOLLO-Mini: the gradient itself, scaled as a low-rank Adam would scale it.

Both keep the state of a low-rank AdamW and change a weight in all of its directions.
Where they project nothing, they are AdamW.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medsaga.errors import MedsagaError
from medsaga.training.optim.adamw import AdamW
from medsaga.training.optim.galore import Projector

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_GROWTH = 1.01
_APOLLO_MINI_SCALE = math.sqrt(128)
# Keeps the factor of a column finite whose gradient is 0 and whose mean is not.
_EPSILON = 1e-8


@dataclass(kw_only=True, eq=False)
class _Limited(AdamW):
    """AdamW with a norm that grows by at most 1 % a step (Fira's limiter)."""

    _norm: Tensor | None = field(default=None, init=False)

    def state_dict(self) -> dict[str, Tensor]:
        """Give the moments, the count, the subspace and the last norm, as tensors."""
        norm = {} if self._norm is None else {"norm": self._norm}
        return super().state_dict() | norm

    def load_state_dict(self, saved: Mapping[str, Tensor], parameter: Tensor) -> None:
        """Take copies of what :meth:`state_dict` gave, onto a parameter's device.

        Raises
        ------
        MedsagaError
            If they are those of another shape, subspace or optimiser.
        """
        super().load_state_dict(saved, parameter)
        if self.projector is not None and "norm" not in saved:
            raise MedsagaError(
                "The saved optimiser state was made by another optimiser: continue "
                "with the settings that it was saved with."
            )
        if "norm" in saved:
            self._norm = saved["norm"].to(parameter.device, copy=True)

    def _limit(self, change: Tensor) -> Tensor:
        """Shrink a change, in place, whose norm has grown by more than a hundredth."""
        norm = torch.linalg.vector_norm(change)
        before = torch.zeros_like(norm) if self._norm is None else self._norm
        most = _MOST_GROWTH * before
        # Were a norm of 0 a limit, the first gradient that is 0 would end all learning.
        is_limited = (norm > most) & (before > 0)
        factor = torch.where(is_limited, most / norm, 1.0)
        self._norm = torch.where(norm > 0, norm * factor, before)
        return change.mul_(factor)


@dataclass(kw_only=True, eq=False)
class Fira(_Limited):
    """GaLore's AdamW, and the rest of the gradient, scaled as the projected part is.

    Chen et al. 2024, arXiv 2410.01623: with the projected gradient R = P^T G, of which
    Adam makes psi(R), the change is P psi(R) + phi (G - P R). Each column (row, where
    the right side is projected) has its own phi, the norm of psi(R) there over that of
    R; with both sides projected the matrix has one. The second term's norm grows by at
    most a hundredth a step.
    """

    def _change(self, grad: Tensor) -> Tensor:
        projector = self.projector
        if projector is None:
            return self._adapt(grad)
        low = projector.project(grad, self.n_steps)
        adapted = self._adapt(low)
        sides = (projector.left, projector.right)
        across = [dim for dim, basis in enumerate(sides) if basis is not None]
        rest = grad.flatten(1).float() - projector.lift(low)
        rest = self._limit(rest.mul_(_factor(adapted, low, across)))
        return rest.add_(projector.lift(adapted)).mul_(projector.scale).view_as(grad)


@dataclass(kw_only=True, eq=False)
class ApolloMini(_Limited):
    """The gradient times one factor, which a rank-1 Adam knows.

    Zhu et al. 2024, arXiv 2412.05270, algorithm 1 with tensor-wise scaling: with
    R = P G, P a random row, of which Adam makes psi(R), the change is
    sqrt(128) (norm of psi(R) / norm of R) G. Its norm grows by at most a hundredth a
    step.

    The projector is to be a :class:`RandomProjector` of rank 1.
    """

    def _change(self, grad: Tensor) -> Tensor:
        projector = self.projector
        if projector is None:
            return self._adapt(grad)
        low = projector.project(grad, self.n_steps)
        change = grad.float() * _factor(self._adapt(low), low, [0, 1])
        return self._limit(change).mul_(_APOLLO_MINI_SCALE * projector.scale)


@dataclass(kw_only=True, eq=False)
class RandomProjector(Projector):
    """Gradients into a random subspace: normal numbers of variance 1 / rank, no SVD.

    It keeps norms in the mean, and its bases are not orthonormal: `lift` is no inverse.
    """

    def _refresh(self, matrix: Tensor) -> None:
        self.n_refreshes += 1
        generator = self._generator()
        bases = {
            side: torch.randn(shape, generator=generator).to(matrix.device)
            / math.sqrt(shape[1])
            for side, shape in self._basis_shapes(matrix).items()
        }
        self.left, self.right = bases.get("left"), bases.get("right")


def _factor(adapted: Tensor, low: Tensor, across: list[int]) -> Tensor:
    """Say by how much Adam makes the norm larger, across some of the dimensions."""
    after, before = (
        torch.linalg.vector_norm(one, dim=across, keepdim=True)
        for one in (adapted, low)
    )
    factor: Tensor = after / (before + _EPSILON)
    return factor

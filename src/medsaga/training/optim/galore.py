"""GaLore's gradient projector, with a randomised subspace and spread refreshes.

It takes the place of galore-torch's own projector, whose full SVD takes seconds a
matrix and whose state is no tensor (Zhao et al. 2024, arXiv 2403.03507).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medsaga.settings.fine_tune import Projection

_OVERSAMPLING = 8


def projectable(weight: Tensor, rank: int) -> bool:
    """Say whether a weight is a matrix that a subspace of `rank` makes smaller.

    Both sides of ``weight.flatten(1)`` must exceed the rank. Depthwise convolutions
    never count: their rows are unrelated small filters, not a matrix.
    """
    return rank <= largest_rank(weight)


def largest_rank(weight: Tensor) -> int:
    """Give the largest rank at which a weight is projectable; 0 if at none."""
    is_depthwise = weight.ndim > 2 and weight.shape[1] == 1
    if weight.ndim < 2 or is_depthwise:
        return 0
    rows = weight.shape[0]
    return max(0, min(rows, weight.numel() // max(rows, 1)) - 1)


@dataclass(kw_only=True, eq=False)
class Projector:
    """Gradients into a low-rank subspace, and updates back out of it.

    Has the interface that ``galore_torch.GaLoreAdamW`` uses on ``state["projector"]``,
    so that one can stand in the other's place.
    Works in float32 whatever the gradient's type, and inside autocast too.

    Parameters
    ----------
    rank
        Dimension of the subspace. Clipped to the gradient's smaller side.
    scale
        Factor on the update that is projected back.
    refresh_interval
        Steps between two refreshes of the subspace.
    projection
        Side that is projected: ``left`` gives (rank, columns), ``right`` gives
        (rows, rank), ``std`` is the one of the two that keeps the longer side, and
        ``full`` projects both and gives (rank, rank).
    phase
        Shifts the refreshes: they fall on the steps with
        ``(step + phase) % refresh_interval == 0``, besides the very first.
    seed, layer
        Seed of the random subspace. Every pair gives its own numbers.

    Attributes
    ----------
    left, right
        Orthonormal bases, (rows, rank) and (columns, rank); None for a side that is
        not projected.
    n_refreshes
        Subspaces computed so far.
    """

    rank: int
    scale: float = 1.0
    refresh_interval: int = 200
    projection: Projection = "std"
    phase: int = 0
    seed: int = 0
    layer: int = 0
    left: Tensor | None = field(default=None, init=False)
    right: Tensor | None = field(default=None, init=False)
    n_refreshes: int = field(default=0, init=False)
    _shape: torch.Size = field(default=torch.Size(), init=False)

    @torch.no_grad()
    def project(self, grad: Tensor, step: int) -> Tensor:
        """Return the gradient's coordinates in the subspace, which is refreshed if due.

        Parameters
        ----------
        grad
            Gradient of a weight, finite. More than two dimensions are flattened to
            (rows, columns) after the first.
        step
            Steps that the optimiser has done, from 0.

        Returns
        -------
        Tensor
            float32, of the shape that `projection` says.
        """
        self._shape = grad.shape
        with torch.autocast(grad.device.type, enabled=False):
            low = grad.flatten(1).float()
            # When the subspace changes, the optimiser's moments stay as they are, as in
            # GaLore: for a while they are coordinates in the old one.
            if (step + self.phase) % self.refresh_interval == 0 or not self.n_refreshes:
                self._refresh(low)
            if self.left is not None:
                low = self.left.T @ low
            if self.right is not None:
                low = low @ self.right
        return low

    @torch.no_grad()
    def project_back(self, low: Tensor) -> Tensor:
        """Return the update, times `scale`, in the shape of the weight."""
        return (self.lift(low) * self.scale).reshape(self._shape)

    @torch.no_grad()
    def lift(self, low: Tensor) -> Tensor:
        """Return the (rows, columns) that have such coordinates in the subspace."""
        with torch.autocast(low.device.type, enabled=False):
            full = low if self.left is None else self.left @ low
            return full if self.right is None else full @ self.right.T

    def state_dict(self) -> dict[str, Tensor]:
        """Return the bases (the live ones) and the count of refreshes, as tensors."""
        state = {"n_refreshes": torch.tensor(self.n_refreshes)}
        bases = {"left": self.left, "right": self.right}
        return state | {side: b for side, b in bases.items() if b is not None}

    def load_state_dict(self, state: Mapping[str, Tensor], weight: Tensor) -> None:
        """Take copies of what `state_dict` gave, onto the device of `weight`.

        Raises
        ------
        MedsagaError
            If the bases do not fit the weight, the rank or the projection.
        """
        shapes = self._basis_shapes(weight.flatten(1))
        found = {side: tuple(state[side].shape) for side in shapes if side in state}
        if found != shapes or ("left" in state) + ("right" in state) != len(shapes):
            raise MedsagaError(
                "The saved optimiser state was made with another GaLore rank or "
                "projection: continue with the settings that it was saved with."
            )
        bases = {
            side: state[side].to(weight.device, torch.float32, copy=True)
            for side in shapes
        }
        self.left, self.right = bases.get("left"), bases.get("right")
        self.n_refreshes = int(state["n_refreshes"])

    def _basis_shapes(self, matrix: Tensor) -> dict[str, tuple[int, int]]:
        rows, columns = matrix.shape
        return basis_shapes((rows, columns), self.rank, self.projection)

    def _refresh(self, matrix: Tensor) -> None:
        if matrix.any():
            self.n_refreshes += 1
        elif self.left is not None or self.right is not None:
            return  # nothing to learn a subspace from: keep the one there is
        sides = self._basis_shapes(matrix)
        generator = self._generator()
        if sides.keys() == {"left"}:
            self.left = _leading_bases(matrix.T, self.rank, generator)[1]
            return
        left, right = _leading_bases(matrix, self.rank, generator)
        self.left = left if "left" in sides else None
        self.right = right

    def _generator(self) -> torch.Generator:
        # torch's CPU generator reads the low 32 bits of a seed and no more: the three
        # numbers have to be mixed, not packed side by side.
        mixed = np.random.SeedSequence([self.seed, self.layer, self.n_refreshes])
        return torch.Generator().manual_seed(int(mixed.generate_state(1)[0]))


def basis_shapes(
    matrix: tuple[int, int], rank: int, projection: Projection
) -> dict[str, tuple[int, int]]:
    """Give the shapes of the bases, by side, of a matrix of so many rows and columns.

    `rank` and `projection` are those of :class:`Projector`.
    """
    rows, columns = matrix
    rank = min(rank, rows, columns)
    shapes = {"left": (rows, rank), "right": (columns, rank)}
    if projection == "full":
        return shapes
    longer = "right" if rows >= columns else "left"
    side = longer if projection == "std" else projection
    return {side: shapes[side]}


def _leading_bases(
    matrix: Tensor, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Approximate the leading left and right singular vectors of a matrix.

    Randomised range finder with one power iteration (Halko et al. 2011, algorithms 4.4
    and 5.1). The right ones are the more exact, having one more product with the matrix
    behind them.
    """
    rows, columns = matrix.shape
    width = min(rank + _OVERSAMPLING, rows, columns)
    # Drawn on the CPU, so that every device sees the same numbers.
    probe = torch.randn(columns, width, generator=generator).to(matrix.device)
    sketch = torch.linalg.qr(matrix @ probe).Q  # (rows, width)
    sketch = torch.linalg.qr(matrix.T @ sketch).Q  # (columns, width)
    sketch = torch.linalg.qr(matrix @ sketch).Q
    u, _, vh = torch.linalg.svd(sketch.T @ matrix, full_matrices=False)
    # Contiguous, because a product can differ in its last bit with the memory order,
    # and a basis that was saved and loaded comes back contiguous.
    return (sketch @ u[:, :rank]).contiguous(), vh[:rank].T.contiguous()

"""What is to be expected of unpainted slices, found on some that were left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsaga.propagation.fusion import join, on_slice
from medsaga.propagation.trust import USUAL_GROWTH, PaintTrust

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from medsaga.propagation.carrying import Carrier

_GROWTHS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.4)
# Dice that a growth must be better by for each doubling away from the usual one: a few
# slices, and heads that are weaker than the model, tell no smaller differences.
_PER_DOUBLING = 0.0015
_NEARLY_0 = 0.005
# A slice that is left out lies further from paint than those in between do, and errors
# grow with the gap; with this power of it forecasts were hardly ever too high
# (docs/choices.md).
_ERROR_POWER = 0.2


@dataclass(frozen=True, eq=False, kw_only=True)
class _LeftOut:
    """A slice that was left out.

    `common`, `found` and `true` are numbers of pixels by (growth, class). `nearer` is
    how much smaller errors are nearer to the paint, where the other slices are.
    """

    common: NDArray[np.int64]
    found: NDArray[np.int64]
    true: NDArray[np.int64]
    is_carried: bool
    nearer: float


class LeftOutScores:
    """Scores of slices that were left out one by one.

    Parameters
    ----------
    values
        Label values of the classes, in the order of the model's outputs, without 0.
    n_shown
        On how many of the slices that train each of them is.
    """

    def __init__(self, values: tuple[int, ...], n_shown: Sequence[int]) -> None:
        self._values, self._n_shown = values, n_shown
        self._slices: list[_LeftOut] = []

    def take(
        self,
        logits: Tensor,
        truth: NDArray[np.integer],
        carrier: Carrier | None,
        index: int,
        seen: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take in slice `index`, and what a model that never saw it says of it.

        `carrier` is that of its volume, None where no other slice of it is painted.
        Pixels that were not `seen` do not count.
        """
        seen = np.ones(truth.shape, bool) if seen is None else seen
        rows = [self._count(logits, truth, seen)] * len(_GROWTHS)
        if carrier is not None:
            maps = carrier.at(index, without=[index])
            distances, gap = on_slice(maps, carrier), maps.effective_gap
            fused = (
                join(logits, distances, gap, carrier, PaintTrust(growth=g))
                for g in _GROWTHS
            )
            rows = [self._count(one, truth, seen) for one in fused]
        common, found, true = np.moveaxis(np.array(rows), 1, 0)
        self._slices.append(
            _LeftOut(
                common=common,
                found=found,
                true=true,
                is_carried=carrier is not None,
                nearer=1.0 if carrier is None else _nearer(carrier, index),
            )
        )

    def trust(self) -> PaintTrust | None:
        """Give how to weigh the paint, for the best Dice; None if none was carried."""
        return _best_trust(self._slices)

    def expected_dice(self) -> dict[int, float]:
        """Give the Dice of each class that slices like these will have.

        On each slice the paint is weighed as is best on the others: one growth chosen
        on all of them would suit them better than it suits other slices. A class that
        is on one slice alone has no Dice: without that nothing knew it.
        """
        rows = [self._row_without(index) for index in range(len(self._slices))]
        expected = {}
        for column, value in enumerate(self._values):
            known = [
                (one, row)
                for one, row in zip(self._slices, rows, strict=True)
                if self._is_known(one, row, column)
            ]
            size = sum(one.true[row, column] for one, row in known)
            if size:
                wrong = sum(_wrong(one, row, column) * one.nearer for one, row in known)
                expected[value] = float(max(0.0, 1 - wrong / (2 * size)))
        return expected

    def _row_without(self, index: int) -> int:
        """Give the place of the growth that the other slices choose."""
        others = self._slices[:index] + self._slices[index + 1 :]
        trust = _best_trust(others) or _best_trust(self._slices)
        return 0 if trust is None else _GROWTHS.index(trust.growth)

    def _is_known(self, left_out: _LeftOut, row: int, column: int) -> bool:
        """Whether another slice shows a class too, if this one does."""
        return bool(self._n_shown[column] > 1 or not left_out.true[row, column])

    def _count(
        self, logits: Tensor, truth: NDArray[np.integer], seen: NDArray[np.bool_]
    ) -> list[list[int]]:
        """Count the pixels of each class in both, in what was found and in truth."""
        found, truth = logits.argmax(0).cpu().numpy()[seen], truth[seen]
        pairs = [(found == n, truth == v) for n, v in enumerate(self._values, 1)]
        return [
            [int(np.count_nonzero(one & other)) for one, other in pairs],
            [int(np.count_nonzero(one)) for one, _ in pairs],
            [int(np.count_nonzero(other)) for _, other in pairs],
        ]


def _best_trust(slices: Sequence[_LeftOut]) -> PaintTrust | None:
    carried = [one for one in slices if one.is_carried]
    if not carried:
        return None
    common = np.sum([one.common for one in carried], axis=0)
    either = np.sum([one.found + one.true for one in carried], axis=0)
    seen = either.any(0)
    if not seen.any():  # all of them are empty
        return None
    scores = (2 * common[:, seen] / np.maximum(either[:, seen], 1)).mean(1)
    away = [abs(math.log2(max(g, _NEARLY_0) / USUAL_GROWTH)) for g in _GROWTHS]
    best = int(np.argmax(scores - _PER_DOUBLING * np.array(away)))
    return PaintTrust(growth=_GROWTHS[best], n_pairs=len(carried))


def _wrong(one: _LeftOut, row: int, column: int) -> int:
    either = one.found[row, column] + one.true[row, column]
    return int(either - 2 * one.common[row, column])


def _nearer(carrier: Carrier, index: int) -> float:
    """Give the part of a left-out slice's errors that the unpainted ones will have."""
    gap = carrier.effective_gap(index, without=[index])
    gaps = [min(gap, carrier.effective_gap(i)) for i in carrier.unpainted()]
    if not gaps or not gap:
        return 1.0
    return math.pow(float(np.mean(gaps)) / gap, _ERROR_POWER)

"""Ways from slice to slice of a volume, by optical flow."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from medsaga.data.intensity import to_unit
from medsaga.metrics import mean
from medsaga.propagation.flow import SliceFlow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from medsaga.data.volume import Volume
    from medsaga.propagation.flow import Field
    from medsaga.propagation.frame import Frame

_WHITE = 255
# Dice by which standing still must be better than following the flow: where slices are
# so far apart that the flow between them is chance.
_CLEARLY = 0.01
_MOST_COMPARED = 2


class Walker:
    """Finds, for pixels of one slice, where they come from in another one.

    Parameters
    ----------
    volume, axis
        The slices are cut across this axis of (z, y, x).
    frame
        The part of them, and its grid.
    limits
        Intensities that become black and white.

    Attributes
    ----------
    follows_flow
        Whether it follows the flow, or every pixel comes from its own place.
    """

    def __init__(
        self, volume: Volume, axis: int, frame: Frame, limits: tuple[float, float]
    ) -> None:
        self._volume, self._axis = volume, axis
        self._frame, self._limits = frame, limits
        self._flow = SliceFlow(frame.size)
        self.follows_flow = True

    def walk(self, start: int, stop: int) -> Iterator[tuple[int, Field]]:
        """Go from the slice after `start` to `stop`, with the way back to `start`."""
        step = 1 if stop > start else -1
        before, field = self._image(start), self._flow.still
        for index in range(start + step, stop + step, step):
            if self.follows_flow:
                here = self._image(index)
                field = self._flow.chain(self._flow.between(here, before), field)
                before = here
            yield index, field

    def way(self, start: int, stop: int) -> Field:
        """Give the way back from `stop` to `start`, another slice."""
        ((_, field),) = deque(self.walk(start, stop), maxlen=1)
        return field

    def carry(self, maps: NDArray[np.float32], field: Field) -> NDArray[np.float32]:
        """Fetch (k, height, width) maps by a way that :meth:`walk` gave."""
        return np.stack([self._flow.warp(one, field) for one in maps])

    def choose(
        self, painted: list[int], distances: Callable[[int], NDArray[np.float32]]
    ) -> None:
        """Follow the flow, unless painted slices show that it leads astray.

        The two closest pairs of painted slices are compared: one carried to the other,
        with the flow and without it. With one painted slice the flow is followed.
        """
        pairs = sorted(pairwise(painted), key=lambda pair: pair[1] - pair[0])
        moved, still = [], []
        for low, high in pairs[:_MOST_COMPARED]:
            carried = self.carry(distances(low), self.way(low, high))
            moved.append(_overlap(carried, distances(high)))
            still.append(_overlap(distances(low), distances(high)))
        if pairs:
            self.follows_flow = bool(np.mean(still) <= np.mean(moved) + _CLEARLY)

    def _image(self, index: int) -> NDArray[np.uint8]:
        picked = self._volume.slice(self._axis, index)
        unit = to_unit(self._frame.cut(picked), self._limits)
        grey = unit.mean(-1) if unit.ndim == 3 else unit
        levels = np.rint(self._frame.to_grid(grey) * _WHITE)
        return levels.astype(np.uint8)


def inside_dice(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Give the (k,) Dice of where (k, ...) distances are positive; NaN if nowhere."""
    inside, within = (one > 0).reshape(len(one), -1), (other > 0).reshape(len(one), -1)
    both = 2 * (inside & within).sum(1)
    total = inside.sum(1) + within.sum(1)
    dice = np.where(total > 0, both / np.maximum(total, 1), np.nan)
    return dice.astype(np.float32)


def mean_known(dice: NDArray[np.float32]) -> float:
    """Give the mean over the classes that have one; NaN without any."""
    return mean(dice[np.isfinite(dice)])


def _overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Give the mean Dice of the classes that are there; without any they agree."""
    dice = mean_known(inside_dice(one, other))
    return 1.0 if math.isnan(dice) else dice

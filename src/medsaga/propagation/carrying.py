"""Paint carried from slice to slice, from both sides."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from medsaga.propagation.distances import ClassDistances
from medsaga.propagation.frame import Frame
from medsaga.propagation.maps import CarriedMaps, effective_gap
from medsaga.propagation.walking import Walker, inside_dice

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from medsaga.data.volume import Volume
    from medsaga.propagation.flow import Field
    from medsaga.propagation.paint import Paint

# So many pixels on either side of a boundary tell how it moved.
_BAND, _TOLD = 2.0, 0.95
# So far beyond the last painted slice paint is carried, in mm, and at least so many
# slices: further on it means nothing any more, and takes its time.
_REACH, _FEWEST_REACHED = 150.0, 40


def _nearest(painted: list[int], index: int) -> tuple[int | None, int | None]:
    """Give the nearest painted slices at or below and at or above one."""
    low = max((i for i in painted if i <= index), default=None)
    return low, min((i for i in painted if i >= index), default=None)


class Carrier:
    """Carries the paint of one volume to any of its slices.

    Between two painted slices each class's signed distances are carried from both, by
    optical flow composed from slice to slice, and averaged with the other side's gap as
    weight. Beyond the last one a class goes on shrinking as it did before it.

    Parameters
    ----------
    volume
        The image.
    paint
        At least one painted slice of it.
    limits
        Intensities that become black and white.
    follows_flow
        False interpolates between the painted slices, whatever the image shows; None
        lets these decide.

    Attributes
    ----------
    frame
        The part of the slices that it is carried in.
    shape
        Rows and columns of the slices.
    pixel
        The shorter side of a pixel in mm.
    reach
        How many slices beyond the last painted one paint is carried; further on there
        is none.
    """

    def __init__(
        self,
        volume: Volume,
        paint: Paint,
        limits: tuple[float, float],
        *,
        follows_flow: bool | None = None,
    ) -> None:
        self.paint = paint
        self.shape = volume.slice_shape(paint.axis)
        self._total = volume.shape[paint.axis]
        sides = [side for side in volume.spacing or () if 0 < side < math.inf]
        spacing = volume.slice_spacing(paint.axis) if len(sides) == 3 else None
        self.frame = Frame.around(paint.footprint(), spacing)
        self._distances = ClassDistances(paint, self.frame, spacing)
        self.pixel = min(spacing or (1.0,))
        self._step = sides[paint.axis] if len(sides) == 3 else 1.0
        self.reach = max(_FEWEST_REACHED, round(_REACH / self._step))
        self._no_sides = np.full(len(paint.values), np.nan, np.float32)
        self._walker = Walker(volume, paint.axis, self.frame, limits)
        if follows_flow is None:
            self._walker.choose(self.painted, self._distances.on)
        else:
            self._walker.follows_flow = follows_flow
        self._trends: dict[tuple[int, int], NDArray[np.float32]] = {}

    @property
    def painted(self) -> list[int]:
        """Indices of the painted slices, in order."""
        return sorted(self.paint.slices)

    @property
    def outside(self) -> NDArray[np.float32]:
        """(k,): what the distances are outside of the frame."""
        return self._distances.least

    def unpainted(self) -> list[int]:
        """Give the indices of the other slices, in order."""
        return [i for i in range(self._total) if i not in self.paint.slices]

    def effective_gap(self, index: int, without: Collection[int] = ()) -> float:
        """Give the effective gap of a slice, as if those `without` were not painted."""
        low, high = _nearest(self._painted_without(without), index)
        below = math.inf if low is None else index - low
        above = math.inf if high is None else high - index
        return effective_gap(below * self._step, above * self._step)

    def unreached(self) -> list[int]:
        """Give the indices of the slices that lie too far from any paint, in order."""
        first, last = self.painted[0] - self.reach, self.painted[-1] + self.reach
        return [i for i in range(self._total) if not first <= i <= last]

    def stream(self) -> Iterator[CarriedMaps]:
        """Give all slices in order, in the memory of one gap between painted slices."""
        painted = self.painted
        yield from self._beyond(painted, range(painted[0]))
        for low, high in pairwise(painted):
            yield self._painted(low)
            yield from self._between(low, high)
        yield self._painted(painted[-1])
        yield from self._beyond(painted, range(painted[-1] + 1, self._total))

    def at(self, index: int, without: Collection[int] = ()) -> CarriedMaps:
        """Give one slice, as if the slices `without` were not painted."""
        painted = self._painted_without(without)
        low, high = _nearest(painted, index)
        if low == index:
            return self._painted(index)
        if low is None or high is None:
            near = high if low is None else low
            assert near is not None
            is_reached = abs(index - near) <= self.reach
            field = self._walker.way(near, index) if is_reached else None
            return self._one_sided(painted, near, index, field)
        ends = ((end, self._walker.way(end, index)) for end in (low, high))
        return self._merged(index, *ends)

    def _painted_without(self, left_out: Collection[int]) -> list[int]:
        return [i for i in self.painted if i not in left_out]

    def _between(self, low: int, high: int) -> Iterator[CarriedMaps]:
        # Half precision: a hundredth of a pixel of what a slice moves.
        from_high = {
            index: field.astype(np.float16)
            for index, field in self._walker.walk(high, low + 1)
        }
        if high - low > 1:
            for index, field in self._walker.walk(low, high - 1):
                other = from_high.pop(index).astype(np.float32)
                yield self._merged(index, (low, field), (high, other))

    def _beyond(self, painted: list[int], indices: range) -> Iterator[CarriedMaps]:
        """Give the slices beyond the first or the last painted one, in order."""
        if not indices:
            return
        is_below = indices[0] < painted[0]
        near = painted[0] if is_below else painted[-1]
        reached = [i for i in indices if abs(i - near) <= self.reach]
        walked = self._walker.walk(near, reached[0] if is_below else reached[-1])
        fields: dict[int, Field] = {}
        if is_below:
            # Half precision, as they all wait for the first.
            fields = {i: field.astype(np.float16) for i, field in walked}
        for index in indices:
            field = None
            if index in reached:
                field = fields[index] if is_below else next(walked)[1]
            yield self._one_sided(painted, near, index, field)

    def _painted(self, index: int) -> CarriedMaps:
        distances = self._distances.on(index)
        return CarriedMaps(
            index=index,
            distances=distances,
            below=0.0,
            above=0.0,
            agreement=self._no_sides,
        )

    def _merged(
        self, index: int, low: tuple[int, Field], high: tuple[int, Field]
    ) -> CarriedMaps:
        below, above = index - low[0], high[0] - index
        from_low = self._walker.carry(self._distances.on(low[0]), low[1])
        from_high = self._walker.carry(self._distances.on(high[0]), high[1])
        weight = np.float32(above / (below + above))
        return CarriedMaps(
            index=index,
            distances=from_high + weight * (from_low - from_high),
            below=below * self._step,
            above=above * self._step,
            agreement=inside_dice(from_low, from_high),
        )

    def _one_sided(
        self, painted: list[int], near: int, index: int, field: Field | None
    ) -> CarriedMaps:
        """Give a slice beyond the last painted one; without a field it has no paint."""
        gap, others = abs(index - near), [i for i in painted if i != near]
        if field is None:
            shape = len(self.outside), *self.frame.size
            distances = np.broadcast_to(self.outside[:, None, None], shape)
        else:
            field = field.astype(np.float32)
            distances = self._walker.carry(self._distances.on(near), field)
        if others and field is not None:
            inner = min(others, key=lambda i: abs(i - near))
            distances += gap * self._trend(near, inner)[:, None, None]
        is_below = index < near
        return CarriedMaps(
            index=index,
            distances=distances,
            below=math.inf if is_below else gap * self._step,
            above=gap * self._step if is_below else math.inf,
            agreement=self._no_sides,
            is_reached=field is not None,
        )

    def _trend(self, near: int, inner: int) -> NDArray[np.float32]:
        """Give mm a slice by which classes shrink from `inner` to `near`: (k,) <= 0."""
        if (near, inner) not in self._trends:
            known = self._distances.on(near)
            field = self._walker.way(inner, near)
            carried = self._walker.carry(self._distances.on(inner), field)
            # Where one of the two is as low as can be, it does not tell by how much.
            least = _TOLD * self.outside[:, None, None]
            bands = np.abs(known) < _BAND * self.pixel
            bands &= (known > least) & (carried > least)
            moved = [
                float((a - b)[band].mean()) if band.any() else 0.0
                for a, b, band in zip(known, carried, bands, strict=True)
            ]
            rates = np.minimum(np.array(moved, np.float32), 0) / abs(near - inner)
            self._trends[near, inner] = rates.astype(np.float32)
        return self._trends[near, inner]

"""What is painted on whole slices, carried to another, beside what a head says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsaga.propagation.carrying import Carrier
from medsaga.propagation.fusion import fuse
from medsaga.propagation.paint import Paint
from medsaga.propagation.trust import GROWTH_OF_ONE, PaintTrust

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from medsaga.data.volume import Volume
    from medsaga.live.painted import PaintedSlice
    from medsaga.propagation.maps import CarriedMaps

# A head that was fitted in a third of a second deserves no more than a model of one
# slice (docs/choices.md).
_TRUST = PaintTrust(growth=GROWTH_OF_ONE)


class CarriedPaint:
    """Carries the paint of one volume, until it is painted otherwise.

    Parameters
    ----------
    carrier
        Of the whole slices.
    values
        All label values that are painted anywhere, without 0; those that no whole
        slice shows are not carried.
    """

    def __init__(self, carrier: Carrier, values: Sequence[int]) -> None:
        self.carrier, self._values = carrier, values

    @classmethod
    def of(
        cls,
        image: Volume,
        axis: int,
        limits: tuple[float, float],
        whole: Mapping[int, PaintedSlice],
        values: Sequence[int],
    ) -> CarriedPaint | None:
        """Make it of the slices that are painted as a whole; None without any class."""
        shown = sorted({v for one in whole.values() for v in one.classes})
        if image.is_2d or not shown:
            return None
        slices = {i: whole[i].values for i in sorted(whole)}
        paint = Paint(axis=axis, slices=slices, values=tuple(shown))
        return cls(Carrier(image, paint, limits), values)

    def join(self, logits: Tensor, maps: CarriedMaps) -> Tensor:
        """Add what the paint says to the (k, rows, columns) logits of a slice.

        Of a class that is not carried it says what it says of the background, as it
        cannot tell the two apart.
        """
        carried = [1 + self._values.index(v) for v in self.carrier.paint.values]
        known = logits[[0, *carried]]
        said = fuse(known, maps, self.carrier, _TRUST) - known.log_softmax(0)
        joined = logits + said[0]
        joined[carried] = logits[carried] + said[1:]
        return joined

"""What paint says of a slice to which it is carried."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medsaga.propagation.walking import mean_known

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, kw_only=True)
class CarriedMaps:
    """What the paint says of one slice, on the frame's grid.

    Attributes
    ----------
    index
        Of the slice.
    distances
        (k, height, width): mm to each class's boundary, positive inside.
    below, above
        mm to the painted slice on that side; 0 for both on a painted slice, infinite
        where there is none.
    agreement
        (k,): Dice of what each class is from the one side with what it is from the
        other; NaN where there is one side, or none of it.
    is_reached
        Whether the paint says anything here; the distances are else the least.
    """

    index: int
    distances: NDArray[np.float32]
    below: float
    above: float
    agreement: NDArray[np.float32]
    is_reached: bool = True

    @property
    def gap(self) -> float:
        """Distance to the nearest paint in mm."""
        return min(self.below, self.above)

    @property
    def mean_agreement(self) -> float:
        """Mean over the classes; NaN without any."""
        return mean_known(self.agreement)

    @property
    def effective_gap(self) -> float:
        """The gap as far as it makes paint unsure; see :func:`effective_gap`."""
        return effective_gap(self.below, self.above)


def effective_gap(below: float, above: float) -> float:
    """Give the variance of a random walk that is tied to the paint, in mm.

    Parameters
    ----------
    below, above
        mm to the painted slice on either side, infinite where there is none: then it is
        the other, between two it is that of a bridge, less than the nearer one.
    """
    if math.isinf(max(below, above)):
        return min(below, above)
    total = below + above
    return below * above / total if total else 0.0

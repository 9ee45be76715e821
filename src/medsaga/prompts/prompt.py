"""What a user points at on a slice, and the mask that comes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medsaga.windows import Size


class Box(NamedTuple):
    """A rectangle in pixels of a slice.

    Its edges lie between pixels: the first pixel runs from 0 to 1.
    """

    top: float
    left: float
    bottom: float
    right: float


class Click(NamedTuple):
    """A point in pixels of a slice, and whether it is to belong to the mask or not."""

    row: float
    column: float
    adds: bool = True


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a user points at: a box or a click, and clicks that mend its mask.

    Attributes
    ----------
    box
        Around the structure.
    clicks
        In the order in which they were made. Without a box the first one lies in the
        structure.
    """

    box: Box | None = None
    clicks: tuple[Click, ...] = ()

    def check(self, size: Size) -> None:
        """See whether it says something of a slice of `size` (rows, columns).

        Raises
        ------
        MedsagaError
            If it is empty, a number is not finite, or nothing of it is on the slice.
        """
        if self.box is None and not (self.clicks and self.clicks[0].adds):
            raise MedsagaError(
                "There is nothing to segment: draw a box around a structure, or click "
                "on it."
            )
        numbers = [*(self.box or ()), *(n for one in self.clicks for n in one[:2])]
        if not all(math.isfinite(number) for number in numbers):
            raise MedsagaError("A box and clicks need finite numbers.")
        if self.box is not None and not _is_seen(self.box, size):
            raise MedsagaError(
                f"The box lies outside of the slice of {size[0]} x {size[1]} pixels: "
                "give top, left, bottom and right within it."
            )
        if not all(_is_on(click, size) for click in self.clicks):
            raise MedsagaError(
                f"A click lies outside of the slice of {size[0]} x {size[1]} pixels."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptedMask:
    """The mask of what was pointed at.

    Attributes
    ----------
    mask
        (rows, columns) of the slice.
    quality
        What the network takes for the mask's overlap (IoU) with the structure.
    """

    mask: NDArray[np.bool_]
    quality: float


def _is_seen(box: Box, size: Size) -> bool:
    rows = min(box.bottom, size[0]) - max(box.top, 0)
    return rows > 0 and min(box.right, size[1]) - max(box.left, 0) > 0


def _is_on(click: Click, size: Size) -> bool:
    return 0 <= click.row <= size[0] and 0 <= click.column <= size[1]

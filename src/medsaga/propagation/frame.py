"""The frame: the part of the slices that paint is carried in, and its working grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from medsaga.data.canvas import physical_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsaga.data.canvas import Spacing
    from medsaga.windows import Size

# Of the slice's longer side: so far may a structure move from slice to slice.
_MARGIN = 0.2
# Flow between small slices is better at twice their size: mean Dice over 19 tasks .894,
# .875 at their own (docs/choices.md). Beyond this side the time counts.
_LONG_SIDE = 320
_MOST_ENLARGED = 2.5
_LEAST_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A rectangle of the slices, and the grid of square pixels that stands for it.

    Attributes
    ----------
    top, left
        Row and column of the rectangle's first pixel.
    own
        Its rows and columns.
    size
        Height and width of the grid.
    """

    top: int
    left: int
    own: Size
    size: Size

    @classmethod
    def around(cls, footprint: NDArray[np.bool_], spacing: Spacing | None) -> Frame:
        """Frame what a (rows, columns) mask marks, with a margin; all if it is empty.

        `spacing` is the size of a pixel in mm along rows and columns.
        """
        top, rows = _extent(np.any(footprint, axis=1))
        left, cols = _extent(np.any(footprint, axis=0))
        height, width = physical_shape(rows, cols, spacing)
        scale = min(_MOST_ENLARGED, _LONG_SIDE / max(height, width))
        size = (
            max(_LEAST_SIDE, round(height * scale)),
            max(_LEAST_SIDE, round(width * scale)),
        )
        return cls(top=top, left=left, own=(rows, cols), size=size)

    @property
    def place(self) -> tuple[slice, slice]:
        """Where it lies in a slice."""
        return (
            slice(self.top, self.top + self.own[0]),
            slice(self.left, self.left + self.own[1]),
        )

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """Cut the rectangle out of a slice (rows, columns, ...)."""
        return array[self.place]

    def to_grid(self, rectangle: NDArray[Any]) -> NDArray[np.float32]:
        """Scale what was cut out, a float image or map, to the grid."""
        return _scaled(rectangle, self.size)

    def from_grid(self, grid: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale a map on the grid to the rectangle's own pixels."""
        return _scaled(grid, self.own)


def _extent(marked: NDArray[np.bool_]) -> tuple[int, int]:
    """Give the first index and the number of those marked, with the margin."""
    total = len(marked)
    if not marked.any():
        return 0, total
    found = np.flatnonzero(marked)
    margin = max(2, round(_MARGIN * total))
    first, last = max(0, found[0] - margin), min(total - 1, found[-1] + margin)
    return int(first), int(last - first + 1)


def _scaled(array: NDArray[Any], size: Size) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.ascontiguousarray(array, dtype=np.float32)
    if found.shape == size:
        return found
    shrinks = size[0] * size[1] < found.size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled: NDArray[np.float32] = cv2.resize(
        found, (size[1], size[0]), interpolation=how
    )
    return scaled

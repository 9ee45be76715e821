"""Dense optical flow between slices, and displacements composed of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsaga.windows import Size

    Field = NDArray[np.float32]
    """(height, width, 2): how far to go along columns and rows, in pixels."""

# Chosen on 19 tasks (docs/choices.md).
_PATCH, _STRIDE = 8, 4
_DESCENTS, _REFINEMENTS = 25, 5


class SliceFlow:
    """Finds where the pixels of one slice come from in another one.

    Dense inverse search (Kroeger et al., ECCV 2016, arXiv 1603.03590) at the finest
    scale, with variational refinement.

    Parameters
    ----------
    size
        Height and width of the slices.
    """

    def __init__(self, size: Size) -> None:
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._search.setFinestScale(0)
        self._search.setPatchSize(_PATCH)
        self._search.setPatchStride(_STRIDE)
        self._search.setGradientDescentIterations(_DESCENTS)
        self._search.setVariationalRefinementIterations(_REFINEMENTS)
        rows, cols = np.mgrid[: size[0], : size[1]].astype(np.float32)
        self._rows, self._cols = rows, cols
        self.still: Field = np.zeros((*size, 2), np.float32)

    def between(self, here: NDArray[np.uint8], there: NDArray[np.uint8]) -> Field:
        """Give the displacement from pixels of `here` to where they are in `there`."""
        flow: Field = self._search.calc(here, there, None)
        return flow

    def warp(self, one: NDArray[np.float32], by: Field) -> NDArray[np.float32]:
        """Fetch each pixel of a map (height, width), or of a field, from `by` away."""
        x, y = self._cols + by[..., 0], self._rows + by[..., 1]
        border = cv2.BORDER_REPLICATE
        warped: NDArray[np.float32] = cv2.remap(
            one, x, y, cv2.INTER_LINEAR, borderMode=border
        )
        return warped

    def chain(self, first: Field, then: Field) -> Field:
        """Go by `first`, and from there by `then`."""
        return first + self.warp(then, first)

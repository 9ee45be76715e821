"""Paint: slices of one volume of which every pixel is painted, or said to be empty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from medsaga.data.annotation import Annotation
    from medsaga.data.identity import SliceId
    from medsaga.data.volume import Volume


@dataclass(frozen=True, eq=False, kw_only=True)
class Paint:
    """What is painted on whole slices of a volume.

    Attributes
    ----------
    axis
        The slices are cut across this axis of (z, y, x).
    slices
        (rows, columns) label values by slice index, 0 for background, in order.
    values
        The label values to carry, without 0; another one on a slice is background.
    n_strokes
        Slices of which only some pixels are known. They are not carried: a stroke has
        no boundary.
    """

    axis: int
    slices: Mapping[int, NDArray[Any]]
    values: tuple[int, ...]
    n_strokes: int = 0

    @classmethod
    def of_labels(
        cls, labels: Volume, annotation: Annotation, number: int, values: Sequence[int]
    ) -> Paint:
        """Take the annotated slices of volume `number` from its labels."""
        read = {
            index: annotation.read(labels, index)
            for volume, index in annotation.slices
            if volume == number
        }
        whole = {i: label.values for i, label in read.items() if label.known is None}
        return cls(
            axis=annotation.axis,
            slices=whole,
            values=tuple(values),
            n_strokes=len(read) - len(whole),
        )

    @classmethod
    def of_slices(
        cls,
        painted: Mapping[SliceId, NDArray[Any]],
        image: str,
        axis: int,
        values: Sequence[int],
    ) -> Paint:
        """Take those of whole slices that are of the image with this fingerprint.

        Slices that are known by a name alone, as of models of format versions 1 and 2,
        are of no image for sure, and left out.
        """
        own = {
            one.index: found
            for one, found in painted.items()
            if (one.image, one.axis) == (image, axis)
        }
        return cls(axis=axis, slices=own, values=tuple(values))

    def footprint(self) -> NDArray[np.bool_]:
        """Mark the (rows, columns) that carry a class on any slice."""
        marks = [np.isin(found, self.values) for found in self.slices.values()]
        footprint: NDArray[np.bool_] = np.logical_or.reduce(marks)
        return footprint

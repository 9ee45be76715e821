"""An image with what is painted on it, read and checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medsaga.data.annotation import annotated_slices
from medsaga.data.classes import class_table
from medsaga.data.inputs import as_volume_pairs
from medsaga.data.intensity import choose_intensity, image_doubts
from medsaga.data.label_doubts import label_doubts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsaga.data.annotation import Annotation, EmptySlice
    from medsaga.data.classes import ClassTable
    from medsaga.data.inputs import ImageLike
    from medsaga.data.volume import Volume


@dataclass(frozen=True, eq=False, kw_only=True)
class PaintedVolume:
    """An image, and the slices of it that are painted.

    Attributes
    ----------
    image, labels
        On one grid.
    annotation, table
        The painted slices, and their classes.
    limits
        Intensities that become black and white.
    said
        What is to be said of all this.
    """

    image: Volume
    labels: Volume
    annotation: Annotation
    table: ClassTable
    limits: tuple[float, float]
    said: Sequence[str]

    @classmethod
    def read(
        cls,
        image: ImageLike,
        labels: ImageLike,
        *,
        axis: int | None,
        slices: Sequence[int] | None,
        empty_slices: Sequence[EmptySlice],
        background_value: int | None,
    ) -> PaintedVolume:
        """Read both; for the parameters see :func:`~medsaga.propagate`.

        Raises
        ------
        MedsagaError
            If one of them cannot be read, they do not fit together, or nothing is
            painted.
        """
        (volume,), (mask,), warnings = as_volume_pairs([image], [labels])
        annotation = annotated_slices(
            [mask],
            axis,
            slices,
            empty_slices=empty_slices,
            background_value=background_value,
        )
        rule, _ = choose_intensity("auto", [volume], [mask], None, background_value)
        if annotation.axis:  # a slice across a lazy stack computes all of it each time
            volume = replace(volume, array=np.asarray(volume.array))
        said = [*warnings, annotation.sentence, *label_doubts([mask], annotation)]
        return cls(
            image=volume,
            labels=mask,
            annotation=annotation,
            table=class_table([mask], annotation),
            limits=rule.limits(volume),
            said=[*said, *image_doubts(volume, rule)],
        )

"""The painted slices of an image that is segmented."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medsaga.data.annotation import annotated_slices
from medsaga.data.inputs import as_volume, as_volume_pairs
from medsaga.data.label_doubts import label_doubts
from medsaga.data.volume import AXIS_NAMES, slice_place
from medsaga.errors import MedsagaError
from medsaga.propagation.paint import Paint
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.wording import count, verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsaga.data.annotation import Annotation
    from medsaga.data.inputs import ImageLike
    from medsaga.data.volume import Volume
    from medsaga.models.card import ModelCard
    from medsaga.models.folder import TrainedModel
    from medsaga.segmentation.result import Segmentation


def painted_volume(
    model: TrainedModel, image: ImageLike, labels: ImageLike | None
) -> tuple[Volume, Paint | None, Sequence[str]]:
    """Give an image as a volume, what is painted of it, and what there is to say.

    Parameters
    ----------
    model
        The model: what it knows of the image's slices is taken where no labels are
        given.
    image, labels
        The image and its labels; both are brought to one grid.

    Raises
    ------
    MedsagaError
        If an image cannot be read, the two do not fit together, the labels are painted
        across another axis than the model's, or of other classes.
    """
    if labels is not None:
        return _given(model.card, image, labels)
    volume = as_volume(image)
    known = {} if volume.is_2d else model.paint
    # The fingerprint takes a look at the whole image.
    own = volume.fingerprint if known else ""
    axis, values = model.card.axis, model.card.classes.values[1:]
    paint = Paint.of_slices(known, own, axis, values)
    return volume, *_told(paint)


def as_painted(found: Segmentation, paint: Paint) -> Segmentation:
    """Give a finished segmentation with its painted slices as they were painted."""
    mask = found.mask.array.copy()
    for index, painted in paint.slices.items():
        is_class = np.isin(painted, paint.values)
        mask[slice_place(paint.axis, index)] = np.where(is_class, painted, 0)
    return replace(found, mask=found.mask.with_array(mask))


def _given(
    card: ModelCard, image: ImageLike, labels: ImageLike
) -> tuple[Volume, Paint | None, Sequence[str]]:
    (volume,), (mask,), warnings = as_volume_pairs([image], [labels])
    if volume.is_2d:
        raise MedsagaError(
            f"{volume.name} is one 2-D image, which has no other slice to carry paint "
            "to: give no labels."
        )
    background = FineTuneSettings(**card.settings).painted_background
    annotation = annotated_slices([mask], on_tie=card.axis, background_value=background)
    _check_labels(card, mask, annotation)
    paint = Paint.of_labels(mask, annotation, 0, card.classes.values[1:])
    carried, said = _told(paint)
    return volume, carried, [*warnings, *label_doubts([mask], annotation), *said]


def _check_labels(card: ModelCard, mask: Volume, annotation: Annotation) -> None:
    """Raise MedsagaError where labels are not such as the model can go by."""
    if annotation.axis != card.axis:
        names = {axis: name for name, axis in AXIS_NAMES.items()}
        raise MedsagaError(
            f"The labels are painted across axis {annotation.axis} "
            f"({names[annotation.axis]}), but the model slices across axis "
            f"{card.axis} ({names[card.axis]}): leave them out, or paint along that."
        )
    painted = {
        value
        for _, index in annotation.slices
        for value in np.unique(annotation.read(mask, index).values).tolist()
    }
    unknown = sorted(painted - set(card.classes.values))
    if unknown:
        raise MedsagaError(
            f"The labels hold the value {unknown[0]}, which is none of the model's "
            "classes: give the labels that it was trained with, or leave them out."
        )


def _told(paint: Paint) -> tuple[Paint | None, list[str]]:
    """Give the paint, if there is any to carry, and a sentence about it."""
    n = len(paint.slices)
    if paint.n_strokes and not n:
        return None, ["Strokes are not carried to other slices: they have no boundary."]
    if not n:
        return None, []
    slices = count(n, "painted slice")
    return paint, [f"{slices} {verb(n)} carried to the other slices."]

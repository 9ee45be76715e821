"""The painted slices of an image that is segmented."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsaga.data.annotation import annotated_slices
from medsaga.data.inputs import as_volume, as_volume_pairs
from medsaga.propagation.paint import Paint
from medsaga.settings.fine_tune import FineTuneSettings

if TYPE_CHECKING:
    from medsaga.data.inputs import ImageLike
    from medsaga.data.volume import Volume
    from medsaga.models.folder import TrainedModel


def painted_volume(
    model: TrainedModel, image: ImageLike, labels: ImageLike | None
) -> tuple[Volume, Paint | None]:
    """Give an image as a volume, and what is painted of it, where there is any.

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
        If an image cannot be read, or the two do not fit together.
    """
    card = model.card
    values = card.classes.values[1:]
    if labels is not None:
        (volume,), (mask,), _ = as_volume_pairs([image], [labels])
        background = FineTuneSettings(**card.settings).painted_background
        annotation = annotated_slices([mask], card.axis, background_value=background)
        paint = Paint.of_labels(mask, annotation, 0, values)
    else:
        volume = as_volume(image)
        known = {one.among([volume]): found for one, found in model.paint.items()}
        # The fingerprint takes a look at the whole image.
        own = volume.fingerprint if known and not volume.is_2d else ""
        paint = Paint.of_slices(known, own, card.axis, values)
    is_carried = bool(paint.slices) and not volume.is_2d
    return volume, paint if is_carried else None

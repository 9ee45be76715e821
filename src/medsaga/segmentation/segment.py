"""Segmentation: a trained model over all slices of an image."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsaga.computing import computing_threads
from medsaga.data.inputs import as_volume
from medsaga.data.intensity import image_doubts
from medsaga.errors import MedsagaError, memory_explained
from medsaga.events import Notice, Stop, Stream
from medsaga.models.loading import load_model
from medsaga.network.bands import join_bands
from medsaga.propagation.carrying import Carrier
from medsaga.propagation.fusion import fuse_slices
from medsaga.propagation.trust import PaintTrust
from medsaga.segmentation.painted import as_painted, painted_volume
from medsaga.segmentation.plan import Work
from medsaga.segmentation.predictor import Predictor
from medsaga.segmentation.result import ResultArrays
from medsaga.segmentation.smoothing import is_smoothed
from medsaga.settings.segment import SegmentSettings

NOT_ENOUGH_MEMORY = (
    "The memory is not enough: close other programs, or give smaller images."
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from medsaga.data.inputs import ImageLike
    from medsaga.data.volume import Volume
    from medsaga.models.folder import TrainedModel
    from medsaga.network.bands import Band
    from medsaga.propagation.paint import Paint
    from medsaga.segmentation.result import Segmentation


def segment(
    model: TrainedModel | Path | str,
    image: ImageLike,
    settings: SegmentSettings | None = None,
    *,
    labels: ImageLike | None = None,
) -> Stream[Segmentation]:
    """Segment an image slice by slice with a trained model.

    Beyond the image and what is returned, the memory does not grow with the slices,
    but for a vote of three planes: that takes 2 bytes a voxel and class.

    Parameters
    ----------
    model
        A trained model, or its folder.
    image
        A file, an array (z, y, x) or (y, x), or a `Volume`.
    settings
        What to do to the mask, and what to give beside it.
    labels
        Painted slices of the image, to be carried to the others; None takes those that
        trained the model, if they are of this image and are known
        (:attr:`~medsaga.TrainedModel.paint`).

    Yields
    ------
    Notice
        What is to be said of the image, such as that the model sees nothing in it.
    SegmentedSlice
        Each slice's mask, as the model predicts it in its own plane. With smoothing it
        comes once the next slice is predicted too.
    VotedSlice
        Each slice of the other planes, where these vote.

    Returns
    -------
    Segmentation
        Whole, or as far as it came when stopped.

    Raises
    ------
    MedsagaError
        If the model or the image cannot be read, the image has colours and the model
        looks at neighbouring slices, or the memory does not suffice.
    """
    settings = settings or SegmentSettings()
    if labels is not None and not settings.paint:
        raise MedsagaError(
            "The labels are to be carried, but the setting paint is off: leave the "
            "labels out, or switch it on."
        )
    with memory_explained(NOT_ENOUGH_MEMORY):
        model = load_model(model) if isinstance(model, (Path, str)) else model
        if not settings.paint:
            return (yield from _segment(model, as_volume(image), settings, None, ()))
        volume, paint, said = painted_volume(model, image, labels)
        found = yield from _segment(model, volume, settings, paint, said)
        if paint is None or not found.is_complete:
            return found
        return as_painted(found, paint)


def _segment(
    model: TrainedModel,
    volume: Volume,
    settings: SegmentSettings,
    paint: Paint | None,
    said: Sequence[str],
) -> Stream[Segmentation]:
    planes = _planes(model, volume, settings)
    if any(planes):
        # Each slice across the stack of a lazy array would compute all of it.
        volume = replace(volume, array=np.asarray(volume.array))
    output = ResultArrays.allocate(model, volume, planes, settings)
    work = Work(
        network=model.network,
        card=model.card,
        volume=volume,
        smooth={axis: is_smoothed(settings.smooth, volume, axis) for axis in planes},
        settings=settings,
        has_paint=paint is not None,
    )
    with computing_threads(), suppress(Stop):
        for sentence in (*image_doubts(volume, model.card.intensity), *said):
            yield Notice(message=sentence)
        with Predictor(model, volume, settings.precision) as predictor:
            yield from predictor.prepare(work)
            for axis, smooth in work.smooth.items():
                stack = predictor.predict_all(axis, smooth=smooth)
                if paint is not None and axis == paint.axis:
                    carrier = Carrier(volume, paint, predictor.limits)
                    trust = model.card.paint_trust or PaintTrust()
                    stack = _join(stack, carrier, trust)
                for index, bands in enumerate(stack):
                    yield output.take(axis, index, bands)
                    yield from predictor.tell()
    return output.result(settings)


def _join(
    stack: Iterator[Iterable[Band]], carrier: Carrier, trust: PaintTrust
) -> Iterator[Iterable[Band]]:
    """Join what the model says of all slices with the paint that is carried."""
    for fused in fuse_slices(map(join_bands, stack), carrier, trust):
        yield [(slice(0, fused.shape[1]), fused)]


def _planes(
    model: TrainedModel, volume: Volume, settings: SegmentSettings
) -> tuple[int, ...]:
    """Give the axes to slice along, the model's own first."""
    own = 0 if volume.is_2d else model.card.axis
    if not settings.three_planes or min(volume.shape) == 1:
        return (own,)
    return own, *(axis for axis in range(3) if axis != own)

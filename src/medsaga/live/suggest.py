"""Suggest: what is painted in, the whole image out, in seconds, without a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsaga.errors import memory_explained
from medsaga.events import SegmentedSlice, Stream
from medsaga.live.predictor import LivePredictor
from medsaga.propagation.painted_volume import PaintedVolume
from medsaga.propagation.propagate import Propagation, collect_slices

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medsaga.data.annotation import EmptySlice
    from medsaga.data.inputs import ImageLike

_NOT_ENOUGH_MEMORY = "The memory is not enough: close other programs."


def suggest(
    image: ImageLike,
    labels: ImageLike,
    *,
    axis: int | None = None,
    slices: Sequence[int] | None = None,
    empty_slices: Sequence[EmptySlice] = (),
    background_value: int | None = None,
    limits: tuple[float, float] | None = None,
) -> Stream[Propagation]:
    """Segment an image by what is painted on it, without any training.

    As :func:`~medsaga.propagate`, but a head is fitted to the painted pixels besides,
    on the features of the encoder as it was pretrained, in half a second, and joined
    with the carried paint. It takes strokes and 2-D images too. It is what
    :class:`~medsaga.LivePredictor` suggests for one slice at a time.

    Parameters
    ----------
    image, labels
        A file, an array (z, y, x), or a `Volume` each. On a painted slice label 0 is
        background.
    axis
        The axis of (z, y, x) that is painted across; None takes the one along which the
        fewest slices carry a label.
    slices
        Only these are taken for painted.
    empty_slices
        Slices that show nothing of any class.
    background_value
        The annotation is sparse: label 0 is unknown, and this value is background.
    limits
        Intensities that become black and white; None takes them from image and labels,
        as a training does.

    Yields
    ------
    Notice
        What is to be said of the annotation and the image.
    SegmentedSlice
        Each slice, in order. What is painted is as it is painted.

    Returns
    -------
    Propagation
        Whole, or as far as it came when stopped.

    Raises
    ------
    MedsagaError
        If nothing is painted, or no background, the two do not fit together, or the
        memory does not suffice.
    """
    with memory_explained(_NOT_ENOUGH_MEMORY):
        painted = PaintedVolume.read(
            image,
            labels,
            axis=axis,
            slices=slices,
            empty_slices=empty_slices,
            background_value=background_value,
        )
    return (yield from collect_slices(painted, painted.said, _slices(painted, limits)))


def _slices(
    painted: PaintedVolume, limits: tuple[float, float] | None
) -> Iterator[SegmentedSlice]:
    volume, axis = painted.image, painted.annotation.axis
    limits = limits or painted.limits
    live = LivePredictor(volume, axis=axis, limits=limits, cache_mb=0)
    for _, index in painted.annotation.slices:
        label = painted.annotation.read(painted.labels, index)
        live.paint(index, label.values, label.known)
    for index, found in enumerate(live.suggest_all()):
        yield SegmentedSlice(
            image_name=volume.name,
            axis=axis,
            index=index,
            total=volume.shape[axis],
            mask=found.astype(painted.table.dtype),
        )

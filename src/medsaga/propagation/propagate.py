"""Propagation: a few painted slices in, the whole volume out, without any training."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsaga.data.volume import slice_place
from medsaga.errors import MedsagaError, memory_explained
from medsaga.events import CarriedSlice, Notice, SegmentedSlice, Stop, Stream
from medsaga.propagation.carrying import Carrier
from medsaga.propagation.masks import carried_mask
from medsaga.propagation.paint import Paint
from medsaga.propagation.painted_volume import PaintedVolume
from medsaga.wording import count, verb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from medsaga.data.annotation import EmptySlice
    from medsaga.data.classes import ClassTable
    from medsaga.data.inputs import ImageLike
    from medsaga.data.volume import Volume

_OUT_OF_MEMORY = "The memory ran out: close other programs, or give a smaller image."


@dataclass(frozen=True, eq=False, kw_only=True)
class Propagation:
    """What paint becomes when it is carried through its volume.

    Attributes
    ----------
    mask
        (z, y, x) label values, in the image's place in space.
    n_carried
        Slices reached, from the first; fewer than there are when it was stopped, and
        the others are 0.
    axis
        The axis that it was carried along.
    """

    mask: Volume
    n_carried: int
    axis: int

    @property
    def is_complete(self) -> bool:
        """Whether every slice was reached."""
        return self.n_carried == self.mask.shape[self.axis]


def propagate(
    image: ImageLike,
    labels: ImageLike,
    *,
    axis: int | None = None,
    slices: Sequence[int] | None = None,
    empty_slices: Sequence[EmptySlice] = (),
    background_value: int | None = None,
    follows_flow: bool | None = None,
) -> Stream[Propagation]:
    """Carry the painted slices of a volume to all the others, without any training.

    The boundaries of each class move with the optical flow between neighbouring slices,
    from the painted slices on both sides. It takes seconds.

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
        Slices of which only some pixels are known are not carried.
    follows_flow
        False interpolates between the painted slices, whatever the image shows; by
        default the painted slices decide which serves them better.

    Yields
    ------
    Notice
        What is to be said of the annotation and the image.
    CarriedSlice
        Each slice, in order.

    Returns
    -------
    Propagation
        Whole, or as far as it came when stopped.

    Raises
    ------
    MedsagaError
        If nothing is painted but strokes, the image is 2-D, the two do not fit
        together, or the memory does not suffice.
    """
    with memory_explained(_OUT_OF_MEMORY):
        painted = PaintedVolume.read(
            image,
            labels,
            axis=axis,
            slices=slices,
            empty_slices=empty_slices,
            background_value=background_value,
        )
        volume, table = painted.image, painted.table
        paint = Paint.of_labels(painted.labels, painted.annotation, 0, table.values[1:])
        _check(volume, paint)
        carrier = Carrier(volume, paint, painted.limits, follows_flow=follows_flow)
        said = [*painted.said, *_strokes(paint), *_unreached(carrier)]
        carried = _carry(volume, carrier, table)
        return (yield from collect_slices(painted, said, carried))


def _carry(
    volume: Volume, carrier: Carrier, table: ClassTable
) -> Iterator[CarriedSlice]:
    axis = carrier.paint.axis
    for maps in carrier.stream():
        yield CarriedSlice(
            image_name=volume.name,
            axis=axis,
            index=maps.index,
            total=volume.shape[axis],
            mask=carried_mask(carrier, maps, table),
            gap=maps.gap,
            agreement=maps.mean_agreement,
        )


def collect_slices(
    painted: PaintedVolume, said: Sequence[str], slices: Iterable[SegmentedSlice]
) -> Stream[Propagation]:
    """Hand on what is to be said, and each slice, and put these into a mask.

    A :class:`~medsaga.events.Stop` ends it in order.

    Parameters
    ----------
    painted
        What is segmented.
    said
        Sentences for the user.
    slices
        In order.
    """
    volume, axis, done = painted.image, painted.annotation.axis, 0
    mask = np.zeros(volume.shape, painted.table.dtype)
    with suppress(Stop):
        for message in said:
            yield Notice(message=message)
        for event in slices:
            mask[slice_place(axis, event.index)] = event.mask
            done += 1
            yield event
    return Propagation(mask=volume.with_array(mask), n_carried=done, axis=axis)


def _check(volume: Volume, paint: Paint) -> None:
    if volume.is_2d:
        raise MedsagaError(
            f"{volume.name} is one 2-D image, which has no other slice to carry paint "
            "to: fine-tune a model on it, and segment other images with that."
        )
    if not paint.slices:
        raise MedsagaError(
            "Only strokes are painted, which have no boundary to carry: paint at least "
            "one slice as a whole, or fine-tune a model, which learns from strokes."
        )


def _unreached(carrier: Carrier) -> list[str]:
    """Say which slices stay empty."""
    n = len(carrier.unreached())
    if not n:
        return []
    return [
        f"{count(n, 'slice')} {verb(n)} more than {carrier.reach} away from the "
        "nearest painted one, so that nothing is carried there: paint one of them too."
    ]


def _strokes(paint: Paint) -> list[str]:
    """Say which slices are not carried."""
    if not paint.n_strokes:
        return []
    n = paint.n_strokes
    return [
        f"{count(n, 'slice')} with strokes {verb(n)} not carried: a stroke "
        "has no boundary."
    ]

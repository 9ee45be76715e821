"""Many images segmented one after the other, as one stream."""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING

import numpy as np

from medsaga import Event, MedsagaError, Stop
from napari_medsaga.segment.files import FileTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medsaga import Segmentation, SegmentSettings, Stream, TrainedModel, Volume


@dataclass(frozen=True, eq=False, kw_only=True)
class QueueItem:
    """One image of a queue.

    Attributes
    ----------
    number
        Names the item in the events.
    image
        A volume, whose result comes with the events, or a file, whose result is
        written to files.
    skip
        Set it from any thread to end this item alone.
    """

    number: int
    image: Volume | Path
    skip: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemStarted(Event):
    """The item is being read or segmented."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemEvent(Event):
    """What the engine says while it segments the item."""

    number: int
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDone(Event):
    """The item is segmented to the end.

    Attributes
    ----------
    mask
        None for a file.
    probabilities
        (z, y, x) float32 for each class in the model's order, background first; empty
        for a file, or if unwanted.
    entropy
        (z, y, x) float32; None for a file, or if unwanted.
    is_kept
        Whether all its files were there already, so that nothing was done.
    keeps_some
        Whether some of its files were there already, and are as they were.
    """

    number: int
    mask: Volume | None = field(default=None, repr=False)
    probabilities: tuple[NDArray[np.float32], ...] = field(default=(), repr=False)
    entropy: NDArray[np.float32] | None = field(default=None, repr=False)
    is_kept: bool = False
    keeps_some: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFailed(Event):
    """The item could not be segmented; the others are.

    `error` is None where the message says all, else the exception that nobody expected,
    and `details` its traceback.
    """

    number: int
    message: str
    error: Exception | None = None
    details: str = ""


def segment_queue(
    model: Path,
    items: Sequence[QueueItem],
    settings: SegmentSettings,
    target: FileTarget | None = None,
) -> Stream[None]:
    """Segment images one after the other; one that fails does not stop the others.

    An item that is stopped or skipped gets no last event; of a file nothing is written
    then.

    Parameters
    ----------
    model
        The model's folder; it is loaded once.
    items
        The images, in order.
    settings
        What to give beside the masks.
    target
        Where the results of files go; not needed for volumes.

    Yields
    ------
    ItemStarted, ItemEvent, ItemDone, ItemFailed

    Raises
    ------
    MedsagaError
        If the model cannot be read.
    """
    from medsaga import load_model

    queue = _Queue(load_model(model), items, settings, target)
    with suppress(Stop):
        for item in items:
            yield from queue.process(item)
            if queue.is_stopped:
                return


class _Queue:
    """A loaded model and what it does with each item."""

    def __init__(
        self,
        model: TrainedModel,
        items: Sequence[QueueItem],
        settings: SegmentSettings,
        target: FileTarget | None,
    ) -> None:
        from medsaga import OutputPlan

        self.is_stopped = False
        self._model, self._settings = model, settings
        paths = (item.image for item in items if isinstance(item.image, Path))
        self._target = target or FileTarget(folder=Path())
        self._plan = OutputPlan(
            folder=self._target.folder,
            images={path.resolve() for path in paths},
            card=model.card,
            settings=settings,
        )

    def process(self, item: QueueItem) -> Stream[None]:
        """Segment one item and say what became of it."""
        if item.skip.is_set():
            return
        yield ItemStarted(number=item.number)
        last: Event | None
        try:
            if isinstance(item.image, Path):
                last = yield from self._segment_file(item, item.image)
            else:
                last = yield from self._segment_volume(item, item.image)
        except MedsagaError as error:
            last = ItemFailed(number=item.number, message=str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            last = ItemFailed(
                number=item.number,
                message=f"Unexpected error: {error or type(error).__name__}",
                error=error,
                details="".join(format_exception(error)),
            )
        if last is not None:
            yield last

    def _segment_volume(
        self, item: QueueItem, volume: Volume
    ) -> Stream[ItemDone | None]:
        result = yield from self._segment(item, volume)
        if not result.is_complete:
            return None
        chances = result.probabilities
        return ItemDone(
            number=item.number,
            mask=result.mask,
            # napari shows no half precision.
            probabilities=()
            if chances is None
            else tuple(chance.astype(np.float32) for chance in chances),
            entropy=None if result.entropy is None else result.entropy.array,
        )

    def _segment_file(self, item: QueueItem, path: Path) -> Stream[ItemDone | None]:
        from medsaga import read_volume, write_volume

        outputs = self._plan.outputs(path)
        wanted = outputs.paths if self._target.replaces else outputs.missing
        if not wanted:
            return ItemDone(number=item.number, is_kept=True)
        result = yield from self._segment(item, read_volume(path))
        if not result.is_complete:
            return None
        for output, volume in zip(outputs.paths, result.volumes(), strict=True):
            if output in wanted:
                write_volume(volume, output, is_labels=volume is result.mask)
        keeps_some = len(wanted) < len(outputs.paths)
        return ItemDone(number=item.number, keeps_some=keeps_some)

    def _segment(self, item: QueueItem, image: Volume) -> Stream[Segmentation]:
        """Pass the engine's events on with the item's number.

        Stop, or a skip, makes the engine return what it has. After a stop in the very
        last slice that is all of it.
        """
        from medsaga import segment

        with closing(segment(self._model, image, self._settings)) as stream:
            try:
                event = next(stream)
                while True:
                    try:
                        yield ItemEvent(number=item.number, event=event)
                    except Stop:
                        self.is_stopped = True
                    ends = self.is_stopped or item.skip.is_set()
                    event = stream.throw(Stop()) if ends else next(stream)
            except StopIteration as end:
                result: Segmentation = end.value
                return result

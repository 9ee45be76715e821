"""The small frozen events that the engine's long functions yield.

Every long function is a generator: it yields these events and returns its result.
Throw :class:`Stop` into it at a yield to end it in order; it then returns the best
result so far. Not asking for the next event is a pause.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Stage = Literal["paint", "features", "head", "galore", "left out", "agreed"]
"""Paint alone, before there is a model; the head stage's two halves (the frozen
features, the fit); the GaLore stage; slices left out one by one, or agreed on."""
T = TypeVar("T")


class Stop(Exception):
    """Thrown into a stream at a yield: end in order and return the best so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """One sentence for the user: a decision taken, or something to know."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """`step` of `total` of one stage is done; `seconds_left` counts to the end of it.

    `total` is 0 while the number of steps is still being planned from minutes.
    `loss` is NaN where the step has none. `peak_memory` is the peak resident memory
    of the process in bytes (on a GPU: the peak allocated there).
    """

    stage: Stage
    step: int
    total: int
    loss: float
    learning_rate: float
    seconds_left: float
    peak_memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated(Event):
    """Scores by label value, measured at the images' own resolution.

    `measured_on` says whether the slices were held out of the training or are the
    un-augmented training slices themselves (too few to hold any out). A class that
    cannot be scored is absent from the mapping. HD95 is in mm where the spacing is
    known, else in pixels.
    """

    step: int
    dice: Mapping[int, float]
    hd95: Mapping[int, float]
    measured_on: Literal["held-out slices", "training slices"]

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the classes that could be scored; NaN without any."""
        from medsaga.metrics import mean  # NumPy, which the command line starts without

        return mean(self.dice.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected(Event):
    """The Dice to be expected of slices that nobody painted, by label value.

    Measured on `n_left_out` painted slices, each of which was judged by a head that had
    not seen it, with paint carried from the others where there was any. A class that is
    on one slice alone is absent.
    """

    dice: Mapping[int, float]
    n_left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(Event):
    """The mask of one slice as the model predicts it now.

    `mask` is (rows, columns) with label values, at the slice's own resolution.
    """

    stage: Stage
    image_name: str
    axis: int
    slice_index: int
    mask: NDArray[np.integer] = field(repr=False)
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedSlice(Event):
    """Slice `index` along `axis` is segmented, and so `done` of `total` are.

    `total` also counts the slices of other planes that vote. `mask` is (rows, columns)
    with label values, before any vote or cleaning: what :func:`medsaga.segment`
    returns is final.
    """

    image_name: str
    axis: int
    index: int
    total: int
    mask: NDArray[np.integer] = field(repr=False)

    @property
    def done(self) -> int:
        """Slices done: the model's own plane comes first, in order."""
        return self.index + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedSlice(SegmentedSlice):
    """Paint was carried to slice `index` along `axis`.

    `gap` is the distance to the nearest painted slice in mm (in slices where the
    spacing is unknown), 0 on a painted one. `agreement` is the mean Dice, over the
    classes, of what comes from the painted slice on one side with what comes from the
    other; NaN where there is paint on one side alone, or no class.
    """

    gap: float
    agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSlice(SegmentedSlice):
    """Slice `index` was looked at for advice: so many pixels are expected wrong."""

    errors: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VotedSlice(Event):
    """Slice `index` along `axis`, not the model's own, has voted: `done` of `total`.

    The mask changes once a plane is through.
    """

    image_name: str
    axis: int
    index: int
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved(Event):
    """A file or a model folder was written."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemStarted(Event):
    """Item `number` of the batch, counted from 0, is being read or segmented."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemEvent(Event):
    """What :func:`medsaga.segment` says of item `number` of a batch."""

    number: int
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsDone(Event):
    """Of `total` items of a batch `done` are over; a cluster has `n_workers` workers.

    Comes every second, also while nothing ends, so that a stop never waits for an item.
    """

    done: int
    total: int
    n_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring(Event):
    """Of `total` pairs of mask and truth `done` are scored."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProgress(Event):
    """Of the weights called `name`, `done` of `total` bytes are fetched or the like.

    Comes several times a second, also while nothing comes from a server.
    """

    name: str
    doing: Literal["Fetching", "Copying", "Checking"]
    done: int
    total: int


Stream = Generator[Event, None, T]


class Relay:
    """Passes a stream on inside another one, and stops it: the one place that does.

    A stream that is stopped returns what it has, as one that is done does: who chains
    streams needs to know which it was. Use ``result = yield from relay(stream)``.

    Parameters
    ----------
    should_stop
        Asked after each event, from whichever thread runs the stream; once it says yes,
        the stream ends in order. A :class:`Stop` thrown into the relay does the same.
    mark
        Gives what is yielded in the place of an event, such as one that says more.

    Attributes
    ----------
    is_stopped
        Whether it was stopped.
    seconds_paused
        How long, in all, nobody asked for the next event.
    """

    def __init__(
        self,
        should_stop: Callable[[], bool] | None = None,
        mark: Callable[[Event], Event] | None = None,
    ) -> None:
        self._should_stop, self._mark = should_stop, mark
        self.is_stopped = False
        self.seconds_paused = 0.0

    def __call__(self, stream: Stream[T]) -> Stream[T]:
        """Yield a stream's events and return its result."""
        try:
            event = next(stream)
            while True:
                stop = yield from self._hand_over(event)
                event = next(stream) if stop is None else stream.throw(stop)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            stream.close()

    def _hand_over(self, event: Event) -> Stream[Stop | None]:
        """Yield an event, and return the stop that is due after it, if one is."""
        started = time.monotonic()
        stop = None
        try:
            yield event if self._mark is None else self._mark(event)
        except Stop as thrown:
            stop = thrown
        finally:
            self.seconds_paused += time.monotonic() - started
        if stop is None and not self.is_stopped and self._should_stop is not None:
            stop = Stop() if self._should_stop() else None
        self.is_stopped = self.is_stopped or stop is not None
        return stop


def drain(
    stream: Stream[T],
    on_event: Callable[[Event], object] | None = None,
    *,
    should_stop: Callable[[], bool] | None = None,
) -> T:
    """Run a stream to its end and return its result.

    Parameters
    ----------
    stream
        What :func:`medsaga.fine_tune` or :func:`medsaga.segment` gives.
    on_event
        Called with each event, for example ``print``.
    should_stop
        Asked after each event; once it says yes, the stream ends in order and what it
        has by then is returned.
    """
    with closing(Relay(should_stop)(stream)) as relayed:
        while True:
            try:
                event = next(relayed)
            except StopIteration as end:
                result: T = end.value
                return result
            if on_event is not None:
                on_event(event)

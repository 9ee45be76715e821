"""How long a stream has run: its pauses, which are its caller's, do not count."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from medsaga.events import Stop

if TYPE_CHECKING:
    from medsaga.events import Stream

T = TypeVar("T")


class RunningTime:
    """Seconds since it was made, without those between two events of its stream.

    Who does not ask for the next event pauses a training, which is to have its minutes
    all the same.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._paused = 0.0

    @property
    def seconds(self) -> float:
        """Seconds that have counted so far."""
        return time.monotonic() - self._started - self._paused

    def of(self, stream: Stream[T]) -> Stream[T]:
        """Run a stream on this time."""
        proceed = partial(next, stream)
        with closing(stream):
            while True:
                try:
                    event = proceed()
                except StopIteration as end:
                    result: T = end.value
                    return result
                handed_over = time.monotonic()
                try:
                    yield event
                    proceed = partial(next, stream)
                except Stop as stop:
                    proceed = partial(stream.throw, stop)
                finally:
                    self._paused += time.monotonic() - handed_over

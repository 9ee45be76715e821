"""How long a stream has run: its pauses, which are its caller's, do not count."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from medsaga.events import Relay

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
        self._relay = Relay()

    @property
    def seconds(self) -> float:
        """Seconds that have counted so far."""
        return time.monotonic() - self._started - self._relay.seconds_paused

    def add(self, seconds: float) -> None:
        """Count seconds that it has run before, in another process."""
        self._started -= seconds

    def of(self, stream: Stream[T]) -> Stream[T]:
        """Run a stream on this time."""
        return self._relay(stream)

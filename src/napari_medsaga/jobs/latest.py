"""Questions answered in a thread, of several the last."""

from __future__ import annotations

import atexit
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from qtpy.QtCore import QObject, Signal

if TYPE_CHECKING:
    from collections.abc import Callable

Q = TypeVar("Q")
_SECONDS_TO_END = 60.0
_threads: list[threading.Thread] = []


class LatestAnswer(QObject, Generic[Q]):
    """Answers one question at a time; those that a newer one overtook are left out.

    Parameters
    ----------
    answer
        Called in the thread, with the question.
    parent
        Qt parent.
    """

    answered = Signal(object)
    """Emits what `answer` gave, on the GUI thread."""
    failed = Signal(object)
    """Emits the exception that it raised."""

    def __init__(self, answer: Callable[[Q], Any], parent: QObject) -> None:
        super().__init__(parent)
        self._answer = answer
        self._lock = threading.Lock()
        self._next: Q | None = None
        self._is_busy = False

    def ask(self, question: Q) -> None:
        """Ask; the answer comes as `answered`."""
        with self._lock:
            self._next = question
            if self._is_busy:
                return
            self._is_busy = True
        thread = threading.Thread(target=self._work, daemon=True)
        _threads[:] = [*(t for t in _threads if t.is_alive()), thread]
        thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                question, self._next = self._next, None
                if question is None:
                    self._is_busy = False
                    return
            try:
                self._emit(self.answered, self._answer(question))
            except Exception as error:  # noqa: BLE001 - whatever it is, the dock shows it
                self._emit(self.failed, error)

    def _emit(self, signal: Any, found: object) -> None:
        with suppress(RuntimeError):  # the dock was closed in the meantime
            signal.emit(found)


@atexit.register
def _end_threads() -> None:
    """Let the threads end: torch aborts the process if it is torn down under them."""
    for thread in _threads:
        thread.join(_SECONDS_TO_END)

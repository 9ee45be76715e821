"""Work on one large file in a thread, told as a stream that can be stopped at once."""

from __future__ import annotations

import shutil
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock, Timeout

from medsaga.errors import MedsagaError
from medsaga.events import Event, FileProgress, Notice, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Literal

    from medsaga.events import Stream

T = TypeVar("T")

_SECONDS_BETWEEN_EVENTS = 0.1
# A stopped thread ends at its next piece; one that waits for a server is left to
# itself, does nothing more when something comes, and lets go of the file then.
_SECONDS_TO_END = 0.5
_ADVICE = (
    "make room there or ask for the permission to write, or name another folder in "
    "the environment variable MEDSAGA_WEIGHTS"
)
_MB = 1e6


class _Stopped(Exception):
    """Ends the work in its thread."""


class Report:
    """What a thread tells of its work on a file, and whether it is to end.

    Parameters
    ----------
    name
        Of the file, for people.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._doing: Literal["Fetching", "Copying", "Checking"] = "Checking"
        self._done = self._total = 0
        self._sentences: deque[str] = deque()
        self._stop = threading.Event()

    def begin(
        self, doing: Literal["Fetching", "Copying", "Checking"], total: int
    ) -> None:
        """Tell what is done with how many bytes from now on."""
        self._doing, self._done, self._total = doing, 0, total

    def add(self, n_bytes: int) -> None:
        """Tell that so many more are done; ends the work if it is to end."""
        if self._stop.is_set():
            raise _Stopped
        self._done += n_bytes

    def say(self, sentence: str) -> None:
        """Tell the user something."""
        self._sentences.append(sentence)

    def wait(self, seconds: float) -> None:
        """Wait; ends the work if it is to end."""
        if self._stop.wait(seconds):
            raise _Stopped

    def stop(self) -> None:
        """Have the work end."""
        self._stop.set()

    def events(self) -> Iterator[Event]:
        """Give what there is to tell now."""
        while self._sentences:
            yield Notice(message=self._sentences.popleft())
        yield FileProgress(
            name=self.name, doing=self._doing, done=self._done, total=self._total
        )


def in_thread(work: Callable[[Report], T], name: str) -> Stream[T | None]:
    """Run `work` in a thread and return what it gives, or None where it was stopped.

    Libraries that fetch and copy give no moment to yield, and a server that says
    nothing would hold up a stop.

    Parameters
    ----------
    work
        Called with the :class:`Report` that it has to make.
    name
        Of the file, for people.
    """
    report = Report(name)
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work(report))
        except _Stopped:
            pass
        except Exception as error:  # noqa: BLE001 - raised again where it is seen
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    is_done = is_stopped = False
    try:
        while not is_done:
            thread.join(_SECONDS_BETWEEN_EVENTS)
            is_done = not thread.is_alive()
            yield from report.events()
    except Stop:
        is_stopped = True
    finally:
        report.stop()
        thread.join(_SECONDS_TO_END)
    if errors and not is_stopped:
        raise errors[0]
    return results[0] if results else None


def hidden(path: Path, ending: str) -> Path:
    """Give the name of what is kept beside a file while it is being made."""
    return path.with_name(f".{path.name}.{ending}")


def check_room(path: Path, n_bytes: int) -> None:
    """Raise MedsagaError unless so many bytes are free where a file is to be."""
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes:
        raise MedsagaError(
            f"{path.name} takes {n_bytes / _MB:.0f} MB and {path.parent} has "
            f"{free / _MB:.0f} MB free: {_ADVICE}."
        )


@contextmanager
def alone_with(path: Path, report: Report) -> Iterator[None]:
    """Keep other processes and threads off a file inside the block; waits for them.

    Raises
    ------
    MedsagaError
        If its folder cannot be made or written to.
    """
    lock = FileLock(hidden(path, "lock"), thread_local=False)
    with disk_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report.say(f"Another program is at {path}: waiting until it is done.")
            _wait_for(lock, report)
    try:
        yield
    finally:
        lock.release()


def _wait_for(lock: FileLock, report: Report) -> None:
    while not lock.is_locked:
        report.wait(_SECONDS_BETWEEN_EVENTS)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue


@contextmanager
def disk_explained(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one sentence.

    Raises
    ------
    MedsagaError
        In the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise MedsagaError(
            f"{path} cannot be written ({error.strerror or error}): {_ADVICE}."
        ) from error

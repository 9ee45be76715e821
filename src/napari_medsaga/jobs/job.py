"""Run an engine stream off the GUI thread: events, pause, stop, and an orderly end."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from napari.qt.threading import FunctionWorker, create_worker
from napari.utils import progress
from qtpy.QtCore import QObject, QThreadPool, QTimer, Signal
from qtpy.QtWidgets import QApplication, QLabel

from medsaga import Stop, drain
from medsaga.events import Preview
from napari_medsaga.jobs.guests import let_guests_through
from napari_medsaga.jobs.torch_import import import_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from medsaga.events import Event, Stream

Status = Literal["done", "stopped", "failed"]
T = TypeVar("T")

_DRAIN_MS = 50
_ASK_SECONDS = 0.1
_SECONDS_TO_KEEP_THE_MODEL = 60.0
# Two trainings at once slow each other more than tenfold: torch's threads spin while
# they wait for each other. So a second job waits for the first.
_computer = threading.Lock()
# What is done between jobs ends as soon as one wants the computer.
_between_jobs = threading.Lock()
_started: set[Job] = set()


@dataclass(eq=False)
class _Controls:
    """What the GUI thread and the worker share."""

    computes: bool
    stop: threading.Event = field(default_factory=threading.Event)
    running: threading.Event = field(default_factory=threading.Event)
    is_waiting: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    events: deque[Event] = field(default_factory=deque)
    outcome: tuple[Status, Any] = ("stopped", None)

    def end(self) -> None:
        """Let the stream end in order, also when it is paused."""
        self.stop.set()
        self.running.set()


class _Drain:
    """Drains a stream in a worker, once the computer is free if it computes.

    A callable object rather than a function: napari names it when it asks whether to
    close its window. Errors are kept rather than raised, as a worker loses some.
    """

    def __init__(
        self, controls: _Controls, make_stream: Callable[[], Stream[T]], title: str
    ) -> None:
        self._controls = controls
        self._make_stream: Callable[[], Stream[Any]] | None = make_stream
        self.__name__ = self.__qualname__ = title

    def __str__(self) -> str:
        return self.__name__

    def __call__(self) -> None:
        try:
            if self._controls.computes:
                self._compute()
            else:
                self._drain()
        except Exception as error:  # noqa: BLE001 - whatever it is, the panel shows it
            self._controls.outcome = "failed", error
        finally:
            # napari keeps every worker, which must not keep what it works on.
            self._make_stream = None
            self._controls.ended.set()

    def _compute(self) -> None:
        controls = self._controls
        while not _computer.acquire(timeout=_ASK_SECONDS):
            controls.is_waiting.set()
            if controls.stop.is_set():
                return
        try:
            controls.is_waiting.clear()
            import_engine()
            with _between_jobs:
                pass
            self._drain()
        finally:
            _computer.release()

    def _drain(self) -> None:
        assert self._make_stream is not None
        controls = self._controls
        if controls.stop.is_set():
            return
        try:
            value = drain(
                self._make_stream(), self._take, should_stop=controls.stop.is_set
            )
        except Stop:  # it had nothing to keep
            value = None
        controls.outcome = ("stopped" if controls.stop.is_set() else "done"), value

    def _take(self, event: Event) -> None:
        """Hand an event over to the GUI thread; held up here, the stream pauses."""
        self._controls.events.append(event)
        if isinstance(event, Preview) and event.stage != "paint":
            # What the model was first seen to do stands.
            import_engine("galore")
        self._controls.running.wait()
        let_guests_through()


class _Worker(FunctionWorker):
    """A worker whose `quit`, which napari calls too, ends the stream in order."""

    controls: _Controls

    def quit(self) -> None:
        self.controls.end()
        super().quit()


def is_computing() -> bool:
    """Whether a job has the computer."""
    return _computer.locked()


@contextmanager
def idle_computer() -> Iterator[Callable[[], bool] | None]:
    """Hold the computer inside the block for something short, unless a job has it.

    Gives None then, and else a function that says whether a job wants it.
    """
    with _between_jobs:
        yield None if is_computing() else is_computing


class Job(QObject):
    """One engine stream, drained in a thread.

    Parameters
    ----------
    make_stream
        Called in the thread; must not touch layers or widgets.
    title
        Names the job in napari's activity dock and in its question before closing.
    computes
        Whether it needs torch and the computer's cores, for which it waits.

    Notes
    -----
    A job that was started lives until it has ended, whatever becomes of the dock that
    started it: what it has is kept in the thread.
    """

    reported = Signal(object)
    """Emits `(event)`: an engine event, on the GUI thread."""

    waits = Signal()
    """Emitted once, if another job has the computer."""

    ended = Signal(str, object)
    """Emits `(status, value)` once: "done" and the stream's result, "stopped" and what
    there was by then or None, or "failed" and the exception."""

    def __init__(
        self, make_stream: Callable[[], Stream[T]], title: str, *, computes: bool = True
    ) -> None:
        super().__init__()
        self._controls = _Controls(computes)
        self._controls.running.set()
        self._worker = create_worker(
            _Drain(self._controls, make_stream, title),
            _worker_class=_Worker,
            _start_thread=False,
        )
        self._worker.controls = self._controls
        # After `quit` a worker sends no `returned`, only `finished`.
        self._worker.finished.connect(self._on_worker_finished)
        self._title = title
        self._bar: Any = None
        self._said_that_it_waits = False
        self._timer = QTimer(self)
        self._timer.setInterval(_DRAIN_MS)
        self._timer.timeout.connect(self._drain)
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self._on_about_to_quit)

    @property
    def is_waiting(self) -> bool:
        """Whether another job has the computer."""
        return self._controls.is_waiting.is_set()

    @property
    def is_paused(self) -> bool:
        """Whether the job is paused or about to pause."""
        return not self._controls.running.is_set()

    def start(self) -> None:
        """Start, or wait for the job that is running."""
        _started.add(self)
        self._timer.start()
        _make_room_in_pool()
        self._worker.start()
        # In a turn of its own: beside what a click does already it would be felt.
        QTimer.singleShot(0, self._add_bar)

    def _add_bar(self) -> None:
        """Show the job in napari's activity dock."""
        if self in _started:
            self._bar = progress(total=100, desc=self._title)
            _hold_spinners()

    def stop(self) -> None:
        """End the stream in order at its next event; it keeps what it has."""
        self._worker.quit()

    def set_paused(self, paused: bool) -> None:
        """Pause at the next event, or go on."""
        if paused:
            self._controls.running.clear()
        else:
            self._controls.running.set()

    def show_progress(self, fraction: float) -> None:
        """Show in napari's activity dock how much is done, from 0 to 1."""
        percent = int(100 * fraction)
        # Its bar calls processEvents: only for what can be seen.
        if self._bar is not None and percent > self._bar.n:
            self._bar.update(percent - self._bar.n)

    def _drain(self) -> None:
        if self.is_waiting and not self._said_that_it_waits:
            self._said_that_it_waits = True
            self.waits.emit()
        while self._controls.events:
            self.reported.emit(self._controls.events.popleft())

    def _on_worker_finished(self) -> None:
        self._timer.stop()
        self._drain()
        if self._bar is not None:
            self._bar.close()
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.disconnect(self._on_about_to_quit)
        _started.discard(self)
        status, value = self._controls.outcome
        self._controls.outcome = status, None  # napari keeps the worker that has it
        self.ended.emit(status, value)

    def _on_about_to_quit(self) -> None:
        self.stop_and_wait()

    def stop_and_wait(self) -> None:
        """Wait until the stream has kept what it has; no window is open any more."""
        self._controls.end()
        self._controls.ended.wait(_SECONDS_TO_KEEP_THE_MODEL)


@atexit.register
def _stop_started() -> None:
    """End what runs on without a window, such as after a script has come to its end."""
    for job in list(_started):
        job.stop_and_wait()


def _make_room_in_pool() -> None:
    """Have a thread for one more worker: a job that waits for another occupies one.

    Qt gives its pool as many threads as there are cores. With a single one, neither a
    second job nor any other plugin's worker would start before the first has ended.
    """
    pool = QThreadPool.globalInstance()
    if pool.activeThreadCount() >= pool.maxThreadCount():
        pool.setMaxThreadCount(pool.activeThreadCount() + 1)


def _hold_spinners() -> None:
    """Hold napari's spinner still while its activity dock shows a job.

    Each of its frames redraws the whole window. Where that is done in software, it
    takes a core from the training: on two cores it was left a quarter of its steps.
    """
    for window in QApplication.topLevelWidgets():
        for label in window.findChildren(QLabel):
            if label.movie() is not None:
                label.movie().setPaused(True)

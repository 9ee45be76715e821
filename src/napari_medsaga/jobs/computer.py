"""Gets the engine ready when a dock opens: what computes here, and how fast."""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer, Signal

from medsaga import MedsagaError, frontend, preset
from napari_medsaga.jobs.job import idle_computer, is_computing
from napari_medsaga.jobs.torch_import import import_engine

if TYPE_CHECKING:
    from medsaga.frontend import Speed

_DRAW_FIRST_MS = 500
_SECONDS_TO_END = 60.0
_is_closing = threading.Event()
_threads: list[threading.Thread] = []
known_speed: Speed | None = None


class ComputerWatch(QObject):
    """Makes the engine ready while the user chooses layers.

    Attributes
    ----------
    computer
        Device, cores and free memory; empty until they are known.
    """

    changed = Signal()
    """Emitted when the computer, and then its speed, has been looked at."""
    gpu_found = Signal()
    """Emitted before that where there is a GPU."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.computer = ""
        # Loading torch's libraries holds the interpreter: the dock is drawn first.
        QTimer.singleShot(_DRAW_FIRST_MS, self.look_again)

    @property
    def speed(self) -> Speed | None:
        """How fast the default model is here; None until it is measured."""
        return known_speed

    def look_again(self) -> None:
        """Look at the computer in a thread, and measure its speed if it is not known.

        A job that ran before may have been in the way.
        """
        thread = threading.Thread(target=self._work, daemon=True)
        _threads[:] = [*(t for t in _threads if t.is_alive()), thread]
        thread.start()

    def _work(self) -> None:
        import_engine()
        self.computer = frontend.describe_computer()
        try:
            if frontend.has_gpu():
                self.gpu_found.emit()
            self.changed.emit()
            # A job that was started meanwhile has its preview first, and imports then.
            if not (is_computing() or _is_closing.is_set()):
                import_engine("galore")
                _measure()
            self.changed.emit()
        except RuntimeError:  # the dock was closed in the meantime
            return


@atexit.register
def _end_threads() -> None:
    """Let the threads end: torch aborts the process if it is torn down under them."""
    _is_closing.set()
    for thread in _threads:
        thread.join(_SECONDS_TO_END)


def _measure() -> None:
    """Measure the default model once, unless a job has or wants the computer."""
    global known_speed
    with idle_computer() as is_wanted:  # one at a time
        if known_speed is not None or is_wanted is None:
            return
        settings = preset("balanced", on_gpu=frontend.has_gpu())
        stream = frontend.measure_speed(settings)
        try:
            while not (is_wanted() or _is_closing.is_set()):
                next(stream)
        except StopIteration as end:
            known_speed = end.value
        except MedsagaError:  # no weights: said where the model is chosen
            return
        finally:
            stream.close()

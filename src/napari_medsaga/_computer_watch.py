"""Imports torch in a thread when a dock opens, and says what computes here."""

from __future__ import annotations

import threading

from qtpy.QtCore import QObject, QTimer, Signal

from napari_medsaga._jobs import is_computing
from napari_medsaga._torch import import_engine

_DRAW_FIRST_MS = 500


class ComputerWatch(QObject):
    """Makes the engine ready while the user chooses layers."""

    described = Signal(str)
    """Emits `(device, cores and free memory)`, once it is known."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        # Loading torch's libraries holds the interpreter: the dock is drawn first.
        QTimer.singleShot(_DRAW_FIRST_MS, self._on_drawn)

    def _on_drawn(self) -> None:
        threading.Thread(target=self._warm_up, daemon=True).start()

    def _warm_up(self) -> None:
        import_engine()
        import medsaga

        try:
            self.described.emit(medsaga.describe_computer())
        except RuntimeError:  # the dock was closed in the meantime
            return
        # A job that was started meanwhile has its preview first, and imports then.
        if not is_computing():
            import_engine("galore")

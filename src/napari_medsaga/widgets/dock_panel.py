"""What the docks have in common: each notices that it is opened, and closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

from napari_medsaga.widgets.preferences import apply_preferences

if TYPE_CHECKING:
    from qtpy.QtCore import QObject


class DockPanel(QWidget):
    """The content of a dock, which is told when the dock is closed.

    No close event comes: napari takes the panel out of its dock. Opened beside another
    one of ours, it becomes a tab of that: one below the other they would be crushed.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        apply_preferences()
        super().__init__(parent)
        self._joining = QTimer(self)  # it dies with the panel
        self._joining.setSingleShot(True)
        self._joining.timeout.connect(self._join_others)

    def event(self, event: QEvent) -> bool:
        """Notice that the panel has been put into a dock, or taken out."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is None:
                self.on_dock_closed()
            else:
                self._joining.start(0)
        return bool(super().event(event))

    def on_dock_closed(self) -> None:
        """End what goes on; touch no layer and no widget any more."""
        raise NotImplementedError

    def _join_others(self) -> None:
        own = _dock_of(self)
        window = None if own is None else own.parent()
        if own is None or not isinstance(window, QMainWindow) or own.isFloating():
            return
        for other in window.findChildren(DockPanel):
            dock = _dock_of(other)
            if dock in (None, own) or dock.isFloating() or not dock.isVisible():
                continue
            if own not in window.tabifiedDockWidgets(dock):
                window.tabifyDockWidget(dock, own)
            own.show()
            own.raise_()
            return


def _dock_of(panel: QWidget) -> QDockWidget | None:
    parent: QObject | None = panel.parent()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parent()
    return parent

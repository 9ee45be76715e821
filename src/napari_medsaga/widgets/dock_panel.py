"""What the docks have in common: each notices that it is closed."""

from __future__ import annotations

from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QWidget


class DockPanel(QWidget):
    """The content of a dock, which is told when the dock is closed.

    No close event comes: napari takes the panel out of its dock.
    """

    def event(self, event: QEvent) -> bool:
        """Notice that the panel has been taken out."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.on_dock_closed()
        return bool(super().event(event))

    def on_dock_closed(self) -> None:
        """End what goes on; touch no layer and no widget any more."""
        raise NotImplementedError

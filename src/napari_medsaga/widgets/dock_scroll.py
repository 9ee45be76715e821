"""A scroll area that scrolls up and down, and is always as wide as its content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QWidget

if TYPE_CHECKING:
    from qtpy.QtCore import QEvent, QSize


class DockScroll(QScrollArea):
    """Holds a dock's content on screens that are not high enough for it."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(content)

    def minimumSizeHint(self) -> QSize:
        """Ask for the content's width: it cannot be scrolled sideways."""
        hint: QSize = super().minimumSizeHint()
        bar = self.verticalScrollBar().sizeHint().width()
        hint.setWidth(self.widget().minimumSizeHint().width() + bar)
        return hint

    def viewportEvent(self, event: QEvent) -> bool:
        """Ask anew when the theme or the content has changed."""
        if event.type() == event.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().viewportEvent(event))

"""A scroll area that scrolls up and down, and is always as wide as its content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QWidget

if TYPE_CHECKING:
    from qtpy.QtCore import QEvent, QSize
    from qtpy.QtGui import QResizeEvent


class DockScroll(QScrollArea):
    """Holds a dock's content on screens that are not high enough for it."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self._kept_in_sight: QWidget | None = None
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(content)

    def keep_in_sight(self, widget: QWidget) -> None:
        """Scroll to a part of the content, and keep it there when there is less room.

        Once the user has scrolled away from it, nothing brings it back.
        """
        self._kept_in_sight = widget
        self.ensureWidgetVisible(widget, 0, 0)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Keep in sight what was so before."""
        super().resizeEvent(event)
        kept = self._kept_in_sight
        if kept is None:
            return
        bottom = kept.mapTo(self.viewport(), kept.rect().bottomLeft()).y()
        if 0 <= bottom < event.oldSize().height():
            self.ensureWidgetVisible(kept, 0, 0)

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

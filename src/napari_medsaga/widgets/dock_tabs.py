"""Pages of a dock behind tabs, each as high as it needs and scrolled if it must."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QTabWidget, QVBoxLayout, QWidget

from napari_medsaga.widgets.dock_scroll import DockScroll

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class DockTabs(QTabWidget):
    """Pages of widgets, one below the other.

    Parameters
    ----------
    pages
        By the title of the tab.
    parent
        Qt parent.
    """

    def __init__(
        self,
        pages: Mapping[str, Sequence[QWidget]],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setDocumentMode(True)
        self.setUsesScrollButtons(False)
        self.setToolTip("Ctrl+Tab goes from page to page.")
        for title, widgets in pages.items():
            page = QWidget()
            layout = QVBoxLayout(page)
            layout.setContentsMargins(2, 4, 6, 0)
            for widget in widgets:
                layout.addWidget(widget)
            layout.addStretch()
            self.addTab(DockScroll(page), title)

    def show_page(self, widget: QWidget) -> None:
        """Bring the page that a widget is on to the front, scrolled to the widget."""
        for index in range(self.count()):
            scroll = self.widget(index)
            if isinstance(scroll, DockScroll) and scroll.isAncestorOf(widget):
                self.setCurrentIndex(index)
                scroll.ensureWidgetVisible(widget)

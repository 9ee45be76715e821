"""Everything that can be set of a training, in groups, with a field to search in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import (
    QDialog,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_medsaga.widgets.dock_scroll import DockScroll

if TYPE_CHECKING:
    from medsaga import FineTuneSettings
    from napari_medsaga.widgets.form import SettingsForm

_SIZE = (460, 560)


class AdvancedDialog(QDialog):
    """A window of its own, which stays open beside the dock.

    Parameters
    ----------
    form
        The settings.
    parent
        Qt parent.

    Attributes
    ----------
    search
        Shows only the settings whose name or help has all of its words.
    reset
        Sets everything back; who owns the form does it.
    """

    def __init__(
        self, form: SettingsForm[FineTuneSettings], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Fine-tune: advanced settings")
        self.resize(*_SIZE)
        self.search = QLineEdit()
        self.search.setObjectName("search_settings")
        self.search.setPlaceholderText("Search the settings…")
        self.search.setClearButtonEnabled(True)
        self.search.setToolTip("Show only the settings whose name or help has this.")
        self.reset = QPushButton("Reset t&o the preset")
        self.reset.setObjectName("reset")
        self.reset.setToolTip("Set everything back to what the preset says.")
        close = QPushButton("Close")
        close.setObjectName("close_settings")
        close.setToolTip("The settings stay as they are.")
        buttons = QHBoxLayout()
        buttons.addWidget(self.reset)
        buttons.addStretch()
        buttons.addWidget(close)
        layout = QVBoxLayout(self)
        layout.addWidget(self.search)
        layout.addWidget(DockScroll(form), 1)
        layout.addLayout(buttons)
        self.search.textChanged.connect(form.show_matching)
        close.clicked.connect(self.close)

    def open_beside(self) -> None:
        """Show it, and begin in the search field."""
        self.show()
        self.raise_()
        self.activateWindow()
        self.search.setFocus()

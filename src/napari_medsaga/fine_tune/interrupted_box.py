"""Asks whether to go on with a training that something ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QMessageBox, QPushButton, QWidget

from medsaga import MedsagaError, interrupted_trainings
from medsaga.frontend import discard_interrupted

if TYPE_CHECKING:
    from medsaga.frontend import Interrupted


class InterruptedBox(QWidget):
    """A question and two buttons; it is seen only where there is something to ask."""

    continued = Signal(object)
    """Emits `(Interrupted)` when the user wants it to go on."""

    failed = Signal(object)
    """Emits `(MedsagaError)` when it could not be discarded."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._entry: Interrupted | None = None
        self._question = QLabel(self)
        self._go_on = QPushButton("Continue", self)
        self._discard = QPushButton("Discard", self)
        self._lay_out()
        self._go_on.clicked.connect(self._on_continue_clicked)
        self._discard.clicked.connect(self._on_discard_clicked)
        self.look_again()

    def look_again(self) -> None:
        """Look for interrupted trainings; the latest is asked about."""
        try:
            found = interrupted_trainings()
        except MedsagaError:  # who trains is told, and by doctor
            found = []
        self._entry = entry = found[0] if found else None
        self.setVisible(entry is not None)
        if entry is None:
            return
        wants = "continue?" if entry.model is None else "save it now?"
        self._question.setText(f"{entry.describe()}: {wants}")
        self._go_on.setText("Continue" if entry.model is None else "Save")

    def _lay_out(self) -> None:
        self._question.setObjectName("interrupted")
        self._question.setTextFormat(Qt.TextFormat.PlainText)
        self._question.setWordWrap(True)
        self._go_on.setObjectName("continue")
        self._go_on.setToolTip(
            "Go on from where it was. Its image, if it is open, is segmented then."
        )
        self._discard.setObjectName("discard")
        self._discard.setToolTip("Delete what is left of that training.")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._question, 1)
        row.addWidget(self._go_on)
        row.addWidget(self._discard)

    def _on_continue_clicked(self) -> None:
        if self._entry is not None:
            self.continued.emit(self._entry)

    def _on_discard_clicked(self) -> None:
        entry = self._entry
        if entry is None or not ask_to_discard(self, entry):
            return
        try:
            discard_interrupted(entry)
        except MedsagaError as error:
            self.failed.emit(error)
        self.look_again()


def ask_to_discard(parent: QWidget, entry: Interrupted) -> bool:
    """Ask whether what is left of a training is to go for good."""
    box = QMessageBox(parent)
    box.setIcon(QMessageBox.Icon.Warning)
    box.setWindowTitle("Discard a training")
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setText(f"{entry.describe()}.\n\nDiscard what it has learned for good?")
    discard = box.addButton("&Discard", QMessageBox.ButtonRole.DestructiveRole)
    box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))
    box.exec()
    return bool(box.clickedButton() == discard)

"""What the Models dock asks before it deletes, exports or imports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QMessageBox

from medsaga.frontend import shown

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from medsaga.frontend import LibraryEntry

_ZIP_FILES = "Zip files (*.zip)"
_folders = [str(Path.home())]


def ask_to_delete(parent: QWidget, entry: LibraryEntry) -> bool:
    """Ask whether a model is to go for good."""
    box = QMessageBox(parent)
    box.setIcon(QMessageBox.Icon.Warning)
    box.setWindowTitle("Delete a model")
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setText(
        f"Delete the model “{shown(entry.name, 300)}” for good?\n\n"
        f"{shown(entry.path, 2000)} goes with everything in it."
    )
    delete = box.addButton("&Delete", QMessageBox.ButtonRole.DestructiveRole)
    box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))
    box.exec()
    return bool(box.clickedButton() == delete)


def ask_export_target(parent: QWidget, entry: LibraryEntry) -> Path | None:
    """Ask for the zip file to write; None where the user has thought better of it."""
    dialog = QFileDialog(parent, "Export a model", _folders[-1], _ZIP_FILES)
    dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
    # With the suffix known, the dialog itself asks before a file is replaced.
    dialog.setDefaultSuffix("zip")
    dialog.selectFile(f"{entry.name}.zip")
    return _remembered(dialog.selectedFiles()[0]) if dialog.exec() else None


def ask_zip_file(parent: QWidget) -> Path | None:
    """Ask for the zip file to read."""
    file, _ = QFileDialog.getOpenFileName(
        parent, "Import a model from a zip file", _folders[-1], _ZIP_FILES
    )
    return _remembered(file) if file else None


def ask_model_folder(parent: QWidget) -> Path | None:
    """Ask for the model folder to copy."""
    folder = QFileDialog.getExistingDirectory(
        parent, "Import a model folder", _folders[-1]
    )
    return _remembered(folder) if folder else None


def _remembered(chosen: str) -> Path:
    """Give a path, whose folder the next question begins with."""
    _folders[-1] = str(Path(chosen).parent)
    return Path(chosen)

"""The dock with the library of trained models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari.qt.threading import create_worker
from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QGridLayout,
    QMenu,
    QProgressBar,
    QPushButton,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

from medsaga import MedsagaError, ModelLibrary
from napari_medsaga.models.questions import (
    ask_export_target,
    ask_model_folder,
    ask_to_delete,
    ask_zip_file,
)
from napari_medsaga.models.table import ModelsTable
from napari_medsaga.models.weights_box import WeightsBox
from napari_medsaga.widgets.dock_panel import DockPanel
from napari_medsaga.widgets.model_list import LibraryWatcher, details
from napari_medsaga.widgets.plain_text import make_plain_label, plain, show_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.viewer import Viewer

    from medsaga.frontend import LibraryEntry

_EMPTY = (
    "No trained model yet: fine-tune one in the Fine-tune dock and it is listed here, "
    "or click Import… for one from another computer."
)


@dataclass(eq=False)
class _Transfer:
    """An export or import in a thread, and what came of it.

    The outcome is kept here: a worker raises an exception that its function returns,
    and says nothing at all when napari has told it to quit.
    """

    function: Callable[..., Path]
    arguments: tuple[Path, ...]
    done: str
    outcome: Path | Exception | None = None


def _run(transfer: _Transfer) -> None:
    # No job of the engine's: a copy need not wait until a training is over.
    try:
        transfer.outcome = transfer.function(*transfer.arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, the panel shows it
        transfer.outcome = error


class ModelsPanel(DockPanel):
    """Lists the trained models; renames, deletes, exports and imports them.

    Below them are the weights that a training can start from.

    Parameters
    ----------
    napari_viewer
        Its status bar repeats what was done.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._library = ModelLibrary()
        self._transfer: _Transfer | None = None

        self._watcher = LibraryWatcher(self._library, self)
        self._empty = make_plain_label("empty", _EMPTY)
        self._table = ModelsTable(self)
        self._make_buttons()
        self._busy = QProgressBar(self)
        self._busy.setRange(0, 0)
        self._busy.setToolTip("A model is being copied.")
        self._message = make_plain_label("message")
        self._details = _make_details(self)
        self._weights = WeightsBox(self)
        self._weights.hide()

        self._lay_out()
        self._connect()
        self._say("")
        self.refresh()

    def on_dock_closed(self) -> None:
        """End a download, which is gone on with another time."""
        self._weights.stop()

    def refresh(self, select: Path | None = None) -> None:
        """List the models as they are now; the selection stays, or goes to `select`."""
        try:
            entries = self._library.entries()
        except MedsagaError as error:
            entries = []
            self._say(str(error))
        self._empty.setVisible(not entries)
        self._table.show_entries(entries, select)

    def _make_buttons(self) -> None:
        self._rename = _make_button("&Rename", "Change the selected name.", self)
        self._delete = _make_button("&Delete", "Delete the selected model.", self)
        self._export = _make_button(
            "E&xport…", "Write the selected model to a zip file, to give it away.", self
        )
        self._import = _make_button(
            "&Import…", "Copy a model from a zip file or a folder to here.", self
        )
        self._open = _make_button(
            "&Open folder", f"Show {self._library.folder} in the file manager.", self
        )
        self._show_weights = _make_button(
            "Wei&ghts", "Show the pretrained weights that trainings start from.", self
        )
        self._show_weights.setCheckable(True)
        menu = QMenu(self._import)
        self._import_zip = menu.addAction("From a &zip file…")
        self._import_folder = menu.addAction("From a &folder…")
        self._import.setMenu(menu)

    def _lay_out(self) -> None:
        buttons = QGridLayout()
        upper = (self._rename, self._delete, self._export)
        lower = (self._import, self._open, self._show_weights)
        for place, button in enumerate((*upper, *lower)):
            buttons.addWidget(button, *divmod(place, 3))
        layout = QVBoxLayout(self)
        layout.addWidget(self._empty)
        layout.addWidget(self._table, 3)
        layout.addLayout(buttons)
        layout.addWidget(self._busy)
        layout.addWidget(self._message)
        layout.addWidget(self._details, 2)
        layout.addWidget(self._weights)
        self.setMinimumWidth(440)

    def _connect(self) -> None:
        self._watcher.changed.connect(self._on_library_changed)
        self._table.current_changed.connect(self._on_current_changed)
        self._table.name_edited.connect(self._on_name_edited)
        self._rename.clicked.connect(self._on_rename_clicked)
        self._delete.clicked.connect(self._on_delete_clicked)
        self._export.clicked.connect(self._on_export_clicked)
        self._import_zip.triggered.connect(self._on_import_zip_triggered)
        self._import_folder.triggered.connect(self._on_import_folder_triggered)
        self._open.clicked.connect(self._on_open_clicked)
        self._show_weights.toggled.connect(self._weights.setVisible)

    def _set_running(self, running: bool) -> None:
        """Decide what can be clicked."""
        entry = self._table.current()
        can_change = entry is not None and not running
        self._rename.setEnabled(can_change)
        self._delete.setEnabled(can_change)
        self._export.setEnabled(
            can_change and entry is not None and entry.card is not None
        )
        self._import.setEnabled(not running)
        self._busy.setVisible(running)

    def _start(self, transfer: _Transfer) -> None:
        self._say("")
        self._transfer = transfer
        self._set_running(True)
        worker = create_worker(_run, transfer, _start_thread=False)
        worker.finished.connect(self._on_transfer_finished)
        worker.start()

    def _say(self, text: str) -> None:
        self._message.setText(text)
        self._message.setVisible(bool(text))
        if text:
            self._viewer.status = plain(text)

    def _show_error(self, error: Exception) -> None:
        """Show a sentence; anything unexpected goes to napari with its traceback."""
        if not isinstance(error, MedsagaError):
            raise error
        self._say(str(error))
        show_error(str(error))

    def _on_library_changed(self) -> None:
        self.refresh()

    def _on_current_changed(self) -> None:
        entry = self._table.current()
        self._details.setHtml(details(entry) if entry else "")
        self._set_running(self._transfer is not None)

    def _on_rename_clicked(self) -> None:
        self._table.edit_current()

    def _on_name_edited(self, entry: LibraryEntry, name: str) -> None:
        self._say("")
        try:
            self.refresh(select=self._library.rename(entry.path, name))
        except MedsagaError as error:
            self._show_error(error)

    def _on_delete_clicked(self) -> None:
        entry = self._table.current()
        if entry is None or not ask_to_delete(self, entry):
            return
        self._say("")
        try:
            self._library.delete(entry.path)
        except MedsagaError as error:
            self._show_error(error)
        self.refresh()

    def _on_export_clicked(self) -> None:
        entry = self._table.current()
        target = ask_export_target(self, entry) if entry else None
        if entry and target:
            arguments = (entry.path, target)
            done = "Exported to {path}."
            self._start(_Transfer(self._library.export, arguments, done))

    def _on_import_zip_triggered(self) -> None:
        self._import_from(ask_zip_file(self))

    def _on_import_folder_triggered(self) -> None:
        self._import_from(ask_model_folder(self))

    def _import_from(self, source: Path | None) -> None:
        if source:
            done = "Imported as {path.name}."
            self._start(_Transfer(self._library.import_model, (source,), done))

    def _on_transfer_finished(self) -> None:
        transfer, self._transfer = self._transfer, None
        outcome = transfer.outcome if transfer else None
        # An export gives a file, which is no model of the list.
        self.refresh(select=outcome if isinstance(outcome, Path) else None)
        self._set_running(False)
        if isinstance(outcome, Exception):
            self._show_error(outcome)
        elif transfer and outcome:
            self._say(transfer.done.format(path=outcome))

    def _on_open_clicked(self) -> None:
        folder = self._library.folder
        if not QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder))):
            self._show_error(
                MedsagaError(f"The file manager did not start: open {folder} yourself.")
            )


def _make_details(parent: QWidget) -> QTextBrowser:
    browser = QTextBrowser(parent)
    browser.setObjectName("details")
    browser.setAccessibleName("Details of the selected model")
    browser.setToolTip("How the selected model was trained.")
    browser.setOpenLinks(False)
    browser.setTabChangesFocus(True)
    return browser


def _make_button(text: str, tip: str, parent: QWidget) -> QPushButton:
    button = QPushButton(text, parent)
    button.setObjectName(text.replace("&", "").rstrip("…").lower().replace(" ", "_"))
    button.setToolTip(tip)
    return button

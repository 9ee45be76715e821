"""The part of the Models dock with the pretrained weights of the backbones."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from medsaga import MedsagaError
from medsaga.events import FileProgress, Notice
from medsaga.frontend import (
    fetch_weights,
    import_weights,
    verify_weights,
    weight_files,
    weights_folder,
)
from napari_medsaga.jobs.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qtpy.QtGui import QShowEvent

    from medsaga.events import Event, Stream
    from medsaga.frontend import WeightFile

_COLUMNS = {
    "Backbone": "Image encoder that a training can start from.",
    "Size": "Of the file with its pretrained weights.",
    "Weights": "Whether that file is on this computer.",
}
_STATES = {"here": "here", "missing": "not here", "damaged": "damaged"}
_FILES = "Weights (*.pth *.pt);;All files (*)"
_MB = 1e6


class WeightsBox(QWidget):
    """Lists the weights; downloads, imports and checks them in a thread."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._files: Sequence[WeightFile] = ()
        self._job: Job | None = None
        self._done = ""
        self._table = _make_table()
        self._download = _button(
            "Dow&nload", "Fetch the selected weights; what came before is gone on from."
        )
        self._import = _button(
            "Import fil&e…", "Copy a file that was fetched on another computer to here."
        )
        self._check = _button("&Check", "Read all weights through, by their SHA-256.")
        self._stop = _button("&Stop", "Stop; what came of a download is kept.")
        self._bar = QProgressBar()
        self._bar.setObjectName("weights_progress")
        self._bar.setToolTip("How much of the file is done.")
        self._message = QLabel()
        self._message.setObjectName("weights_message")
        self._message.setTextFormat(Qt.TextFormat.PlainText)
        self._message.setWordWrap(True)
        self._message.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse
        )
        self._lay_out()
        self._table.itemSelectionChanged.connect(self._on_selection_changed)
        self._download.clicked.connect(self._on_download_clicked)
        self._import.clicked.connect(self._on_import_clicked)
        self._check.clicked.connect(self._on_check_clicked)
        self._stop.clicked.connect(self._on_stop_clicked)
        self._show_files(weight_files())

    def stop(self) -> None:
        """End what goes on, whose dock is closed; what came of a download is kept."""
        job, self._job = self._job, None
        if job is not None:
            job.reported.disconnect(self._on_event)
            job.ended.disconnect(self._on_ended)
            job.stop()

    def showEvent(self, event: QShowEvent) -> None:
        """Look anew: weights may have come from the shell in the meantime."""
        if self._job is None:
            self._show_files(weight_files())
        super().showEvent(event)

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        for button in (self._download, self._import, self._check):
            buttons.addWidget(button)
        progress = QHBoxLayout()
        progress.addWidget(self._bar, 1)
        progress.addWidget(self._stop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)
        layout.addLayout(buttons)
        layout.addLayout(progress)
        layout.addWidget(self._message)

    def _show_files(self, files: Sequence[WeightFile]) -> None:
        """Show what is known of the weights; the selection stays."""
        row = max(self._table.currentRow(), 0)
        self._files = files
        self._table.blockSignals(True)
        self._table.setRowCount(len(files))
        for place, file in enumerate(files):
            texts = (file.title, f"{file.n_bytes / _MB:.0f} MB", _STATES[file.state])
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setToolTip(str(file.path or weights_folder()))
                self._table.setItem(place, column, item)
        self._table.setCurrentCell(row, 0)
        self._table.blockSignals(False)
        _fit_height(self._table)
        self._on_selection_changed()

    def _selected(self) -> WeightFile:
        row: int = max(self._table.currentRow(), 0)
        return self._files[row]

    def _on_selection_changed(self) -> None:
        file = self._selected()
        self._say(file.problem or f"{file.path} ({file.licence})")
        self._set_running(self._job is not None)

    def _set_running(self, running: bool) -> None:
        """Decide what can be clicked."""
        file = self._selected()
        can_fetch = file.url is not None and file.state != "here"
        self._download.setEnabled(can_fetch and not running)
        self._import.setEnabled(not running)
        self._check.setEnabled(not running)
        self._stop.setEnabled(running)
        self._bar.setVisible(running)
        self._stop.setVisible(running)

    def _say(self, text: str) -> None:
        self._message.setText(text)

    def _on_download_clicked(self) -> None:
        file = self._selected()
        stream = partial(fetch_weights, file.name)
        self._start(stream, f"fetching {file.name}", f"{file.title} is here now.")

    def _on_import_clicked(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Import official weights", str(Path.home()), _FILES
        )
        if path:
            stream = partial(import_weights, path)
            self._start(stream, "importing weights", f"{Path(path).name} is imported.")

    def _on_check_clicked(self) -> None:
        done = "The weights that are here have the SHA-256 that they should have."
        self._start(verify_weights, "checking weights", done)

    def _start(
        self, make_stream: Callable[[], Stream[Any]], title: str, done: str
    ) -> None:
        self._done = done
        # A download needs no cores: it does not wait until a training is over.
        self._job = Job(make_stream, title, computes=False)
        self._job.reported.connect(self._on_event)
        self._job.ended.connect(self._on_ended)
        self._bar.setRange(0, 0)
        self._bar.setFormat("")
        self._say("")
        self._set_running(True)
        self._job.start()

    def _on_stop_clicked(self) -> None:
        if self._job is not None:
            self._stop.setEnabled(False)
            self._job.stop()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._say(event.message)
        elif isinstance(event, FileProgress) and event.total and self._job is not None:
            done, total = (round(n / _MB) for n in (event.done, event.total))
            self._bar.setRange(0, 100)
            self._bar.setValue(100 * event.done // event.total)
            self._bar.setFormat(f"{event.doing} {event.name}: {done} of {total} MB")
            self._job.show_progress(event.done / event.total)

    def _on_ended(self, status: str, value: Any) -> None:
        self._job = None
        is_checked = status == "done" and isinstance(value, list)
        self._show_files(value if is_checked else weight_files())
        if status == "stopped":
            self._say("Stopped. What came of a download is kept for the next one.")
        elif status == "done":
            damaged = [f.problem for f in self._files if f.state == "damaged"]
            self._say("\n".join(p for p in damaged if p) or self._done)
        elif isinstance(value, MedsagaError):
            self._say(str(value))
            show_error(str(value))
        else:
            raise value


def _make_table() -> QTableWidget:
    table = QTableWidget(0, len(_COLUMNS))
    table.setObjectName("weights")
    table.setAccessibleName("Weights of the backbones")
    for column, (title, tip) in enumerate(_COLUMNS.items()):
        item = QTableWidgetItem(title)
        item.setToolTip(tip)
        table.setHorizontalHeaderItem(column, item)
    table.verticalHeader().hide()
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
    table.setTabKeyNavigation(False)  # Tab leaves the table
    table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
    table.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return table


def _fit_height(table: QTableWidget) -> None:
    """Give the table the height of its rows: they are few."""
    rows = table.verticalHeader().length()
    table.setFixedHeight(
        table.horizontalHeader().sizeHint().height() + rows + 2 * table.frameWidth()
    )


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    name = text.replace("&", "").rstrip("…").lower().replace(" ", "_")
    button.setObjectName(f"weights_{name}")
    button.setToolTip(tip)
    return button

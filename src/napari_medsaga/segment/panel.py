"""The Segment dock: a trained model, many images, one queue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import (
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from medsaga import MedsagaError, SegmentSettings
from napari_medsaga.jobs.computer import ComputerWatch
from napari_medsaga.segment.model_choice import NO_MODEL, ModelChooser
from napari_medsaga.segment.queue import file_rows, layer_rows, summary
from napari_medsaga.segment.rows import QueueTable, Row
from napari_medsaga.segment.run import SegmentRun
from napari_medsaga.segment.sources import FileChooser, LayerChecklist
from napari_medsaga.widgets.dock_panel import DockPanel
from napari_medsaga.widgets.dock_scroll import DockScroll
from napari_medsaga.widgets.form import SettingsForm
from napari_medsaga.widgets.plain_text import make_plain_label, show_error

if TYPE_CHECKING:
    import napari.viewer

    from medsaga.frontend import LibraryEntry
    from napari_medsaga.segment.sources import FileTarget

_SCALE = 1000
_NO_FILES = "No files are chosen: choose a folder or files, or drop them here."
_NO_TARGET = "There is no folder for the results: give one."


class SegmentPanel(DockPanel):
    """Segments open images or files with a trained model.

    Parameters
    ----------
    napari_viewer
        The viewer whose images are offered, and which gets the results.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._rows: list[Row] = []
        self._left_out: list[str] = []
        self.run: SegmentRun | None = None

        self._computer = ComputerWatch(self)
        self._model = ModelChooser(self)
        self._layers = LayerChecklist(napari_viewer, self)
        self._files = FileChooser(self)
        self._tabs = QTabWidget(self)
        self._form = SettingsForm(SegmentSettings(), parent=self)
        self._segment = QPushButton("&Segment", self)
        self._pause = QPushButton("Pa&use", self)
        self._stop = QPushButton("S&top", self)
        self._bar = QProgressBar(self)
        self._message = make_plain_label("message")
        self._table = QueueTable(self)

        self._lay_out()
        self._describe()
        self._connect()
        self._set_running(False)

    def on_dock_closed(self) -> None:
        """End in order what is being segmented."""
        self._layers.disconnect_viewer()
        if self.run is not None:
            self.run.abandon()
            self.run = None

    def _lay_out(self) -> None:
        self._tabs.addTab(self._layers, "Open ima&ges")
        self._tabs.addTab(self._files, "Files on dis&k")
        buttons = QHBoxLayout()
        for button in (self._segment, self._pause, self._stop):
            buttons.addWidget(button)
        content = QWidget(self)
        inner = QVBoxLayout(content)
        inner.addWidget(self._model)
        inner.addWidget(self._tabs, 1)
        inner.addWidget(self._form)
        inner.addLayout(buttons)
        inner.addWidget(self._bar)
        inner.addWidget(self._message)
        inner.addWidget(self._table, 2)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(DockScroll(content))

    def _describe(self) -> None:
        self._tabs.setObjectName("source")
        self._tabs.setToolTip("What is segmented: open images, or files on the disk.")
        self._segment.setObjectName("segment")
        self._segment.setToolTip(
            "Segment the ticked images or the chosen files, one after the other; after "
            "Stop, go on."
        )
        self._pause.setObjectName("pause")
        self._pause.setToolTip(
            "Wait after the slice that is being segmented, or go on."
        )
        self._stop.setObjectName("stop")
        self._stop.setToolTip("End after this slice. What is done is kept.")
        self._bar.setObjectName("progress")
        self._bar.setToolTip("How much of the queue is over.")
        self._bar.setRange(0, _SCALE)
        self._message.setToolTip("What is going on.")

    def _connect(self) -> None:
        self._segment.clicked.connect(self._on_segment_clicked)
        self._pause.clicked.connect(self._on_pause_clicked)
        self._stop.clicked.connect(self._on_stop_clicked)

    def _set_running(self, running: bool) -> None:
        for widget in (self._model, self._tabs, self._form, self._segment):
            widget.setEnabled(not running)
        self._pause.setEnabled(running)
        self._stop.setEnabled(running)
        self._pause.setText("Pa&use")

    def _say(self, message: str) -> None:
        self._message.setText(message)

    def _refuse(self, message: str) -> None:
        self._say(message)
        show_error(message)

    def _on_segment_clicked(self) -> None:
        try:
            settings = self._form.value()
            model = self._model.entry()
            if model is None:
                raise MedsagaError(NO_MODEL)
            target = self._queue_up(model)
        except MedsagaError as error:
            self._refuse(str(error))
            return
        self._table.set_rows(self._rows)
        if not any(row.item for row in self._rows):
            self._report()
            return
        run = SegmentRun(self._viewer, self._rows, model.path, settings, target, self)
        run.row_changed.connect(self._on_row_changed)
        run.ticked.connect(self._on_ticked)
        run.ended.connect(self._on_run_ended)
        self.run = run
        self._set_running(True)
        self._say("Loading the model…")
        self._bar.setValue(0)
        run.start()

    def _queue_up(self, model: LibraryEntry) -> FileTarget | None:
        """Make the rows; returns where the results of files go.

        Raises
        ------
        MedsagaError
            If there is nothing to do.
        """
        from medsaga.frontend import left_out

        if self._tabs.currentWidget() is self._layers:
            layers = self._layers.layers()
            self._rows = layer_rows(self._viewer, layers, self._rows, model)
            self._left_out = []
            return None
        paths, target = self._files.paths(), self._files.target()
        if not paths:
            raise MedsagaError(_NO_FILES)
        if target is None:
            raise MedsagaError(_NO_TARGET)
        self._rows = file_rows(paths)
        self._left_out = list(left_out(paths, target.folder))
        return target

    def _on_pause_clicked(self) -> None:
        if self.run is None:
            return
        pauses = not self.run.job.is_paused
        self.run.job.set_paused(pauses)
        self._pause.setText("Contin&ue" if pauses else "Pa&use")
        self._on_ticked()

    def _on_stop_clicked(self) -> None:
        if self.run is None:
            return
        self.run.stop()
        self._stop.setEnabled(False)
        self._pause.setEnabled(False)
        self._say("Stopping after this slice…")

    def _on_row_changed(self, row: Row) -> None:
        self._table.update_row(row)
        if row.state == "running" and row.n_done == 0:
            self._table.follow(row)
        if row.state == "done" and not isinstance(row.source, Path):
            self._layers.tick([row.source], ticked=False)

    def _on_ticked(self) -> None:
        run = self.run
        if run is None or run.is_stopping:
            return
        self._bar.setValue(round(_SCALE * run.fraction))
        self._say(self._going_on(run))

    def _going_on(self, run: SegmentRun) -> str:
        row = run.running
        if run.job.is_paused:
            return "Paused: click Continue to go on."
        if run.job.is_waiting:
            return "Waiting for the other job to end."
        if row is None:
            return "Loading the model…"
        place = f"Image {run.rows.index(row) + 1} of {len(run.rows)}: {row.name}"
        return (
            f"{place}, slice {row.n_done} of {row.n_slices}" if row.n_slices else place
        )

    def _on_run_ended(self, status: str, value: object) -> None:
        run, self.run = self.run, None
        self._set_running(False)
        if run is None:
            return
        run.deleteLater()
        if isinstance(value, MedsagaError):
            self._refuse(str(value))
            return
        self._report(is_stopped=status == "stopped")
        unexpected = value if isinstance(value, Exception) else run.unexpected
        if unexpected is not None:  # napari shows it with its traceback
            raise unexpected

    def _report(self, *, is_stopped: bool = False) -> None:
        """Say what became of the queue; failures also as napari's notification."""
        if not is_stopped:
            self._bar.setValue(_SCALE)
        of_files = any(isinstance(row.source, Path) for row in self._rows)
        target = self._files.target() if of_files else None
        replaces = target is not None and target.replaces
        text = summary(self._rows, is_stopped=is_stopped, replaces=replaces)
        message = " ".join([text, *self._left_out])
        if any(row.state == "failed" for row in self._rows):
            self._refuse(message)
        else:
            self._say(message)

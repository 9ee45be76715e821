"""One run through the queue: a job, and what its events do to rows and layers."""

from __future__ import annotations

from collections import deque
from functools import partial
from traceback import format_exception
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from medsaga.events import (
    ItemEvent,
    ItemStarted,
    Notice,
    SegmentedSlice,
    VotedSlice,
)
from medsaga.frontend import count
from napari_medsaga.jobs.job import Job
from napari_medsaga.layers.result_layer import add_quietly
from napari_medsaga.widgets.plain_text import show_info

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from napari import Viewer
    from napari.layers import Image, Labels

    from medsaga import SegmentSettings
    from medsaga.events import Event, Stream
    from medsaga.frontend import ItemEnded
    from napari_medsaga.segment.rows import Row
    from napari_medsaga.segment.sources import FileTarget

_REFRESH_MS = 250
_KEPT = "The result is there already: tick Replace results to write it again."
_KEPT_SOME = (
    "Only what was not there is new, the rest may be another model's: tick Replace "
    "results to write all of it again."
)
_SKIPPED = "Its result layer was deleted or changed, so the rest was left out."
_DELETED = "The image was deleted in the meantime; it is segmented as it was."
_CHANGED = "The image was changed in the meantime; it is segmented as it was."


class SegmentRun(QObject):
    """Segments the rows that have an item; there is at least one.

    Parameters
    ----------
    viewer
        Where the results are added.
    rows
        The rows to work through.
    model
        The model's folder.
    settings
        What to give beside the masks.
    target
        Where the results of files go.
    parent
        Qt parent.
    """

    row_changed = Signal(object)
    """Emits `(Row)`."""

    ticked = Signal()
    """Emitted a few times a second while it runs."""

    ended = Signal(str, object)
    """Emits `(status, value)` as :attr:`Job.ended` does, when all layers are added."""

    def __init__(
        self,
        viewer: Viewer,
        rows: Sequence[Row],
        model: Path,
        settings: SegmentSettings,
        target: FileTarget | None,
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.rows = [row for row in rows if row.item is not None]
        self.unexpected: Exception | None = None
        self.is_stopping = False
        self._to_add: deque[Iterator[tuple[Image, Labels]]] = deque()
        self._outcome: tuple[str, Any] | None = None
        self.job = Job(
            partial(_segment, model, self.rows, settings, target),
            f"Segment {count(len(self.rows), 'image')}",
        )
        self._refreshing = QTimer(self)
        self._refreshing.setInterval(_REFRESH_MS)
        # Zero interval: between two layers the viewer answers.
        self._adding = QTimer(self)

        self.job.reported.connect(self._on_reported)
        self.job.ended.connect(self._on_job_ended)
        self._refreshing.timeout.connect(self._on_refresh_due)
        self._adding.timeout.connect(self._on_adding_due)

    @property
    def fraction(self) -> float:
        """How much is over, from 0 to 1."""
        return sum(row.fraction for row in self.rows) / len(self.rows)

    @property
    def running(self) -> Row | None:
        """The row that is being segmented."""
        return next((row for row in self.rows if row.state == "running"), None)

    def start(self) -> None:
        """Start, or wait for the job that is running."""
        self._refreshing.start()
        self.job.start()

    def stop(self) -> None:
        """End in order after the slice that is under way."""
        self.is_stopping = True
        self.job.stop()

    def abandon(self) -> None:
        """Stop, and touch no layer or widget any more; say what stays unfinished."""
        row = self.running
        if row is not None:
            _leave(row)
        layer = None if row is None or row.result is None else row.result.mask.shown
        if layer is not None:
            show_info(
                f"The dock was closed, so segmenting was stopped: the last slices of "
                f"{layer.name} are empty."
            )
        self.job.reported.disconnect(self._on_reported)
        self.job.ended.disconnect(self._on_job_ended)
        self._refreshing.stop()
        self._adding.stop()
        self.job.stop()

    def _on_reported(self, event: Event) -> None:
        from medsaga.frontend import ItemEnded

        if not isinstance(event, (ItemStarted, ItemEvent, ItemEnded)):
            return
        row = self.rows[event.number]
        match event:
            case ItemStarted():
                row.state, row.n_done = "running", 0
            case ItemEvent(event=SegmentedSlice() | VotedSlice() as done):
                self._show_slice(row, done)
            case ItemEvent(event=Notice() as notice):
                row.message = notice.message
            case ItemEnded():
                self._show_ended(row, event)
        self.row_changed.emit(row)

    def _show_slice(self, row: Row, done: SegmentedSlice | VotedSlice) -> None:
        if row.state != "running":  # skipped; this slice was under way
            return
        row.n_done, row.n_slices = done.done, done.total
        if row.result is None:
            return
        if isinstance(done, SegmentedSlice):
            row.result.write(done)
        if row.result.mask.is_gone and row.item is not None:
            row.item.skip.set()
            row.state, row.message, row.item = "stopped", _SKIPPED, None

    def _show_ended(self, row: Row, ended: ItemEnded) -> None:
        outcome, result, told = ended.result, row.result, row.message
        if row.state == "stopped":  # skipped, which the row says already
            return
        row.state, row.message, row.item = outcome.status, outcome.message, None
        if outcome.status in ("failed", "stopped"):
            self.unexpected = self.unexpected or outcome.unexpected
            if outcome.unexpected is not None:
                row.details = "".join(format_exception(outcome.unexpected))
            _leave(row)
            return
        note = _KEPT if outcome.status == "kept" else self._note(row, ended)
        row.message = note or told
        if result is not None and ended.segmentation is not None:
            if result.mask.is_gone:
                row.state, row.message = "stopped", _SKIPPED
            result.finish(ended.segmentation)
            self._to_add.append(result.maps(ended.segmentation))
            self._adding.start()
        row.result = None

    def _note(self, row: Row, ended: ItemEnded) -> str:
        if row.result is None:
            return _KEPT_SOME if ended.result.keeps_some else ""
        if row.source not in self._viewer.layers:
            return _DELETED
        return "" if row.result.is_of(row.source) else _CHANGED

    def _on_refresh_due(self) -> None:
        for row in self.rows:
            if row.state == "running" and row.result is not None:
                row.result.mask.refresh()
        self.job.show_progress(self.fraction)
        self.ticked.emit()

    def _on_adding_due(self) -> None:
        """Make and add one layer; each takes a tenth of a second of napari's time."""
        if self._to_add:
            made = next(self._to_add[0], None)
            if made is None:
                self._to_add.popleft()
            else:
                add_quietly(self._viewer, made[0], under=made[1])
            return
        self._adding.stop()
        if self._outcome is not None:
            self.ended.emit(*self._outcome)

    def _on_job_ended(self, status: str, value: Any) -> None:
        self._refreshing.stop()
        for row in self.rows:
            if row.state == "running":
                row.state = "stopped"
                _leave(row)
            row.item = None
            self.row_changed.emit(row)
        self._outcome = status, value
        self._adding.start()


def _segment(
    model: Path,
    rows: Sequence[Row],
    settings: SegmentSettings,
    target: FileTarget | None,
) -> Stream[Any]:
    from medsaga import segment_batch

    return segment_batch(
        model,
        [row.item for row in rows if row.item is not None],
        settings,
        out=None if target is None else target.folder,
        replaces=target is not None and target.replaces,
    )


def _leave(row: Row) -> None:
    """Keep what was predicted so far from training as if it had been painted."""
    if row.result is not None:
        row.result.leave()

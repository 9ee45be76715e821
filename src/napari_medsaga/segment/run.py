"""One run through the queue: a job, and what its events do to rows and layers."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, QTimer, Signal

from medsaga import SegmentedSlice, VotedSlice
from napari_medsaga.jobs.job import Job
from napari_medsaga.layers.filling_layer import add_quietly
from napari_medsaga.segment.queue import (
    ItemDone,
    ItemEvent,
    ItemFailed,
    ItemStarted,
    segment_queue,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from napari import Viewer
    from napari.layers import Image, Labels

    from medsaga import Event, SegmentSettings
    from napari_medsaga.segment.files import FileTarget
    from napari_medsaga.segment.rows import Row

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
        items = [row.item for row in self.rows if row.item is not None]
        self._by_number = dict(zip((i.number for i in items), self.rows, strict=True))
        self._to_add: deque[Iterator[tuple[Image, Labels]]] = deque()
        self._outcome: tuple[str, Any] | None = None
        self.job = Job(
            partial(segment_queue, model, items, settings, target),
            f"Segment {len(items)} image{'' if len(items) == 1 else 's'}",
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
        name = None if row is None or row.result is None else row.result.shown_name
        if name is not None:
            show_info(
                f"The dock was closed, so segmenting was stopped: the last slices of "
                f"{name} are empty."
            )
        self.job.reported.disconnect(self._on_reported)
        self.job.ended.disconnect(self._on_job_ended)
        self._refreshing.stop()
        self._adding.stop()
        self.job.stop()

    def _on_reported(self, event: Event) -> None:
        match event:
            case ItemStarted(number=number):
                row = self._by_number[number]
                row.state, row.n_done = "running", 0
            case ItemEvent(
                number=number, event=SegmentedSlice() | VotedSlice() as done
            ):
                row = self._by_number[number]
                self._show_slice(row, done)
            case ItemDone(number=number):
                row = self._by_number[number]
                self._show_done(row, event)
            case ItemFailed(number=number):
                row = self._by_number[number]
                row.state, row.item = "failed", None
                _leave(row)
                row.message, row.details = event.message, event.details
                self.unexpected = self.unexpected or event.error
            case _:
                return
        self.row_changed.emit(row)

    def _show_slice(self, row: Row, done: SegmentedSlice | VotedSlice) -> None:
        if row.state != "running":  # skipped; this slice was under way
            return
        row.n_done, row.n_slices = done.done, done.total
        if row.result is None:
            return
        if isinstance(done, SegmentedSlice):
            row.result.write(done)
        if row.result.is_gone and row.item is not None:
            row.item.skip.set()
            row.state, row.message, row.item = "stopped", _SKIPPED, None

    def _show_done(self, row: Row, done: ItemDone) -> None:
        if row.result is not None and row.result.is_gone:
            row.state, row.message = "stopped", _SKIPPED
        else:
            row.state = "kept" if done.is_kept else "done"
            row.message = _KEPT if done.is_kept else self._note(row, done)
        row.item = None
        if row.result is not None and done.mask is not None:
            row.result.finish(done.mask)
            self._to_add.append(row.result.maps(done))
            self._adding.start()
        row.result = None

    def _note(self, row: Row, done: ItemDone) -> str:
        if row.result is None:
            return _KEPT_SOME if done.keeps_some else ""
        if row.source not in self._viewer.layers:
            return _DELETED
        return "" if row.result.is_of(row.source) else _CHANGED

    def _on_refresh_due(self) -> None:
        for row in self.rows:
            if row.state == "running" and row.result is not None:
                row.result.refresh()
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


def _leave(row: Row) -> None:
    """Keep what was predicted so far from training as if it had been painted."""
    if row.result is not None:
        row.result.leave()

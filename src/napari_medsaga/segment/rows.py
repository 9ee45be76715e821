"""The rows of the queue, and the table that shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
)

from medsaga.frontend import shown
from napari_medsaga.widgets.plain_text import tip

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari.layers import Layer
    from qtpy.QtWidgets import QWidget

    from medsaga.frontend import BatchItem
    from napari_medsaga.segment.results import ImageResult

State = Literal["waiting", "running", "done", "kept", "failed", "stopped"]
_COLUMNS = ("Image", "State", "Note")
_LONGEST_CELL = 500


@dataclass(eq=False, kw_only=True)
class Row:
    """One image of the queue as the user sees it.

    Attributes
    ----------
    name
        Of the layer or file, when it came into the queue.
    source
        The image layer, or the file.
    message
        A sentence: why it failed, or something to know.
    details
        More of that, for the tooltip.
    item
        What the worker gets; None when it has no more to do with it.
    result
        The layers that are filled; None for a file.
    """

    name: str
    source: Layer | Path
    state: State = "waiting"
    n_done: int = 0
    n_slices: int = 0
    message: str = ""
    details: str = ""
    item: BatchItem | None = None
    result: ImageResult | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is something left to do."""
        return self.state in ("waiting", "running")

    @property
    def fraction(self) -> float:
        """How much of it is over, from 0 to 1."""
        if not self.is_open:
            return 1.0
        return self.n_done / self.n_slices if self.n_slices else 0.0

    @property
    def state_text(self) -> str:
        """The state, with the slices where it has not come to the end."""
        if self.n_slices and self.state in ("running", "stopped"):
            return f"{self.state} {self.n_done} of {self.n_slices}"
        return self.state


class QueueTable(QTableWidget):
    """Name, state and note of each image in the queue."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(_COLUMNS), parent)
        self._rows: list[Row] = []
        self.setObjectName("queue")
        self.setToolTip(
            "The images of the queue. One that fails does not stop the rest."
        )
        self.setHorizontalHeaderLabels(_COLUMNS)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        # Tab leaves the table; the arrow keys walk in it.
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setStretchLastSection(True)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.setMinimumHeight(110)

    def set_rows(self, rows: Sequence[Row]) -> None:
        """Show other rows."""
        self._rows = list(rows)
        self.setRowCount(len(self._rows))
        for index, row in enumerate(self._rows):
            for column in range(len(_COLUMNS)):
                self.setItem(index, column, QTableWidgetItem())
            self._show(index, row)

    def update_row(self, row: Row) -> None:
        """Show what has changed in a row."""
        if row in self._rows:
            self._show(self._rows.index(row), row)

    def follow(self, row: Row) -> None:
        """Scroll to a row."""
        if row in self._rows:
            self.scrollToItem(self.item(self._rows.index(row), 0))

    def _show(self, index: int, row: Row) -> None:
        texts = (row.name, row.state_text, row.message)
        tips = (str(row.source), row.state_text, row.details or row.message)
        for column, (whole, help_text) in enumerate(zip(texts, tips, strict=True)):
            text, cell = shown(whole, _LONGEST_CELL), self.item(index, column)
            if cell.text() != text:
                cell.setText(text)
            cell.setToolTip(tip(help_text))

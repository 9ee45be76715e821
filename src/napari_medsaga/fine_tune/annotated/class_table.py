"""The table of the annotated classes: colour, value, name, slices, pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_medsaga.widgets.plain_text import tip
from napari_medsaga.widgets.tables import fit_height, swatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medsaga.frontend import ClassCount

_COLUMNS: tuple[tuple[str, Callable[[ClassCount], str]], ...] = (
    ("Value", lambda count: str(count.value)),
    ("Name", lambda count: count.name),
    ("Slices", lambda count: _in_thousands(count.n_slices)),
    ("Pixels", lambda count: _in_thousands(count.n_pixels)),
    ("", lambda count: "!" if count.warning else ""),
)
_NAME = 1
_BACKGROUND_HELP = (
    "What is known to be background: the pixels painted with this value, and all of "
    "the empty slices. It is no class, and is 0 in the masks."
)
_MOST_ROWS_SHOWN = 6


class ClassTableView(QTableWidget):
    """One row a class; names are edited in place.

    Attributes
    ----------
    values
        The label value of each row.
    """

    renamed = Signal(int, str)
    """Emits `(label value, new name)`."""
    picked = Signal(int)
    """Emits the label value of a row that the user has chosen."""
    coloured = Signal(int)
    """Emits the label value of a class that is to get another colour."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(_COLUMNS), parent)
        self.values: list[int] = []
        self.setHorizontalHeaderLabels([title for title, _ in _COLUMNS])
        self.verticalHeader().hide()
        self.setTabKeyNavigation(False)
        self.setSelectionMode(QTableWidget.SelectionMode.SingleSelection)
        self.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self.setToolTip(
            "The classes. Click on one to paint with it. Double-click its name or its "
            "colour to change it; they go with the model and its masks."
        )
        self.setMinimumWidth(200)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        header = self.horizontalHeader()
        header.setMinimumSectionSize(20)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(_NAME, QHeaderView.ResizeMode.Stretch)
        self.itemChanged.connect(self._on_item_changed)
        self.itemSelectionChanged.connect(self._on_selected)
        self.cellDoubleClicked.connect(self._on_double_clicked)

    def set_editable(self, editable: bool) -> None:
        """Decide whether names can be edited."""
        triggers = QTableWidget.EditTrigger
        self.setEditTriggers(
            triggers.DoubleClicked | triggers.EditKeyPressed
            if editable
            else triggers.NoEditTriggers
        )

    def show_counts(
        self,
        counts: Sequence[ClassCount],
        colours: Mapping[int, str],
        background: ClassCount | None = None,
    ) -> None:
        """Show what is annotated of each class, with its colour.

        `background` is what is known as such in a sparse annotation: it comes first,
        and cannot be renamed.
        """
        if self.state() == QTableWidget.State.EditingState:
            return  # the next report comes after the next stroke
        was_blocked = self.blockSignals(True)
        rows = [*([] if background is None else [background]), *counts]
        self.values = [count.value for count in rows]
        self.setRowCount(len(rows))
        for row, count in enumerate(rows):
            self._fill_row(row, count, colours.get(count.value))
        if background is not None:
            self._fix_background()
        self.blockSignals(was_blocked)
        self._fit_height()

    def mark(self, value: int) -> None:
        """Mark the row of the label value that is painted with."""
        was_blocked = self.blockSignals(True)
        if value in self.values:
            self.selectRow(self.values.index(value))
        else:
            self.clearSelection()
        self.blockSignals(was_blocked)

    def _fill_row(self, row: int, count: ClassCount, colour: str | None) -> None:
        for column, (_, text_of) in enumerate(_COLUMNS):
            item = QTableWidgetItem(text_of(count))
            item.setToolTip(tip(count.warning) if count.warning else self.toolTip())
            if column != _NAME:
                item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
            self.setItem(row, column, item)
        if colour is not None:
            self.item(row, 0).setIcon(swatch(colour))

    def _fix_background(self) -> None:
        for column in range(self.columnCount()):
            item = self.item(0, column)
            item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
            if item.toolTip() == self.toolTip():
                item.setToolTip(_BACKGROUND_HELP)

    def _fit_height(self) -> None:
        fit_height(self, _MOST_ROWS_SHOWN)
        self.setVisible(self.rowCount() > 0)

    def _on_selected(self) -> None:
        rows = self.selectionModel().selectedRows()
        if rows:
            self.picked.emit(self.values[rows[0].row()])

    def _on_double_clicked(self, row: int, column: int) -> None:
        if column == 0:
            self.coloured.emit(self.values[row])

    def _on_item_changed(self, item: QTableWidgetItem) -> None:
        if item.column() == _NAME:
            self.renamed.emit(self.values[item.row()], item.text().strip())


def _in_thousands(number: int) -> str:
    return f"{number:,}".replace(",", " ")

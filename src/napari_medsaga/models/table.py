"""The table of trained models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLineEdit,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from medsaga.frontend import shown
from napari_medsaga.widgets.model_list import (
    NOTHING,
    class_names,
    dice_by_class,
    dice_text,
    local_time,
)
from napari_medsaga.widgets.plain_text import tip

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medsaga.frontend import LibraryEntry

_COLUMNS = {
    "Name": "Name of the model and of its folder; double-click one to change it.",
    "Date": "Day that it was trained on; the newest model is first.",
    "Backbone": "Image encoder that the model is built on.",
    "Classes": "What the model tells apart, besides the background.",
    "Dice": "Mean Dice over the classes at the end of the training.",
    "Images": "Number of images with slices that it was trained on.",
}
_LONG = [list(_COLUMNS).index(title) for title in ("Name", "Classes")]
_PROBLEM = _LONG[-1]  # what is wrong with a model that cannot be read has room there
_LONGEST_NAME = 255  # a folder's
_WIDEST = 280
_LONGEST_CELL = 300


class ModelsTable(QTableWidget):
    """One row for each model of a library; a name is edited in its cell.

    Parameters
    ----------
    parent
        Qt parent.
    """

    current_changed = Signal()
    """Emitted when another model is selected, and when the rows are replaced."""

    name_edited = Signal(object, str)
    """Emits `(entry, name)` when the user has typed another name."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(_COLUMNS), parent)
        self._entries: list[LibraryEntry] = []
        self._next_entries: list[LibraryEntry] | None = None
        self._wanted: Path | None = None
        # Zero interval: no row is replaced inside the signal of one of its cells.
        self._replacing = QTimer(self)
        self._replacing.setSingleShot(True)
        self._set_up()
        self.itemSelectionChanged.connect(self._on_selection_changed)
        self.itemChanged.connect(self._on_item_changed)
        self.itemDelegate().closeEditor.connect(self._on_editor_closed)
        self._replacing.timeout.connect(self._on_replacing_due)

    def entries(self) -> list[LibraryEntry]:
        """Give the models in the order of the rows."""
        return self._entries

    def current(self) -> LibraryEntry | None:
        """Give the selected model."""
        row = self.currentRow()
        return self._entries[row] if 0 <= row < len(self._entries) else None

    def show_entries(
        self, entries: Sequence[LibraryEntry], select: Path | None = None
    ) -> None:
        """Show other models soon, once no name is being edited.

        The selection goes to `select`, or stays on its model. If that is gone, the one
        in its place is selected.
        """
        self._wanted = select or self._wanted
        self._next_entries = list(entries)
        self._replacing.start()

    def edit_current(self) -> None:
        """Let the user edit the name of the selected model."""
        self.setFocus()
        self.editItem(self.item(self.currentRow(), 0))

    def _on_replacing_due(self) -> None:
        # With an editor open it is due again when that is closed.
        if self._next_entries is None or self._is_editing():
            return
        row = self._row_to_select(self._next_entries)
        self._entries, self._next_entries = self._next_entries, None
        self._wanted = None
        self.blockSignals(True)
        self.setRowCount(len(self._entries))
        for place, entry in enumerate(self._entries):
            for column, item in enumerate(_make_row(entry)):
                self.setItem(place, column, item)
        self.setCurrentCell(row, 0)
        self.blockSignals(False)
        self.current_changed.emit()

    def _row_to_select(self, entries: Sequence[LibraryEntry]) -> int:
        paths = [entry.path for entry in entries]
        current = self.current()
        for path in (self._wanted, current and current.path):
            if path in paths:
                return paths.index(path)
        row: int = max(self.currentRow(), 0)
        return min(row, len(paths) - 1)

    def _is_editing(self) -> bool:
        editors = self.viewport().findChildren(QLineEdit)
        return any(editor.isVisible() for editor in editors)

    def _on_selection_changed(self) -> None:
        self.current_changed.emit()

    def _on_item_changed(self, item: QTableWidgetItem) -> None:
        entry, name = self._entries[item.row()], item.text()
        # The row tells what is on disk: the old name until the new one is there.
        self.blockSignals(True)
        item.setText(shown(entry.name, _LONGEST_NAME))
        self.blockSignals(False)
        self.name_edited.emit(entry, name)

    def _on_editor_closed(self, *_: object) -> None:
        self._replacing.start()

    def _set_up(self) -> None:
        self.setObjectName("models")
        self.setAccessibleName("Trained models")
        for column, (title, help_text) in enumerate(_COLUMNS.items()):
            item = QTableWidgetItem(title)
            item.setToolTip(help_text)
            self.setHorizontalHeaderItem(column, item)
        self.verticalHeader().hide()
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setTabKeyNavigation(False)  # Tab leaves the table
        self.setWordWrap(False)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setMaximumSectionSize(_WIDEST)
        # The name comes first, and is never shortened for what stands beside it.
        header.setSectionResizeMode(_LONG[-1], QHeaderView.ResizeMode.Stretch)


def _make_row(entry: LibraryEntry) -> list[QTableWidgetItem]:
    """Make the cells of a model, each with its whole text as tooltip."""
    card = entry.card
    if card is None:
        problem = entry.problem or ""
        texts = [NOTHING] * len(_COLUMNS)
        texts[_PROBLEM] = problem
        tips = [problem] * len(_COLUMNS)
    else:
        date, _, _ = local_time(entry).partition(" ")
        texts = ["", date, card.backbone]
        texts += [", ".join(class_names(card))]
        texts += [dice_text(entry.mean_dice), str(entry.n_images)]
        tips = [entry.name, local_time(entry), *texts[2:4]]
        tips += [dice_by_class(card), texts[5]]
    texts[0] = shown(entry.name, _LONGEST_NAME)
    items = [QTableWidgetItem(shown(text, _LONGEST_CELL)) for text in texts]
    for item, help_text in zip(items, tips, strict=True):
        item.setToolTip(tip(help_text))
    for item in items[1:]:
        item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
    return items

"""Which trained model segments."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from medsaga import MedsagaError, ModelLibrary, load_card
from medsaga.frontend import AXIS_NAMES, LibraryEntry, shown
from napari_medsaga.widgets.model_list import (
    LibraryWatcher,
    class_names,
    details,
    dice_text,
)
from napari_medsaga.widgets.plain_text import make_plain_label, show_error

NO_MODEL = (
    "No trained model yet: train one in the Fine-tune dock, or click Other folder and "
    "choose the folder of a model."
)
_LONGEST_NAME, _LONGEST_LINE = 255, 400
_PATH = Qt.ItemDataRole.UserRole


class ModelChooser(QWidget):
    """A combo box of the library's models, newest first, and of folders elsewhere."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._library = ModelLibrary()
        self._entries: list[LibraryEntry] = []
        self._others: list[LibraryEntry] = []

        self._watcher = LibraryWatcher(self._library, self)
        self._combo = QComboBox(self)
        self._other = QPushButton("&Other folder…", self)
        self._line = make_plain_label("model_line")

        self._lay_out()
        self._describe()

        self._watcher.changed.connect(self._on_library_changed)
        self._combo.currentIndexChanged.connect(self._on_current_changed)
        self._other.clicked.connect(self._on_other_clicked)
        self._on_library_changed()

    def entry(self) -> LibraryEntry | None:
        """Give the chosen model, which has a card; None where there is none."""
        path = self._combo.currentData(_PATH)
        usable = (e for e in self._entries if e.card is not None)
        return next((e for e in usable if str(e.path) == path), None)

    def choose(self, path: Path) -> None:
        """Choose a model of the library, or a model folder elsewhere.

        Raises
        ------
        MedsagaError
            If it is no model folder.
        """
        path = path.absolute()
        if path not in [entry.path for entry in self._entries]:
            entry = LibraryEntry(path=path, name=path.name, card=load_card(path))
            self._others.append(entry)
            self._on_library_changed()
        self._combo.setCurrentIndex(self._combo.findData(str(path), _PATH))

    def _lay_out(self) -> None:
        label = QLabel("&Model", self)
        label.setBuddy(self._combo)
        row = QHBoxLayout()
        row.addWidget(label)
        row.addWidget(self._combo, 1)
        below = QHBoxLayout()
        below.addWidget(self._line, 1)
        below.addWidget(self._other)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addLayout(below)

    def _describe(self) -> None:
        self._combo.setObjectName("model")
        self._combo.setToolTip("The trained model, the newest first.")
        policy = QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        self._combo.setSizeAdjustPolicy(policy)
        self._combo.setMinimumContentsLength(10)
        self._other.setObjectName("other_folder")
        self._other.setToolTip("Choose a model folder that is not in the library.")

    def _on_library_changed(self) -> None:
        before, problem = self.entry(), NO_MODEL
        try:
            self._entries = self._library.entries()
        except MedsagaError as error:
            self._entries, problem = [], str(error)
        listed = {entry.path for entry in self._entries}
        self._entries += [e for e in self._others if e.path not in listed]
        was_blocked = self._combo.blockSignals(True)
        self._combo.clear()
        for index, entry in enumerate(self._entries):
            self._combo.addItem(_title(entry), str(entry.path))
            self._combo.setItemData(index, details(entry), Qt.ItemDataRole.ToolTipRole)
            self._combo.model().item(index).setEnabled(entry.card is not None)
        kept = -1 if before is None else self._place_of(before)
        self._combo.setCurrentIndex(kept if kept >= 0 else self._first_usable())
        self._combo.blockSignals(was_blocked)
        self._show_line(problem)

    def _place_of(self, before: LibraryEntry) -> int:
        """Find a model again, also if it was renamed; -1 where it is gone."""
        place = self._combo.findData(str(before.path), _PATH)
        same = (i for i, e in enumerate(self._entries) if e.created == before.created)
        return place if place >= 0 else next(same, -1)

    def _first_usable(self) -> int:
        usable = (i for i, e in enumerate(self._entries) if e.card is not None)
        return next(usable, -1)

    def _on_current_changed(self, _: int) -> None:
        self._show_line(NO_MODEL)

    def _show_line(self, without: str) -> None:
        entry = self.entry()
        self._line.setText(without if entry is None else _line(entry))
        self._line.setToolTip("" if entry is None else details(entry))

    def _on_other_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of a trained model")
        if not folder:
            return
        try:
            self.choose(Path(folder))
        except MedsagaError as error:
            self._line.setText(str(error))
            show_error(str(error))


def _title(entry: LibraryEntry) -> str:
    """Name a model in the list, and say so where it cannot be chosen."""
    name = shown(entry.name, _LONGEST_NAME)
    return name if entry.card is not None else f"{name} (damaged)"


def _line(entry: LibraryEntry) -> str:
    """Classes, axis, Dice and backbone of a model, in one line."""
    card = entry.card
    if card is None:
        return entry.problem or ""
    axis = {number: name for name, number in AXIS_NAMES.items()}[card.axis]
    parts = (
        ", ".join(class_names(card)) or "no classes",
        f"{axis} slices",
        f"Dice {dice_text(entry.mean_dice)}",
        card.backbone,
    )
    return shown(" · ".join(parts), _LONGEST_LINE)

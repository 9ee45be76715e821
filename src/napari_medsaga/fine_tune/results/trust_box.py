"""What to expect of a result: Dice, size and slices of each class, by round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from weakref import ref

from napari.layers import Image
from qtpy.QtCore import QIODevice, QSaveFile, Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QMenu,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_medsaga.fine_tune.painting.keys import key_of
from napari_medsaga.fine_tune.results.round_rows import class_rows, rounds_as_csv
from napari_medsaga.layers.convert import class_colours, geometry_of, unused_name
from napari_medsaga.layers.predictions import prediction_of
from napari_medsaga.layers.result_layer import add_quietly
from napari_medsaga.widgets.layer_choice import without_choice
from napari_medsaga.widgets.plain_text import (
    make_plain_label,
    show_error,
    show_info,
    tip,
)
from napari_medsaga.widgets.tables import fit_height, swatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari import Viewer
    from napari.layers import Labels

    from napari_medsaga.fine_tune.results.round_rows import ClassRow

_COLUMNS = ("Class", "Dice", "Size", "Slices", "Change")
_MOST_ROWS = 8
_WIDEST = 150


class TrustBox(QWidget):
    """The table of the last result, and what can be done with the result."""

    corrected = Signal(object)
    """Emits the result's Labels layer when it is to be painted on."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layer: ref[Labels] | None = None
        self._before: ref[Labels] | None = None
        self._folder = Path.home()
        self.sentence = make_plain_label("expected")
        self.table = QTableWidget(0, len(_COLUMNS))
        self.correct = QPushButton("Correct this")
        self.compare = QPushButton(f"Compare ({key_of('compare')})")
        self.more = QPushButton("More")
        menu = QMenu(self.more)
        menu.setToolTipsVisible(True)
        self.more.setMenu(menu)
        self.outlines = menu.addAction("Both as &outlines")
        self.uncertain = menu.addAction("&Uncertainty")
        self.save = menu.addAction("Save as &CSV…")
        self._lay_out()
        self._describe()
        self.correct.clicked.connect(self._on_correct_clicked)
        self.compare.clicked.connect(self.swap)
        self.outlines.toggled.connect(self._on_outlines_toggled)
        self.uncertain.triggered.connect(self._on_uncertain_clicked)
        self.save.triggered.connect(self._on_save_clicked)
        self.follow(None)

    @property
    def layer(self) -> Labels | None:
        """The result that the table is about, if it is still there."""
        return self._alive(self._layer)

    def follow(self, layer: Labels | None) -> None:
        """Show what came of a training.

        Parameters
        ----------
        layer
            Its result, which is compared with the one that was shown before it; a layer
            without rounds is not shown.
        """
        prediction = prediction_of(layer)
        rounds = () if prediction is None else prediction.rounds
        if layer is None or not rounds:
            if self.layer is None:
                self.setVisible(False)
            return
        earlier = self.layer
        if earlier is not None and earlier is not layer:
            self.outlines.setChecked(False)
            self._before = ref(earlier)
        self._layer = ref(layer)
        self._fill_table(layer, class_rows(rounds, is_2d=layer.ndim == 2))
        self.sentence.setText(
            f"{layer.name}, round {len(rounds)}: Dice {rounds[-1].where}."
        )
        has_two = self._alive(self._before) is not None
        self.compare.setEnabled(has_two)
        self.outlines.setEnabled(has_two)
        advice = None if prediction is None else prediction.advice
        self.uncertain.setEnabled(advice is not None)
        self.setVisible(True)

    def _fill_table(self, layer: Labels, rows: Sequence[ClassRow]) -> None:
        colours = class_colours(layer, [row.value for row in rows])
        self.table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            texts = (row.name, row.dice, row.size, row.slices, row.change)
            hints = {0: row.name, len(texts) - 1: row.history}
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
                item.setToolTip(tip(hints.get(column, "")) or self.table.toolTip())
                self.table.setItem(number, column, item)
            colour = colours.get(row.value, "#ffffff")
            self.table.item(number, 0).setIcon(swatch(colour))
        fit_height(self.table, _MOST_ROWS)

    def swap(self) -> None:
        """Show the result before in the place of this one, or this one again."""
        layer, before = self.layer, self._alive(self._before)
        if layer is None or before is None:
            return
        shows_new = layer.visible
        layer.visible, before.visible = not shows_new, shows_new

    def _on_outlines_toggled(self, on: bool) -> None:
        for known, width in ((self._layer, 1), (self._before, 2)):
            layer = self._alive(known)
            if layer is not None:
                layer.contour = width if on else 0
                layer.visible = on or known is self._layer

    def _alive(self, known: ref[Labels] | None) -> Labels | None:
        layer = None if known is None else known()
        return layer if layer is not None and layer in self._viewer.layers else None

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        for button in (self.correct, self.compare, self.more):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.sentence)
        layout.addWidget(self.table)
        layout.addLayout(buttons)

    def _describe(self) -> None:
        self.setObjectName("trust")
        self.table.setObjectName("trust_table")
        self.table.setHorizontalHeaderLabels(_COLUMNS)
        self.table.verticalHeader().hide()
        self.table.setTabKeyNavigation(False)
        self.table.setWordWrap(False)
        self.table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        self.table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.table.setToolTip(
            "For each class: the Dice to be expected on slices that nobody painted, "
            "how much there is of it and on how many slices, and what changed since "
            "the round before: Dice, and size in percent."
        )
        header = self.table.horizontalHeader()
        header.setMinimumSectionSize(20)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setMaximumSectionSize(_WIDEST)
        header.setSectionResizeMode(len(_COLUMNS) - 1, QHeaderView.ResizeMode.Stretch)
        self.correct.setObjectName("correct")
        self.correct.setToolTip(
            "Paint on this result: slices that you correct or accept train the next "
            "round, together with those that trained this one."
        )
        self.compare.setObjectName("compare")
        self.compare.setToolTip(
            "Show the result of the round before in the place of this one, and back."
        )
        self.more.setObjectName("more")
        self.more.setToolTip("Outlines, uncertainty, and the table as a file.")
        self.outlines.setObjectName("outlines")
        self.outlines.setCheckable(True)
        self.outlines.setToolTip(
            "Show this result and the one of the round before at once, as outlines: "
            "the wider ones are the older."
        )
        self.uncertain.setObjectName("uncertainty")
        self.uncertain.setToolTip(
            "Add a layer that shows how likely each voxel of the result is wrong, by "
            "what the model and the carried paint say against it."
        )
        self.save.setObjectName("save_table")
        self.save.setToolTip("Save the table of all rounds, for a spreadsheet.")

    def _on_correct_clicked(self) -> None:
        layer = self.layer
        if layer is not None:
            layer.visible = True
            self._viewer.layers.selection.active = layer
            layer.mode = "paint"
            self.corrected.emit(layer)

    def _on_uncertain_clicked(self) -> None:
        layer = self.layer
        prediction = prediction_of(layer)
        if layer is None or prediction is None or prediction.advice is None:
            return
        shown = Image(
            prediction.advice.uncertainty.array,
            name=unused_name(self._viewer, f"{layer.name} uncertainty"),
            colormap="inferno",
            blending="additive",
            contrast_limits=(0.0, 1.0),
            **without_choice(geometry_of(layer)),
        )
        add_quietly(self._viewer, shown)

    def _on_save_clicked(self) -> None:
        layer = self.layer
        if layer is None:
            return
        suggested = str(self._folder / f"{layer.name}.csv")
        chosen, _ = QFileDialog.getSaveFileName(
            self, "Save the table", suggested, "CSV (*.csv)"
        )
        if chosen:
            self.write_csv(Path(chosen))

    def write_csv(self, path: Path) -> None:
        """Write the table of all rounds, and say where or why not."""
        layer = self.layer
        prediction = prediction_of(layer)
        if layer is None or prediction is None:
            return
        text = rounds_as_csv(prediction.rounds, is_2d=layer.ndim == 2)
        file = QSaveFile(str(path))
        is_open = file.open(QIODevice.OpenModeFlag.WriteOnly)
        if not (is_open and file.write(text.encode()) >= 0 and file.commit()):
            show_error(f"{path} cannot be written: {file.errorString()}.")
            return
        self._folder = path.parent
        show_info(f"Saved {path}.")

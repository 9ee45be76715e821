"""The classes of a Labels layer: added, named and chosen before anything is painted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QColorDialog,
    QHBoxLayout,
    QInputDialog,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from medsaga import MedsagaError
from medsaga.frontend import ClassCount
from napari_medsaga.fine_tune.annotated.class_table import ClassTableView
from napari_medsaga.layers.convert import (
    class_colours,
    class_names,
    geometry_of,
    rename_classes,
    shape_of,
    unused_name,
)
from napari_medsaga.layers.label_classes import add_class, recolour_class
from napari_medsaga.widgets.plain_text import show_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari import Viewer
    from napari.layers import Image, Labels

    from medsaga.frontend import ClassTable


class ClassBox(QWidget):
    """The list of the classes, which chooses what is painted with.

    Parameters
    ----------
    viewer
        Where a Labels layer is added if there is none.
    parent
        Qt parent.
    """

    changed = Signal()
    """Emitted when a class was added, named or coloured."""
    layer_added = Signal(object)
    """Emits a new Labels layer, made for the first class."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._image: Image | None = None
        self._labels: Labels | None = None
        self.table = ClassTableView()
        self.table.setObjectName("classes")
        self.add = QPushButton("Add class")
        self.template = QPushButton("Classes of a model…")
        self._lay_out()
        self.table.renamed.connect(self._on_renamed)
        self.table.picked.connect(self._on_picked)
        self.table.coloured.connect(self._on_colour_wanted)
        self.add.clicked.connect(lambda: self.add_class())
        self.template.clicked.connect(self._on_template_clicked)

    def follow(self, image: Image | None, labels: Labels | None) -> None:
        """Show the classes of another Labels layer, made for an image."""
        self._image = image
        if labels is self._labels:
            return
        self.disconnect_viewer()
        self._labels = labels
        if labels is not None:
            labels.events.selected_label.connect(self._mark_chosen)

    def show_counts(
        self, counts: Sequence[ClassCount], background: ClassCount | None
    ) -> None:
        """Show what is annotated of each class, and those that are only named yet."""
        labels = self._labels
        if labels is None:
            self.table.show_counts((), {})
            return
        names = class_names(labels)
        painted = {one.value for one in counts}
        known = {0 if background is None else background.value, *painted, 0}
        waiting = [
            ClassCount(value=value, name=name, n_slices=0, n_pixels=0, warning=None)
            for value, name in names.items()
            if value not in known
        ]
        rows = sorted([*counts, *waiting], key=lambda one: one.value)
        shown = [*([] if background is None else [background]), *rows]
        colours = class_colours(labels, [one.value for one in shown]) if shown else {}
        self.table.show_counts(rows, colours, background)
        self._mark_chosen()

    def set_running(self, running: bool) -> None:
        """Decide what can be changed; the colours stay as the key to the plot."""
        self.table.set_editable(not running)
        self.add.setEnabled(not running)
        self.template.setEnabled(not running)

    def add_class(self, name: str = "") -> int | None:
        """Add a class and paint with it from now on; gives its label value."""
        labels = self._labels or self._new_layer()
        if labels is None:
            return None
        value = add_class(labels, name, self.table.values)
        labels.selected_label = value
        self.changed.emit()
        return value

    def take_classes(self, table: ClassTable) -> None:
        """Take over the names and colours of a model's classes."""
        labels = self._labels or self._new_layer()
        if labels is None:
            return
        known = zip(table.values, table.names, table.colours, strict=True)
        for value, name, colour in known:
            if value:
                rename_classes(labels, {value: name})
                if colour is not None:
                    recolour_class(labels, value, colour)
        labels.selected_label = table.values[1]
        self.changed.emit()

    def disconnect_viewer(self) -> None:
        """Stop following the layer."""
        if self._labels is not None:
            self._labels.events.selected_label.disconnect(self._mark_chosen)
        self._labels = None

    def _lay_out(self) -> None:
        self.add.setObjectName("add_class")
        self.add.setToolTip(
            "Add a class and paint with it; double-click its name to change it."
        )
        self.template.setObjectName("class_template")
        self.template.setToolTip(
            "Take over names, label values and colours of a trained model's classes."
        )
        buttons = QHBoxLayout()
        buttons.addWidget(self.add)
        buttons.addWidget(self.template)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        layout.addLayout(buttons)

    def _new_layer(self) -> Labels | None:
        """Add a Labels layer that lies exactly on the image; without one say so."""
        image = self._image
        if image is None:
            show_error("Open an image first: the classes are painted on it.")
            return None
        options = geometry_of(image)
        name = unused_name(self._viewer, f"{image.name} labels")
        empty = np.zeros(shape_of(image), np.uint8)
        layer: Labels = self._viewer.add_labels(empty, name=name, **options)
        layer.mode = "paint"
        self.layer_added.emit(layer)
        self.follow(image, layer)
        return layer

    def _on_renamed(self, value: int, name: str) -> None:
        labels = self._labels
        if labels is None or not name:
            self.changed.emit()
            return
        taken = {n for v, n in class_names(labels).items() if v != value}
        if name in taken:
            show_error(f"There is a class {name} already: give another name.")
        else:
            rename_classes(labels, {value: name})
        self.changed.emit()

    def _on_picked(self, value: int) -> None:
        if self._labels is not None and self._labels.selected_label != value:
            self._labels.selected_label = value

    def _mark_chosen(self, _: object = None) -> None:
        if self._labels is not None:
            self.table.mark(int(self._labels.selected_label))

    def _on_colour_wanted(self, value: int) -> None:
        if self._labels is None:
            return
        colour = QColorDialog.getColor(parent=self, title="Colour of the class")
        if colour.isValid():
            recolour_class(self._labels, value, colour.name())
            self.changed.emit()

    def _on_template_clicked(self) -> None:
        tables = _tables_of_library()
        if not tables:
            show_error("There is no trained model yet whose classes could be taken.")
            return
        name, is_chosen = QInputDialog.getItem(
            self, "Classes of a model", "Model", list(tables), 0, editable=False
        )
        if is_chosen:
            self.take_classes(tables[name])


def _tables_of_library() -> Mapping[str, ClassTable]:
    """Give the classes of the models in the library, by their names."""
    from medsaga import ModelLibrary  # torch, which the dock opens without

    try:
        entries = ModelLibrary().entries()
    except MedsagaError as error:
        show_error(str(error))
        return {}
    return {e.path.name: e.card.classes for e in entries if e.card is not None}

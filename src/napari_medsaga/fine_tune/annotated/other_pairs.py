"""Further images with labels, which train together with the chosen one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast
from weakref import WeakSet

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from medsaga.frontend import count
from napari_medsaga.fine_tune.annotated.images_of_labels import is_painted_on
from napari_medsaga.layers.convert import class_names, labels_on, volume_of
from napari_medsaga.layers.predictions import prediction_of
from napari_medsaga.layers.slice_marks import marked_slices
from napari_medsaga.widgets.plain_text import make_plain_label

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels

    from medsaga import TrainingData, Volume
    from napari_medsaga.fine_tune.annotated.images_of_labels import ImagesOfLabels

_ROWS_IN_SIGHT = 4


@dataclass(frozen=True, eq=False)
class Pair:
    """A Labels layer, and the image that it lies on."""

    image: Image
    labels: Labels

    @property
    def name(self) -> str:
        """What the pair is called."""
        return f"{self.labels.name} on {self.image.name}"

    def copy_labels(self) -> Volume:
        """Copy the labels, on the grid of the image.

        Raises
        ------
        MedsagaError
            If they do not lie on it.
        """
        found = labels_on(self.labels, self.image)
        return found.with_array(np.array(found.array))

    def empty_slices(self, axis: int, labels: Volume) -> list[int]:
        """Give the slices that are marked as showing nothing, and not painted since."""
        marked = marked_slices(self.labels, self.image, "empty")
        own = sorted(index for a, index in marked if a == axis)
        return [index for index in own if not labels.slice(axis, index).any()]


class OtherPairs(QWidget):
    """Lists the other painted images of the viewer, each with a tick.

    Parameters
    ----------
    viewer
        Whose layers are listed.
    images
        Which image a Labels layer belongs to.
    parent
        Qt parent.
    """

    ticked = Signal()
    """Emits when a pair was ticked or unticked."""
    outdated = Signal()
    """Emits when layers came or went, so that it is to be looked at again."""

    def __init__(
        self, viewer: Viewer, images: ImagesOfLabels, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer, self._images = viewer, images
        self._pairs: list[Pair] = []
        self._ticked: WeakSet[Labels] = WeakSet()
        self._chosen: tuple[Image | None, Labels | None] = (None, None)
        # To find the pairs compares every layer with every other: too long for each
        # stroke.
        self._is_outdated = True
        self._title = make_plain_label("other_pairs_title")
        self._title.setText("Train on these too:")
        self.rows = QListWidget()
        self.rows.setObjectName("other_pairs")
        self.rows.setToolTip(
            "Other painted images that are open. Those that are ticked train together "
            "with the chosen one; all of what is painted on them does."
        )
        self.all = QPushButton("Tick all")
        self.all.setObjectName("tick_all_pairs")
        self.all.setToolTip("Train on all of them.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self._title, self.rows, self.all):
            layout.addWidget(widget)
        self.rows.itemChanged.connect(self._on_item_changed)
        self.all.clicked.connect(self._on_all_clicked)
        events = viewer.layers.events
        self._emitters = (events.inserted, events.removed, events.reordered)
        for emitter in self._emitters:
            emitter.connect(self._on_layers_changed)
        self.hide()

    def look_again(self, image: Image | None, labels: Labels | None) -> None:
        """List what is there beside the chosen layers.

        Where a ticked pair is chosen, the one that was before takes its tick: all of
        them go on to train together.
        """
        is_known = not self._is_outdated and self._chosen == (image, labels)
        (_, before), self._chosen = self._chosen, (image, labels)
        if not is_known:
            if before is not None and labels is not before and labels in self._ticked:
                self._ticked.add(before)
            self._pairs = [] if image is None else self._find(image, labels)
            self._ticked &= {pair.labels for pair in self._pairs}
            self._is_outdated = False
        self._list_pairs()

    def _list_pairs(self) -> None:
        pairs = self._pairs
        names = [pair.name for pair in pairs]
        if [self.rows.item(n).text() for n in range(self.rows.count())] == names:
            self._show_ticks()
            return
        was_blocked = self.rows.blockSignals(True)
        self.rows.clear()
        for name in names:
            item = QListWidgetItem(name)
            item.setToolTip(self.rows.toolTip())
            self.rows.addItem(item)
        self.rows.blockSignals(was_blocked)
        self._show_ticks()
        height = self.rows.sizeHintForRow(0) * min(len(pairs), _ROWS_IN_SIGHT)
        self.rows.setFixedHeight(height + 2 * self.rows.frameWidth() + 4)
        self.all.setVisible(len(pairs) > 1)
        self.setVisible(bool(pairs))

    def ticked_pairs(self) -> list[Pair]:
        """Give the pairs that are to train."""
        return [pair for pair in self._pairs if pair.labels in self._ticked]

    def ticked_labels(self) -> tuple[Volume, ...]:
        """Give the labels of those pairs, on the grids of their images.

        Raises
        ------
        MedsagaError
            If a layer has been moved off its image.
        """
        pairs = self.ticked_pairs()
        return tuple(labels_on(pair.labels, pair.image) for pair in pairs)

    def join(self, data: TrainingData) -> TrainingData:
        """Give what trains, with the ticked pairs beside it.

        Raises
        ------
        MedsagaError
            If a layer has been moved off its image.
        """
        pairs = self.ticked_pairs()
        if not pairs:
            return data
        axis = data.axis or 0
        image, labels = cast("Volume", data.images), cast("Volume", data.labels)
        shown = data.slices or ()
        empty = [(0, i) for i in shown if not labels.slice(axis, i).any()]
        others = [pair.copy_labels() for pair in pairs]
        for number, (pair, own) in enumerate(zip(pairs, others, strict=True), 1):
            empty += [(number, index) for index in pair.empty_slices(axis, own)]
        names = {
            value: name
            for pair in reversed(pairs)
            for value, name in class_names(pair.labels).items()
        }
        return replace(
            data,
            images=[image, *(volume_of(pair.image) for pair in pairs)],
            labels=[labels, *others],
            slices=None,
            empty_slices=empty,
            class_names=names | dict(data.class_names or {}),
        )

    def describe(self) -> str:
        """Say how many images train beside the chosen one; empty without any."""
        pairs = self.ticked_pairs()
        return f"{count(len(pairs), 'more image')} will train too." if pairs else ""

    def disconnect_viewer(self) -> None:
        """Stop following the viewer's layers."""
        for emitter in self._emitters:
            emitter.disconnect(self._on_layers_changed)

    def _find(self, image: Image, labels: Labels | None) -> list[Pair]:
        found = []
        if prediction_of(labels) is not None:
            return []  # what trained its model is kept with it, of other images too
        for layer in self._viewer.layers:
            if layer is labels or not is_painted_on(layer):
                continue
            own = self._images.find(layer)
            if own is not None and own is not image and own.ndim == image.ndim:
                found.append(Pair(own, layer))
        return found

    def _on_layers_changed(self, _: object = None) -> None:
        self._is_outdated = True
        self.outdated.emit()

    def _show_ticks(self) -> None:
        was_blocked = self.rows.blockSignals(True)
        for number, pair in enumerate(self._pairs):
            is_ticked = pair.labels in self._ticked
            state = Qt.CheckState.Checked if is_ticked else Qt.CheckState.Unchecked
            self.rows.item(number).setCheckState(state)
        self.rows.blockSignals(was_blocked)

    def _on_item_changed(self, item: QListWidgetItem) -> None:
        labels = self._pairs[self.rows.row(item)].labels
        if item.checkState() == Qt.CheckState.Checked:
            self._ticked.add(labels)
        else:
            self._ticked.discard(labels)
        self.ticked.emit()

    def _on_all_clicked(self) -> None:
        self._ticked = WeakSet(pair.labels for pair in self._pairs)
        self._show_ticks()
        self.ticked.emit()

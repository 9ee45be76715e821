"""The list of the slices that train, each with a tick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QListWidget, QListWidgetItem, QWidget

from napari_medsaga.layers.convert import seen_at, world_affine
from napari_medsaga.layers.plane import go_to

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

    from medsaga.frontend import SliceId
    from napari_medsaga.fine_tune.annotated.annotation import AnnotationReport

_MOST_LISTED = 300
_ROWS_IN_SIGHT = 3
_TICK = 16


class SliceList(QListWidget):
    """The annotated slices of the layers, and those kept with an earlier model."""

    ticked = Signal()
    """Emits when a slice was ticked or unticked."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._image: Image | None = None
        self._report: AnnotationReport | None = None
        self._unticked: set[int | SliceId] = set()
        self._rows: list[int | SliceId] = []
        self._listed: tuple[Any, ...] | None = None
        self.setObjectName("slices")
        self.setToolTip(
            "The slices that train. Untick one to leave it out; click on one to look "
            "at it."
        )
        self.setFlow(QListWidget.Flow.LeftToRight)
        self.setWrapping(True)
        self.setResizeMode(QListWidget.ResizeMode.Adjust)
        self.setSpacing(2)
        # Qt gives rows some pixels less than it needs not to elide a short number.
        self.setTextElideMode(Qt.TextElideMode.ElideNone)
        self.setStyleSheet(
            f"QListWidget::indicator {{ width: {_TICK}px; height: {_TICK}px; }}"
        )
        self.itemChanged.connect(self._on_item_changed)
        self.itemActivated.connect(self._on_item_activated)
        self.itemClicked.connect(self._on_item_activated)

    def unticked(self) -> frozenset[int | SliceId]:
        """Give the slices that are to be left out."""
        return frozenset(self._unticked)

    def ticked_slices(self) -> tuple[int, ...]:
        """Give the slices of the layers that are to train."""
        slices = () if self._report is None else self._report.slices
        return tuple(index for index in slices if index not in self._unticked)

    def ticked_earlier(self) -> tuple[SliceId, ...]:
        """Give the slices kept with a predicted layer's model that are to train."""
        earlier = () if self._report is None else self._report.earlier
        return tuple(name for name in earlier if name not in self._unticked)

    def forget(self) -> None:
        """Tick all slices again: other ones are going to be listed."""
        self._unticked.clear()
        self._listed = None

    def show_report(self, report: AnnotationReport | None, image: Image | None) -> None:
        """List what a report on the annotation of `image` found."""
        self._report, self._image = report, image
        texts = self._texts(report)
        listed = (texts, report and report.axis)
        if listed == self._listed:
            return
        self._listed = listed
        was_blocked = self.blockSignals(True)
        self.clear()
        self._rows = list(texts)[:_MOST_LISTED]
        for row in self._rows:
            item = QListWidgetItem(texts[row])
            item.setToolTip(self.toolTip())
            is_ticked = row not in self._unticked
            item.setCheckState(
                Qt.CheckState.Checked if is_ticked else Qt.CheckState.Unchecked
            )
            self.addItem(item)
        self.blockSignals(was_blocked)
        self.setVisible(len(texts) > 1)
        self._fit_height()

    def _texts(self, report: AnnotationReport | None) -> dict[int | SliceId, str]:
        if report is None:
            return {}
        texts: dict[int | SliceId, str] = {}
        for index in report.slices:
            step = self._slider_position(report.axis, index)
            is_changed, is_empty = index in report.changed, index in report.empty
            texts[index] = f"{step}{' changed' * is_changed}{' empty' * is_empty}"
        return texts | {one: one.name for one in report.earlier}

    def _fit_height(self) -> None:
        self.doItemsLayout()
        last = self.item(self.count() - 1)
        if last is not None:
            bottom = self.visualItemRect(last).bottom()
            height = min(bottom, _ROWS_IN_SIGHT * self.sizeHintForRow(0) + 12)
            self.setFixedHeight(height + 2 * self.frameWidth() + 4)

    def _slider_position(self, axis: int, index: int) -> int:
        """Give the number that the viewer's slider shows for a slice.

        Files are shown mirrored, so that it is not the index in the array.
        """
        image = self._image
        if image is None or image.ndim != 3:
            return index
        turned = np.abs(world_affine(image)[:-1, :-1])
        if np.count_nonzero(turned > 1e-6 * turned.max()) > 3:
            return index  # a slice of a turned layer is at no single position
        world = seen_at(self._viewer, image, axis, index)[axis]
        shown = self._viewer.dims.range[self._viewer.dims.ndim - image.ndim + axis]
        return round(float((world - shown.start) / shown.step))

    def _on_item_changed(self, item: QListWidgetItem) -> None:
        row = self._rows[self.row(item)]
        if item.checkState() == Qt.CheckState.Checked:
            self._unticked.discard(row)
        else:
            self._unticked.add(row)
        self.ticked.emit()

    def _on_item_activated(self, item: QListWidgetItem) -> None:
        """Look at a slice: in the plane that is cut along its axis."""
        index = self._rows[self.row(item)]
        if self._image is None or self._report is None or not isinstance(index, int):
            return  # of another image
        go_to(self._viewer, self._image, self._report.axis, index)

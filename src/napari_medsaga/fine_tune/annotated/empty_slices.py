"""Slices that the user says show nothing, kept with their Labels layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QWidget

from napari_medsaga.layers.convert import slice_shown
from napari_medsaga.layers.predictions import prediction_of
from napari_medsaga.layers.slice_marks import mark_slice
from napari_medsaga.widgets.plain_text import tip

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels

    from napari_medsaga.fine_tune.annotated.annotation import AnnotationReport

_HELP = (
    "The slice that you look at shows nothing of any class: all of it trains as "
    "background. It is listed with the annotated slices; clear the tick to take it "
    "away again."
)


class EmptySliceBox(QCheckBox):
    """Whether the slice that is looked at is marked as empty.

    Parameters
    ----------
    viewer
        Says which slice that is.
    parent
        Qt parent.
    """

    marked = Signal()
    """Emitted when the user has marked a slice, or taken the mark away."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__("This slice is empt&y", parent)
        self._viewer = viewer
        self._image: Image | None = None
        self._labels: Labels | None = None
        self._report: AnnotationReport | None = None
        self._is_running = False
        self.setObjectName("empty")
        self.clicked.connect(self._on_clicked)
        for emitter in self._followed():
            emitter.connect(self._on_view_changed)

    def follow(
        self,
        image: Image | None,
        labels: Labels | None,
        report: AnnotationReport | None,
    ) -> None:
        """Show the marks of a Labels layer, as a report has found them."""
        self._image, self._labels, self._report = image, labels, report
        self._on_view_changed()

    def set_running(self, running: bool) -> None:
        """Decide whether slices can be marked."""
        self._is_running = running
        self._on_view_changed()

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        for emitter in self._followed():
            emitter.disconnect(self._on_view_changed)

    def _followed(self) -> tuple[Any, ...]:
        events = self._viewer.dims.events
        return events.point, events.order, events.ndisplay

    def _on_view_changed(self, _: object = None) -> None:
        image, report = self._image, self._report
        problem = self._problem()
        self.setEnabled(problem is None and not self._is_running)
        self.setToolTip(tip(problem or _HELP))
        self.setChecked(
            problem is None
            and image is not None
            and report is not None
            and slice_shown(self._viewer, image, report.axis) in report.empty
        )

    def _problem(self) -> str | None:
        """Say why the slice that is looked at cannot be marked."""
        image, labels, report = self._image, self._labels, self._report
        if image is None or labels is None or report is None or not report.slices:
            return "Paint some slices first; then others can be marked as empty."
        if labels.ndim == 2:
            return "There is one slice, and it carries labels."
        dims = self._viewer.dims
        if dims.ndim - labels.ndim + report.axis in dims.displayed:
            return f"To mark slices, look at those along axis {report.axis}."
        index = slice_shown(self._viewer, image, report.axis)
        if prediction_of(labels) is not None:
            if index in report.changed:
                return "You changed this slice: it trains as it is now."
        elif index in report.slices and index not in report.empty:
            return "This slice carries labels: erase them, if nothing is there."
        return None

    def _on_clicked(self, checked: bool) -> None:
        labels, report = self._labels, self._report
        if labels is not None and report is not None:
            index = slice_shown(self._viewer, labels, report.axis)
            mark_slice(labels, "empty", report.axis, index, is_set=checked)
            self.marked.emit()

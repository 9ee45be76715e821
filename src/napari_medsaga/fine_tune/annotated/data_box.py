"""The upper part of the Fine-tune dock: which layers train, and what is on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import (
    QFormLayout,
    QVBoxLayout,
    QWidget,
)

from medsaga import MedsagaError, TrainingData
from napari_medsaga.fine_tune.annotated.annotation import (
    AnnotationQuery,
    AnnotationReport,
    report_annotation,
)
from napari_medsaga.fine_tune.annotated.axis_choice import AxisChoice
from napari_medsaga.fine_tune.annotated.class_box import ClassBox
from napari_medsaga.fine_tune.annotated.empty_slices import EmptySliceBox
from napari_medsaga.fine_tune.annotated.images_of_labels import ImagesOfLabels
from napari_medsaga.fine_tune.annotated.layer_rows import LayerRows, labelled
from napari_medsaga.fine_tune.annotated.other_pairs import OtherPairs
from napari_medsaga.fine_tune.annotated.slice_list import SliceList
from napari_medsaga.fine_tune.annotated.sparse_form import SparseForm
from napari_medsaga.jobs.latest import LatestAnswer
from napari_medsaga.layers.convert import (
    class_colours,
    class_names,
    labels_on,
    volume_of,
)
from napari_medsaga.layers.layer_watch import LayerWatch
from napari_medsaga.layers.predictions import prediction_of
from napari_medsaga.layers.slice_marks import marked_slices
from napari_medsaga.widgets.plain_text import make_plain_label

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels

    from medsaga import FineTuneSettings

_SETTLE_MS = 250


class DataBox(QWidget):
    """Image, Labels, and the classes that are painted.

    Attributes
    ----------
    image, labels
        The layers.
    classes
        The list of the classes.
    slices
        The axis and the annotated slices, to be shown at another place.
    images
        Which image each Labels layer belongs to.
    others
        Further pairs that train.
    sparse
        Whether what is not painted is unknown.
    """

    reported = Signal(object)
    """Emits `(AnnotationReport or None)` when what is annotated has been looked at."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._report: AnnotationReport | None = None
        self._number = 0

        self._rows = LayerRows(viewer)
        self.image, self.labels = self._rows.image, self._rows.labels
        self._axis = AxisChoice()
        self._sentence = make_plain_label("annotated")
        self._slices = SliceList(viewer)
        self._empty = EmptySliceBox(viewer)
        self.sparse = SparseForm()
        self.images = ImagesOfLabels(viewer)
        self.others = OtherPairs(viewer, self.images)
        self.slices = QWidget()
        self.classes = ClassBox(viewer)
        self._answers = LatestAnswer(report_annotation, self)
        self._watch = LayerWatch(viewer, self)
        self._timer = QTimer(self)

        self._describe()
        self._lay_out()
        self._connect()
        self._on_layer_chosen()

    def image_layer(self) -> Image | None:
        """Give the chosen image layer."""
        found: Image | None = self.image.layer()
        return found

    def labels_layer(self) -> Labels | None:
        """Give the chosen Labels layer."""
        found: Labels | None = self.labels.layer()
        return found

    def report(self) -> AnnotationReport | None:
        """Give the last report; None until the chosen layers have been looked at."""
        return self._report

    def training_data(
        self, report: AnnotationReport, image: Image, labels: Labels
    ) -> TrainingData:
        """Give what trains: the ticked slices, those kept before, and other images.

        Raises
        ------
        MedsagaError
            If the labels of another image do not lie on it.
        """
        return self.others.join(self.own_data(report, image, labels))

    def own_data(
        self, report: AnnotationReport, image: Image, labels: Labels
    ) -> TrainingData:
        """Give what trains without the other images."""
        slices = self._slices.ticked_slices()
        marked = marked_slices(labels, image, "accepted")
        accepted = {i for a, i in marked if a == report.axis}
        return TrainingData(
            volume_of(image),
            report.labels_of(slices),
            axis=report.axis,
            slices=slices,
            accepted_slices=sorted(accepted & {*slices}),
            earlier=self._slices.ticked_earlier(),
            class_names=class_names(labels),
            class_colours=class_colours(labels, [c.value for c in report.counts]),
        )

    def ticked_slices(self) -> tuple[int, ...]:
        """Give the painted slices that are to be learned from."""
        return self._slices.ticked_slices()

    def complete(self, settings: FineTuneSettings) -> FineTuneSettings:
        """Give settings with those that belong to the labels as they are here."""
        return self.sparse.complete(settings)

    def look_again(self) -> None:
        """Look at the layers as they are now; the answer comes as `reported`."""
        self._timer.stop()
        self._number += 1
        query = self._query()
        if isinstance(query, AnnotationQuery):
            self._answers.ask(query)
        else:
            self._show(None, query)

    def set_running(self, running: bool) -> None:
        """Decide what can be changed; the colours stay as the key to the plot."""
        self._rows.set_running(running)
        for control in (self._slices, self.others, self.sparse):
            control.setEnabled(not running)
        self._axis.set_running(running)
        self._empty.set_running(running)
        self.classes.set_running(running)

    def key(self) -> QWidget:
        """Give the table of the classes, which is the key to a plot of them."""
        return self.classes.table

    def disconnect_viewer(self) -> None:
        """Stop following the viewer and its layers."""
        self._timer.stop()
        self._watch.disconnect_viewer()
        self._empty.disconnect_viewer()
        self.others.disconnect_viewer()
        self.classes.disconnect_viewer()
        self._rows.disconnect_viewer()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(self._rows)
        layout.addWidget(self._sentence)
        layout.addWidget(self.classes)
        along = QFormLayout()
        along.addRow(labelled("&Slices along", self._axis), self._axis)
        below = QVBoxLayout(self.slices)
        below.setContentsMargins(0, 0, 0, 0)
        below.addLayout(along)
        below.addWidget(self._slices)
        below.addWidget(self._empty)
        below.addWidget(self.others)
        below.addWidget(self.sparse)

    def _describe(self) -> None:
        self._sentence.setToolTip("What is annotated on the Labels layer now.")
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)

    def _connect(self) -> None:
        self.image.chosen.connect(self._on_layer_chosen)
        self.labels.chosen.connect(self._on_layer_chosen)
        self._axis.activated.connect(self._on_axis_activated)
        self._slices.ticked.connect(self._timer.start)
        self._empty.marked.connect(self.look_again)
        self.others.ticked.connect(self.look_again)
        self.others.outdated.connect(self._timer.start)
        self.sparse.changed.connect(self._timer.start)
        self.sparse.painted_with.connect(self._on_painted_with)
        self.classes.changed.connect(self.look_again)
        self.classes.layer_added.connect(self.labels.choose)
        self._answers.answered.connect(self._on_reported)
        self._answers.failed.connect(self._on_failed)
        self._watch.changed.connect(self._timer.start)
        self._timer.timeout.connect(self.look_again)

    def _query(self) -> AnnotationQuery | str:
        """Give what to look at, or a sentence that says what is missing."""
        image, labels = self.image.layer(), self.labels.layer()
        self.others.look_again(image, labels)
        if image is None:
            return "Open an image: drop a file onto napari, or File > Open Sample."
        if labels is None:
            return (
                "Add a class, or a Labels layer (the third button above the layer "
                "list), and paint every structure on a few slices."
            )
        try:
            volume, mask = volume_of(image), labels_on(labels, image)
            others = self.others.ticked_labels()
        except MedsagaError as error:
            return str(error)
        shown = self._viewer.dims.order[0] - (self._viewer.dims.ndim - labels.ndim)
        return AnnotationQuery(
            number=self._number,
            image=volume,
            labels=mask,
            axis=self._axis.chosen_axis(),
            shown_axis=shown if labels.ndim == 3 and 0 <= shown < 3 else 0,
            unticked=self._slices.unticked(),
            empty=marked_slices(labels, image, "empty"),
            accepted=marked_slices(labels, image, "accepted"),
            background_value=self.sparse.background_value(),
            names=class_names(labels),
            prediction=prediction_of(labels),
            others=others,
        )

    def _on_layer_chosen(self, _: object = None) -> None:
        self._slices.forget()
        self._report = None
        self._number += 1  # what is being worked out is of other layers
        image, labels = self.image.layer(), self.labels.layer()
        self._rows.follow(image)
        self._watch.follow(image, labels)
        self._axis.follow(labels)
        self.sparse.set_predicted(prediction_of(labels) is not None)
        self._empty.follow(image, labels, None)
        self.classes.follow(image, labels)
        self._timer.start()

    def _on_axis_activated(self, _: int) -> None:
        self._slices.forget()
        self.look_again()

    def _on_painted_with(self, value: int) -> None:
        labels = self.labels.layer()
        if labels is not None:
            labels.selected_label, labels.mode = value, "paint"
            self._viewer.layers.selection.active = labels

    def _on_reported(self, report: AnnotationReport) -> None:
        if report.number == self._number:
            self._show(report, report.sentence)

    def _on_failed(self, error: Exception) -> None:
        self._show(None, f"The layers cannot be read: {error}")
        raise error  # napari shows it with its traceback

    def _show(self, report: AnnotationReport | None, sentence: str) -> None:
        self._report = report
        labels = self.labels.layer()
        counts = report.counts if report is not None and labels is not None else ()
        background = report.background if counts and report is not None else None
        rows = [*([] if background is None else [background]), *counts]
        warnings = [c.warning for c in rows if c.warning]
        warnings += report.doubts if report is not None else ()
        lines = [sentence, *warnings, self.others.describe()]
        self._sentence.setText("\n".join(filter(None, lines)))
        self.classes.show_counts(counts, background)
        self._slices.show_report(report, self.image.layer())
        self._empty.follow(self.image.layer(), labels, report)
        self.reported.emit(report)

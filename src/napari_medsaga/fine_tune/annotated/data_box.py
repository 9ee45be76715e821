"""The upper part of the Fine-tune dock: which layers train, and what is on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image, Labels
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QVBoxLayout,
    QWidget,
)

from medsaga import MedsagaError, TrainingData
from napari_medsaga.fine_tune.annotated.annotation import (
    AnnotationQuery,
    AnnotationReport,
    report_annotation,
)
from napari_medsaga.fine_tune.annotated.class_table import ClassTableView
from napari_medsaga.fine_tune.annotated.empty_slices import EmptySliceBox, empty_slices
from napari_medsaga.fine_tune.annotated.slice_list import SliceList
from napari_medsaga.fine_tune.annotated.sparse_form import SparseForm
from napari_medsaga.jobs.latest import LatestAnswer
from napari_medsaga.layers.convert import (
    class_colours,
    class_names,
    labels_on,
    rename_classes,
    volume_of,
)
from napari_medsaga.layers.layer_watch import LayerWatch
from napari_medsaga.layers.predictions import prediction_of
from napari_medsaga.widgets.convert_button import ConvertButton
from napari_medsaga.widgets.layer_choice import LayerChoice
from napari_medsaga.widgets.plain_text import make_plain_label

if TYPE_CHECKING:
    from napari import Viewer

    from medsaga import FineTuneSettings

_SETTLE_MS = 250


class DataBox(QWidget):
    """Image, Labels, the axis, the annotated slices and the classes on them."""

    reported = Signal(object)
    """Emits `(AnnotationReport or None)` when what is annotated has been looked at."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._report: AnnotationReport | None = None
        self._number = 0

        self.image = LayerChoice(viewer, Image)
        self.labels = LayerChoice(viewer, Labels)
        self._to_labels = ConvertButton(viewer, self.image)
        self._to_image = ConvertButton(viewer, self.labels)
        self._axis = QComboBox()
        self._sentence = make_plain_label("annotated")
        self._slices = SliceList(viewer)
        self._empty = EmptySliceBox(viewer)
        self.sparse = SparseForm()
        self._classes = ClassTableView()
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
        """Give the last report, None without layers."""
        return self._report

    def training_data(
        self, report: AnnotationReport, image: Image, labels: Labels
    ) -> TrainingData:
        """Give what trains: the ticked slices as they are, and those kept before."""
        slices = self._slices.ticked_slices()
        return TrainingData(
            volume_of(image),
            report.labels_of(slices),
            axis=report.axis,
            slices=slices,
            earlier=self._slices.ticked_earlier(),
            class_names=class_names(labels),
            class_colours=class_colours(labels, [c.value for c in report.counts]),
        )

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
        controls = (self.image, self.labels, self._to_labels, self._to_image)
        for control in (*controls, self._axis, self._slices, self.sparse):
            control.setEnabled(not running)
        self._empty.set_running(running)
        self._classes.set_editable(not running)
        if not running:
            self._enable_axis()

    def key(self) -> QWidget:
        """Give the table of the classes, which is the key to a plot of them."""
        return self._classes

    def disconnect_viewer(self) -> None:
        """Stop following the viewer and its layers."""
        self._timer.stop()
        self._watch.disconnect_viewer()
        self._empty.disconnect_viewer()
        self.image.disconnect_viewer()
        self.labels.disconnect_viewer()

    def _lay_out(self) -> None:
        rows = QFormLayout()
        for text, choice, button in (
            ("&Image", self.image, self._to_labels),
            ("La&bels", self.labels, self._to_image),
        ):
            row = QHBoxLayout()
            row.addWidget(choice, 1)
            row.addWidget(button)
            rows.addRow(self._labelled(text, choice), row)
        rows.addRow(self._labelled("&Slices along", self._axis), self._axis)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        layout.addWidget(self._sentence)
        layout.addWidget(self._slices)
        layout.addWidget(self._empty)
        layout.addWidget(self.sparse)
        layout.addWidget(self._classes)

    def _labelled(self, text: str, control: QWidget) -> QLabel:
        label = QLabel(text)
        label.setBuddy(control)
        label.setToolTip(control.toolTip())
        return label

    def _describe(self) -> None:
        self.image.setObjectName("image")
        self.image.setToolTip("The image layer that the model learns from.")
        self.labels.setObjectName("labels")
        self.labels.setToolTip(
            "The Labels layer with the painted slices; it is never written to. Choose "
            "a predicted layer to train on with your corrections of it."
        )
        self._to_labels.setObjectName("to_labels")
        self._to_labels.setText("→ Lab&els")
        self._to_labels.setToolTip("Turn the chosen image layer into a Labels layer.")
        self._to_image.setObjectName("to_image")
        self._to_image.setText("→ I&mage")
        self._to_image.setToolTip("Turn the chosen Labels layer into an image layer.")
        self._axis.setObjectName("axis")
        self._axis.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self._axis.setMinimumContentsLength(10)
        self._axis.setToolTip(
            "The axis that you painted across; by default the one with the fewest "
            "annotated slices."
        )
        self._sentence.setToolTip("What is annotated on the Labels layer now.")
        self._classes.setObjectName("classes")
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)

    def _connect(self) -> None:
        self.image.chosen.connect(self._on_layer_chosen)
        self.labels.chosen.connect(self._on_layer_chosen)
        self._axis.activated.connect(self._on_axis_activated)
        self._slices.ticked.connect(self._timer.start)
        self._empty.marked.connect(self.look_again)
        self.sparse.changed.connect(self._timer.start)
        self._classes.renamed.connect(self._on_class_renamed)
        self._answers.answered.connect(self._on_reported)
        self._answers.failed.connect(self._on_failed)
        self._watch.changed.connect(self._timer.start)
        self._timer.timeout.connect(self.look_again)

    def _query(self) -> AnnotationQuery | str:
        """Give what to look at, or a sentence that says what is missing."""
        image, labels = self.image.layer(), self.labels.layer()
        if image is None:
            return "Open an image: drop a file onto napari, or File > Open Sample."
        if labels is None:
            return (
                "Add a Labels layer (the third button above the layer list) and paint "
                "every structure on a few slices."
            )
        try:
            volume, mask = volume_of(image), labels_on(labels, image)
        except MedsagaError as error:
            return str(error)
        axis = self._axis.currentIndex() - 1
        shown = self._viewer.dims.order[0] - (self._viewer.dims.ndim - labels.ndim)
        return AnnotationQuery(
            number=self._number,
            image=volume,
            labels=mask,
            axis=axis if axis >= 0 and labels.ndim == 3 else None,
            shown_axis=shown if labels.ndim == 3 and 0 <= shown < 3 else 0,
            unticked=self._slices.unticked(),
            empty=empty_slices(labels, image),
            background_value=self.sparse.background_value(),
            names=class_names(labels),
            prediction=prediction_of(labels),
        )

    def _on_layer_chosen(self, _: object = None) -> None:
        self._slices.forget()
        self._number += 1  # what is being worked out is of other layers
        image, labels = self.image.layer(), self.labels.layer()
        self._watch.follow(image, labels)
        self._offer_axes(labels)
        self.sparse.set_predicted(prediction_of(labels) is not None)
        self._empty.follow(image, labels, None)
        self._timer.start()

    def _offer_axes(self, labels: Labels | None) -> None:
        self._axis.clear()
        self._axis.addItem("automatic")
        if labels is not None and labels.ndim == 3:
            names = enumerate(labels.axis_labels)
            self._axis.addItems([f"axis {i} ({name})" for i, name in names])
        predicted = prediction_of(labels)
        if predicted is not None and self._axis.count() > 1:
            self._axis.setCurrentIndex(predicted.axis + 1)
        self._enable_axis()

    def _enable_axis(self) -> None:
        """Let an axis be chosen, unless a prediction has been made along one."""
        is_free = prediction_of(self.labels.layer()) is None
        self._axis.setEnabled(self._axis.count() > 1 and is_free)

    def _on_axis_activated(self, _: int) -> None:
        self._slices.forget()
        self.look_again()

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
        self._sentence.setText("\n".join([sentence, *warnings]))
        colours = class_colours(labels, [c.value for c in rows]) if rows else {}
        self._classes.show_counts(counts, colours, background)
        self._slices.show_report(report, self.image.layer())
        self._empty.follow(self.image.layer(), labels, report)
        self.reported.emit(report)

    def _on_class_renamed(self, value: int, name: str) -> None:
        labels = self.labels.layer()
        if labels is not None and name:
            rename_classes(labels, {value: name})
        self._timer.start()

"""Fill: what is painted, brought to all slices without any training."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from medsaga import MedsagaError, propagate
from medsaga.events import Notice, SegmentedSlice
from medsaga.frontend import count, slice_place
from napari_medsaga.fine_tune.painting.keys import key_of
from napari_medsaga.fine_tune.under_way import class_table_of
from napari_medsaga.jobs.job import Job
from napari_medsaga.layers.convert import shape_of
from napari_medsaga.layers.label_classes import labels_options
from napari_medsaga.layers.place import geometry_of
from napari_medsaga.layers.plane import limits_shown
from napari_medsaga.layers.predictions import (
    Prediction,
    prediction_of,
    remember_prediction,
)
from napari_medsaga.layers.result_layer import ResultLayer
from napari_medsaga.widgets.plain_text import make_plain_label, show_error, tip

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Image, Labels

    from medsaga import Propagation, TrainingData
    from medsaga.events import Event, Stream
    from napari_medsaga.fine_tune.annotated.annotation import AnnotationReport
    from napari_medsaga.fine_tune.annotated.data_box import DataBox


_BUTTON, _BUTTON_OF_LIVE = "Fill between", "Suggest all"
_TIP = (
    "Carry what is painted to the other slices, along the image and without any "
    "training: seconds. The result is a layer of its own, which you can correct and "
    "fine-tune on. With Live on, what is learned from the paint is joined with it."
)


class _Filling:
    """One filling under way: its job, and the layer that it fills.

    With `learns` a head is fitted to the paint besides, strokes or whole slices.
    """

    def __init__(
        self,
        viewer: Viewer,
        image: Image,
        labels: Labels,
        report: AnnotationReport,
        data: TrainingData,
        *,
        learns: bool,
        background_value: int | None,
    ) -> None:
        self._image, self._axis = image, report.axis
        self._slices = data.slices or ()
        self._source = prediction_of(labels)
        self.said: list[str] = []
        self._painted = report.labels_of(self._slices)
        self.is_sparse = background_value is not None
        table = class_table_of(report, data.class_colours or {})
        options = geometry_of(image) | labels_options(table, labels)
        options |= {"name": f"{image.name} filled"}
        self.layer = ResultLayer(
            viewer, shape_of(image), table.dtype, report.axis, options
        )
        limits = limits_shown(image)  # as Live sees it
        carry = partial(_suggest, limits=limits) if learns else propagate
        stream = partial(
            carry,
            report.image,
            self._painted,
            axis=report.axis,
            slices=self._slices,
            background_value=background_value,
        )
        self.job = Job(stream, f"filling {image.name}", computes=learns)

    def show(self, event: Event) -> None:
        """Write a slice as it comes, and note what is said."""
        if isinstance(event, Notice):
            self.said.append(event.message)
        if isinstance(event, SegmentedSlice):
            self.layer.write(event.index, event.mask)
            self.layer.refresh()

    def finish(self) -> Labels | None:
        """Remember what was written, for corrections, and give the layer, if any."""
        self.layer.refresh(at_once=True)
        shown = self.layer.shown
        if shown is None:
            return None
        painted = self._painted.array
        trained = {
            index: painted[slice_place(self._axis, index)].copy()
            for index in (() if self.is_sparse else self._slices)
        }
        source = self._source
        prediction = Prediction(
            model=None if source is None else source.model,
            created="" if source is None else source.created,
            axis=self._axis,
            written=self.layer.written(),
            trained=trained,
            earlier={} if source is None else source.earlier,
            image=ref(self._image),
        )
        remember_prediction(shown, prediction)
        return shown


class FillBox(QWidget):
    """A button that carries the paint to the slices between, and what came of it.

    `check` refuses labels on another image than theirs.
    """

    ended = Signal()
    """Emitted when a filling is over."""

    def __init__(
        self,
        viewer: Viewer,
        data: DataBox,
        check: Callable[[Image, Labels], None],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._data, self._check = viewer, data, check
        self._filling: _Filling | None = None
        self._wants_start = self._learns = False
        self._key = key_of("fill")
        # Its place is among the buttons of the painting box.
        self.button = QPushButton()
        self.button.setObjectName("fill")
        self.button.setToolTip(_TIP)
        self.status = make_plain_label("filled")
        self.status.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.status)
        self.button.clicked.connect(self._on_clicked)
        data.reported.connect(self._on_reported)
        self._name_button()
        self._enable(None)

    def set_learning(self, on: bool) -> None:
        """Join what is carried with what is learned live, or no more."""
        self._learns = on
        self._name_button()
        self._enable(self._data.report())

    def _name_button(self) -> None:
        name = _BUTTON_OF_LIVE if self._learns else _BUTTON
        self.button.setText(f"{name} ({self._key})")

    def close_down(self) -> None:
        """Stop what is under way, as the dock is closed; the layer stays."""
        self._data.reported.disconnect(self._on_reported)
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.job.reported.disconnect(self._on_event)
            filling.job.ended.disconnect(self._on_ended)
            filling.job.stop()
            filling.finish()

    def _on_clicked(self) -> None:
        """Look at the layers once more: the last stroke may be a moment old."""
        self._wants_start = True
        self.button.setEnabled(False)
        self._data.look_again()

    def _on_reported(self, report: AnnotationReport | None) -> None:
        wanted, self._wants_start = self._wants_start, False
        self._enable(report)
        if wanted and report is not None and self.button.isEnabled():
            self._start(report)

    def _enable(self, report: AnnotationReport | None) -> None:
        can_fill = self._filling is None and report is not None and report.is_usable
        if can_fill and report is not None and not self._learns:
            is_sparse = self._data.sparse.background_value() is not None
            can_fill = not (report.image.is_2d or is_sparse)
        self.button.setEnabled(can_fill)

    def _start(self, report: AnnotationReport) -> None:
        image, labels = self._data.image_layer(), self._data.labels_layer()
        if image is None or labels is None:
            return
        try:
            self._check(image, labels)
        except MedsagaError as error:
            self._tell(str(error))
            show_error(str(error))
            return
        data = self._data.own_data(report, image, labels)
        filling = _Filling(
            self._viewer,
            image,
            labels,
            report,
            data,
            learns=self._learns,
            background_value=self._data.sparse.background_value(),
        )
        self._filling = filling
        self._enable(report)
        self._tell("Working out all slices from what is painted…")
        filling.job.reported.connect(self._on_event)
        filling.job.ended.connect(self._on_ended)
        filling.job.start()

    def _on_event(self, event: Event) -> None:
        if self._filling is not None:
            self._filling.show(event)

    def _on_ended(self, status: str, value: Any) -> None:
        filling, self._filling = self._filling, None
        self._enable(self._data.report())
        if filling is None:
            return
        layer = filling.finish()
        self.ended.emit()
        if status == "failed":
            self._fail(value)
        elif layer is not None and value is not None:
            self._tell(_describe(value, layer, is_sparse=filling.is_sparse))
            self.status.setToolTip(tip("\n".join(filling.said)))

    def _fail(self, error: Exception) -> None:
        self._tell(f"The paint could not be carried: {error}")
        if not isinstance(error, MedsagaError):
            raise error  # napari shows it with its traceback
        show_error(str(error))

    def _tell(self, sentence: str) -> None:
        self.status.setText(sentence)
        self.status.show()


def _suggest(*arguments: Any, **options: Any) -> Stream[Propagation]:
    """Load the engine in the thread: the dock opens without torch."""
    from medsaga import suggest

    return suggest(*arguments, **options)


def _describe(found: Propagation, layer: Labels, *, is_sparse: bool) -> str:
    n_slices = count(found.n_carried, "slice")
    if is_sparse:
        return (
            f"{n_slices} in {layer.name}. To train on strokes, go on to paint on their "
            "own layer, or correct whole slices of this one, which train without them."
        )
    return (
        f"{n_slices} in {layer.name}. To correct it, repaint slices of that layer; "
        "Fine-tune then learns from these and from what was painted."
    )

"""The layers that one training fills: a preview, which becomes the result."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

from medsaga.events import Event, Preview, SegmentedSlice
from medsaga.frontend import ClassTable
from napari_medsaga.fine_tune.training import TrainingResult
from napari_medsaga.layers.convert import geometry_of, labels_options, shape_of
from napari_medsaga.layers.predictions import Prediction, remember_prediction
from napari_medsaga.layers.result_layer import ResultLayer
from napari_medsaga.widgets.layer_choice import without_choice
from napari_medsaga.widgets.plain_text import show_error, show_info

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels

    from napari_medsaga.fine_tune.annotation import AnnotationReport
    from napari_medsaga.fine_tune.training import TrainingRequest
    from napari_medsaga.jobs.job import Job


class TrainingLayers:
    """Preview and result of a training, on its image as it was at the start.

    Parameters
    ----------
    viewer
        Where they are added.
    image, labels
        What the training learns from.
    report
        The classes on the labels.
    request
        The training.

    Attributes
    ----------
    request
        The training.
    preview, result
        The two layers, of which the second takes over the first.
    axis
        Across which the slices lie.
    previewed
        The slice that the preview shows, None before the first and after the last one.
    """

    def __init__(
        self,
        viewer: Viewer,
        image: Image,
        labels: Labels,
        report: AnnotationReport,
        request: TrainingRequest,
    ) -> None:
        table = _class_table(report, request)
        options = geometry_of(image) | labels_options(table, labels)
        shape, dtype, axis = shape_of(image), table.dtype, report.axis
        hidden = without_choice(options) | {"name": "MedSAGa preview"}
        shown = options | {"name": f"{image.name} segmented"}
        self.request, self._image = request, ref(image)
        self.axis = axis
        self.preview = ResultLayer(viewer, shape, dtype, axis, hidden)
        self.result = ResultLayer(viewer, shape, dtype, axis, shown)
        self.previewed: int | None = None

    def begin(self) -> None:
        """Add the preview: now, rather than while the model learns, for it takes long.

        It is for looking at only, until it has become the result.
        """
        self.preview.add().editable = False

    def show(self, event: Event) -> None:
        """Write what the engine has predicted."""
        if isinstance(event, Preview):
            self._clear_preview()
            self.previewed = event.slice_index
            self.preview.write(event.slice_index, event.mask)
            self.preview.refresh()
        elif isinstance(event, SegmentedSlice):
            if self._clear_preview():
                self.result.take_over(self.preview)
            self.result.write(event.index, event.mask)
            self.result.refresh()

    def _clear_preview(self) -> bool:
        """Empty the preview, and say whether there was one."""
        previewed, self.previewed = self.previewed, None
        if previewed is not None:
            self.preview.clear(previewed)
        return previewed is not None

    def end(self) -> None:
        """Take the preview away and show all of the result."""
        self.preview.remove()
        self.result.refresh(at_once=True)

    def abandon(self, job: Job) -> None:
        """Stop a training whose dock was closed, and say what was kept of it."""
        # A bound method would not keep the layers alive, and nobody else does any more.
        job.ended.connect(partial(_on_abandoned_ended, self))
        job.stop()
        self.end()

    def remember(self, trained: TrainingResult) -> Labels | None:
        """Remember what was written into the result, for corrections of it.

        Gives the layer, None where there is none any more.
        """
        layer, request = self.result.shown, self.request
        if layer is None:
            return None
        # Strokes stay strokes only as the model keeps them: in corrections of its
        # layer, what is not painted is background.
        own_slices = () if request.settings.sparse else request.data.slices or ()
        own = {request.image.slice_id(self.axis, i) for i in own_slices}
        prediction = Prediction(
            model=trained.model,
            created=trained.card.created,
            axis=self.axis,
            written=self.result.written(),
            trained={
                index: np.array(request.labels.slice(self.axis, index))
                for index in own_slices
            },
            earlier={},
            image=self._image,
        )
        remember_prediction(layer, prediction.with_earlier(own))
        return layer


def _on_abandoned_ended(layers: TrainingLayers, status: str, value: Any) -> None:
    if isinstance(value, TrainingResult):
        layers.remember(value)
    tell_what_was_kept(status, value)


def tell_what_was_kept(status: str, value: Any) -> None:
    """Say what became of a training whose dock was closed."""
    if isinstance(value, TrainingResult) and value.mask is not None:
        show_info(
            f"The dock was closed, so segmenting was stopped: {value.n_left} slices of "
            f"the mask are empty. The model is kept as {value.model.name}."
        )
    elif isinstance(value, TrainingResult):
        show_info(
            "The dock was closed, so the training was stopped: the best model so far "
            f"is kept as {value.model.name}."
        )
    elif status == "failed":
        show_error(str(value))


def _class_table(report: AnnotationReport, request: TrainingRequest) -> ClassTable:
    colours = request.data.class_colours or {}
    return ClassTable(
        values=(0, *(c.value for c in report.counts)),
        names=("background", *(c.name for c in report.counts)),
        colours=(None, *(colours.get(c.value) for c in report.counts)),
    )

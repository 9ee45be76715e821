"""The layers that one training fills: a preview, which becomes the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

from medsaga import ClassTable, Event, Preview, SegmentedSlice, slice_place
from napari_medsaga.layers.convert import (
    geometry_of,
    labels_options,
    shape_of,
    unused_name,
)
from napari_medsaga.layers.filling_layer import FillingLayer
from napari_medsaga.layers.predictions import Prediction, remember_prediction
from napari_medsaga.widgets.layer_choice import without_choice

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels
    from numpy.typing import NDArray

    from medsaga import Volume
    from napari_medsaga.fine_tune.annotation import AnnotationReport
    from napari_medsaga.fine_tune.training import TrainingRequest, TrainingResult


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
    preview, result
        The two layers, of which the second takes over the first.
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
        shape, dtype = shape_of(image), table.dtype
        name = unused_name(viewer, "MedSAGa preview")
        hidden = without_choice(options) | {"name": name}
        shown = options | {"name": unused_name(viewer, f"{image.name} segmented")}
        self._request, self._image = request, ref(image)
        self.preview = FillingLayer(viewer, shape, dtype, hidden)
        self.result = FillingLayer(viewer, shape, dtype, shown)
        self.previewed: int | None = None
        self._written: set[int] = set()

    def begin(self) -> None:
        """Add the preview: now, rather than while the model learns, for it takes long.

        It is for looking at only, until it has become the result.
        """
        self.preview.add().editable = False

    def show(self, event: Event) -> None:
        """Write what the engine has predicted."""
        if isinstance(event, Preview):
            if self.previewed is not None:
                self.preview.clear(event.axis, self.previewed)
            self.previewed = event.slice_index
            self.preview.write(event.axis, event.slice_index, event.mask)
        elif isinstance(event, SegmentedSlice):
            if self.previewed is not None:
                self.preview.clear(event.axis, self.previewed)
                self.result.take_over(self.preview)
                self.previewed = None
            self.result.write(event.axis, event.index, event.mask)
            self._written.add(event.index)

    def end(self) -> None:
        """Take the preview away and show all of the result."""
        self.preview.remove()
        self.result.finish()

    def remember(self, trained: TrainingResult) -> Labels | None:
        """Remember what was written into the result, for corrections of it.

        Gives the layer, None where there is none any more.
        """
        layer, request, mask = self.result.layer, self._request, trained.mask
        if layer is None or self.result.is_deleted or mask is None:
            return None
        # Strokes stay strokes only as the model keeps them: in corrections of its
        # layer, what is not painted is background.
        own_slices = () if request.settings.sparse else request.slices
        own = {(request.image.slice_name(i), i) for i in own_slices}
        prediction = Prediction(
            model=trained.model,
            created=trained.card.created,
            axis=request.axis,
            written=self._as_written(mask),
            trained={
                index: np.array(request.labels.slice(request.axis, index))
                for index in own_slices
            },
            earlier={},
            image=self._image,
        )
        remember_prediction(layer, prediction.with_earlier(own))
        return layer

    def _as_written(self, mask: Volume) -> NDArray[Any]:
        """Give the mask in the layer's axes, without slices that came too late."""
        array = mask.array
        late = set(range(array.shape[self._request.axis])) - self._written
        if late:
            array = array.copy()
        for index in late:
            array[slice_place(self._request.axis, index)] = 0
        return array[0] if mask.is_2d else array


def _class_table(report: AnnotationReport, request: TrainingRequest) -> ClassTable:
    return ClassTable(
        values=(0, *(c.value for c in report.counts)),
        names=("background", *(c.name for c in report.counts)),
        colours=(None, *(request.class_colours[c.value] for c in report.counts)),
    )

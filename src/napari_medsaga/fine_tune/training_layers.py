"""The layers that one training fills: a preview, which becomes the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

from medsaga.events import Event, Preview, SegmentedSlice
from napari_medsaga.fine_tune.training import TrainingResult
from napari_medsaga.layers.convert import geometry_of, labels_options, shape_of
from napari_medsaga.layers.predictions import (
    Prediction,
    prediction_of,
    remember_prediction,
    rounds_on,
)
from napari_medsaga.layers.result_layer import ResultLayer
from napari_medsaga.widgets.layer_choice import without_choice
from napari_medsaga.widgets.plain_text import show_error, show_info

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels

    from medsaga import Volume
    from medsaga.frontend import ClassTable

_DIMMED = 0.35  # of the opacity of an older result


class TrainingLayers:
    """Preview and result of a training, on its image as it was at the start.

    Parameters
    ----------
    viewer
        Where they are added.
    image, volume
        What is segmented: the layer, and the layer as the training has it.
    table, axis
        The classes, and the axis across which the slices lie.
    like
        The labels that the training learns from; colours that `table` has not are
        theirs.
    is_sparse
        Whether these are strokes.

    Attributes
    ----------
    preview, result
        The two layers, of which the second takes over the first.
    image, axis, is_sparse
        As given.
    previewed
        The slice that the preview shows, None before the first and after the last one.
    shows_model
        Whether a model has made a preview; the first one is carried paint.
    """

    def __init__(
        self,
        viewer: Viewer,
        image: Image,
        volume: Volume,
        table: ClassTable,
        axis: int,
        *,
        like: Labels | None = None,
        is_sparse: bool = False,
    ) -> None:
        options = geometry_of(image) | labels_options(table, like)
        shape, dtype = shape_of(image), table.dtype
        hidden = without_choice(options) | {"name": "MedSAGa preview"}
        shown = options | {"name": f"{image.name} segmented"}
        self.image, self._volume = image, volume
        self._rounds = rounds_on(viewer, image)
        self._viewer = viewer
        self._dimmed: list[tuple[ref[Labels], float]] = []
        self.axis, self.is_sparse = axis, is_sparse
        self.preview = ResultLayer(viewer, shape, dtype, axis, hidden)
        self.result = ResultLayer(viewer, shape, dtype, axis, shown)
        self.previewed: int | None = None
        self.shows_model = False

    def begin(self) -> None:
        """Add the preview: now, rather than while the model learns, for it takes long.

        It is for looking at only, until it has become the result.
        """
        preview = self.preview.add()
        preview.editable = False
        # An older result stays to be corrected, but must not be taken for the preview.
        for layer in self._older_results():
            self._dimmed.append((ref(layer), layer.opacity))
            layer.opacity *= _DIMMED

    def show(self, event: Event) -> None:
        """Write what the engine has predicted."""
        if isinstance(event, Preview):
            self._clear_preview()
            self.previewed = event.slice_index
            self.shows_model = self.shows_model or event.stage != "paint"
            self.preview.write(event.slice_index, event.mask)
            self.preview.refresh()
        elif isinstance(event, SegmentedSlice):
            if self.previewed is not None:
                self.result.take_over(self.preview)
                self.previewed = None
            self.result.write(event.index, event.mask)
            self.result.refresh()

    def _older_results(self) -> list[Labels]:
        found = []
        for layer in self._viewer.layers:
            prediction = prediction_of(layer)
            if prediction is not None and prediction.image() is self.image:
                found.append(layer)
        return found

    def _clear_preview(self) -> None:
        previewed, self.previewed = self.previewed, None
        if previewed is not None:
            self.preview.clear(previewed)

    def end(self) -> None:
        """Take the preview away and show all of the result."""
        self.preview.remove()
        self.result.drop_provisional()
        for known, opacity in self._dimmed:
            layer = known()
            if layer is not None:
                layer.opacity = opacity
        self._dimmed.clear()
        self.result.refresh(at_once=True)

    def remember(self, trained: TrainingResult) -> Labels | None:
        """Remember what was written into the result, for corrections of it.

        Gives the layer, None where there is none any more, or no model.
        """
        layer = self.result.shown
        if layer is None or trained.model is None:
            return None
        prediction = Prediction(
            model=trained.model,
            created=trained.card.created,
            axis=self.axis,
            written=self.result.written(),
            trained={},
            earlier={},
            image=ref(self.image),
            rounds=(*self._rounds, trained.round),
            advice=trained.advice,
        ).with_kept_slices(None if self.is_sparse else self._volume.fingerprint)
        remember_prediction(layer, prediction)
        return layer


def tell_what_was_kept(status: str, value: Any) -> None:
    """Say what became of a training whose dock was closed."""
    if isinstance(value, TrainingResult) and value.mask is not None:
        show_info(
            f"The dock was closed, so segmenting was stopped: {value.n_left} slices of "
            f"the mask are empty. {value.where}"
        )
    elif isinstance(value, TrainingResult):
        show_info(
            "The dock was closed, so the training was stopped. Of the best model so "
            f"far: {value.where}"
        )
    elif status == "failed":
        show_error(str(value))
    else:
        show_info("The dock was closed before the training had learned anything.")

"""Which image and Labels layer belong together, and which of them is meant now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

from napari.layers import Labels
from qtpy.QtCore import QObject

from medsaga import MedsagaError
from napari_medsaga.layers.predictions import prediction_of
from napari_medsaga.widgets.layer_choice import is_offered

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Image

    from napari_medsaga.fine_tune.annotated.annotation import AnnotationReport
    from napari_medsaga.fine_tune.annotated.data_box import DataBox
    from napari_medsaga.layers.predictions import Prediction


class LayerFollower(QObject):
    """Chooses the layer that is painted on, and the image that it belongs to.

    What was painted on one image would train silently on another of its shape.

    Parameters
    ----------
    viewer
        Whose Labels layers are followed.
    data
        Where layers are chosen.
    is_busy
        Whether a training has begun, whose layers stay chosen.
    parent
        Qt parent.
    """

    def __init__(
        self,
        viewer: Viewer,
        data: DataBox,
        is_busy: Callable[[], bool],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._data, self._is_busy = viewer, data, is_busy
        self._followed: list[Labels] = []
        self._prediction: Prediction | None = None
        self._picked: ref[Image] | None = None
        data.labels.chosen.connect(self._on_labels_chosen)
        data.image.activated.connect(self._on_image_picked)
        data.reported.connect(self._on_reported)
        viewer.layers.events.inserted.connect(self._on_layers_changed)
        viewer.layers.events.removed.connect(self._on_layers_changed)
        self._on_layers_changed()
        self._on_labels_chosen(data.labels_layer())

    def check(self, image: Image, labels: Labels) -> None:
        """Refuse corrections on another image than theirs, unless the user chose it.

        Raises
        ------
        MedsagaError
            If that is so.
        """
        prediction = prediction_of(labels)
        is_its_own = prediction is None or prediction.image() is image
        if is_its_own or self._is_picked():
            return
        raise MedsagaError(
            f"{labels.name} was not predicted on {image.name}: choose the image that "
            "it belongs to under Image."
        )

    def disconnect_viewer(self) -> None:
        """Stop following the viewer and its layers."""
        self._viewer.layers.events.inserted.disconnect(self._on_layers_changed)
        self._viewer.layers.events.removed.disconnect(self._on_layers_changed)
        self._unfollow()

    def _on_layers_changed(self, _: object = None) -> None:
        self._unfollow()
        self._followed = [x for x in self._viewer.layers if isinstance(x, Labels)]
        for layer in self._followed:
            layer.events.paint.connect(self._on_painted)
            layer.events.metadata.connect(self._on_metadata_changed)

    def _unfollow(self) -> None:
        for layer in self._followed:
            layer.events.paint.disconnect(self._on_painted)
            layer.events.metadata.disconnect(self._on_metadata_changed)
        self._followed.clear()

    def _on_labels_chosen(self, labels: Labels | None) -> None:
        self._prediction = prediction_of(labels)
        if self._prediction is not None:
            image = self._prediction.image()
        else:
            is_open = labels is not None and not self._is_picked()
            image = self._data.images.find(labels) if is_open else None
        if image is not None and image in self._viewer.layers:
            self._picked = None
            self._data.image.choose(image)

    def _is_picked(self) -> bool:
        """Whether the user has chosen the image, and nothing another one since."""
        picked = None if self._picked is None else self._picked()
        return picked is not None and picked is self._data.image_layer()

    def _on_image_picked(self, _: int) -> None:
        image = self._data.image_layer()
        self._picked = None if image is None else ref(image)

    def _on_reported(self, report: AnnotationReport | None) -> None:
        """Remember the image of a hand-made layer, to come back to it."""
        image, labels = self._data.image_layer(), self._data.labels_layer()
        if report is None or image is None or labels is None:
            return
        if report.is_usable and prediction_of(labels) is None:
            self._data.images.remember(labels, image)

    def _on_painted(self, event: Any) -> None:
        """Train with the layer that is painted on, and the image it belongs to."""
        chosen, painted = self._data.labels_layer(), event.source
        if painted is chosen or self._is_busy() or not is_offered(painted):
            return
        images = self._data.images
        if images.known(painted) is None and prediction_of(painted) is None:
            image = images.below(painted)
            if image is not None:
                images.remember(painted, image)
                self._picked = None
        self._data.labels.choose(painted)

    def _on_metadata_changed(self, event: Any) -> None:
        """Notice that a layer has become a prediction; it may be painted on already."""
        layer, prediction = event.source, prediction_of(event.source)
        if prediction is None or self._is_busy():
            return
        if layer is not self._data.labels_layer():
            if prediction.changed_slices(layer.data):
                self._data.labels.choose(layer)
        elif prediction is not self._prediction:
            self._data.labels.chosen.emit(layer)

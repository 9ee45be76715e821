"""A combo box of the viewer's layers that follows what is added, renamed, deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QWidget

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

_NOT_OFFERED = "medsaga_not_offered"


def without_choice(options: dict[str, Any]) -> dict[str, Any]:
    """Add to a layer's keyword arguments that no choice is to offer it."""
    metadata = options.get("metadata", {}) | {_NOT_OFFERED: True}
    return options | {"metadata": metadata}


def is_offered(layer: Layer) -> bool:
    """Whether a layer is one to choose, rather than one that shows what goes on."""
    return not layer.metadata.get(_NOT_OFFERED)


class LayerChoice(QComboBox):
    """Offers the layers of one type.

    Parameters
    ----------
    viewer
        The viewer whose layers are offered.
    layer_type
        ``napari.layers.Image`` or ``napari.layers.Labels``.
    parent
        Qt parent.
    """

    chosen = Signal(object)
    """Emits the layer, or None, whenever it is another than before."""

    def __init__(
        self, viewer: Viewer, layer_type: type[Layer], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer, self._layer_type = viewer, layer_type
        self._followed: list[Layer] = []
        self._layers: list[Layer] = []
        self._chosen: Layer | None = None
        self.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.setMinimumContentsLength(10)
        events = viewer.layers.events
        for emitter in (events.inserted, events.removed, events.reordered):
            emitter.connect(self._on_layers_changed)
        self.currentIndexChanged.connect(self._on_index_changed)
        self._on_layers_changed()

    def layer(self) -> Any:
        """Give the chosen layer, or None where there is none."""
        return self._chosen

    def choose(self, layer: Layer) -> None:
        """Choose a layer, if it is offered."""
        if layer in self._layers:
            self.setCurrentIndex(self._layers.index(layer))

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        events = self._viewer.layers.events
        for emitter in (events.inserted, events.removed, events.reordered):
            emitter.disconnect(self._on_layers_changed)
        for layer in self._followed:
            layer.events.name.disconnect(self._on_layers_changed)

    def _on_layers_changed(self, _: object = None) -> None:
        for layer in self._followed:
            layer.events.name.disconnect(self._on_layers_changed)
        self._followed = [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, self._layer_type)
        ]
        for layer in self._followed:
            layer.events.name.connect(self._on_layers_changed)
        self._layers = [layer for layer in self._followed if is_offered(layer)]
        chosen = self._chosen
        was_blocked = self.blockSignals(True)
        self.clear()
        self.addItems([layer.name for layer in self._layers])
        if chosen in self._layers:
            self.setCurrentIndex(self._layers.index(chosen))
        self.blockSignals(was_blocked)
        self._on_index_changed(self.currentIndex())

    def _on_index_changed(self, index: int) -> None:
        layer = self._layers[index] if 0 <= index < len(self._layers) else None
        if layer is not self._chosen:
            self._chosen = layer
            self.chosen.emit(layer)

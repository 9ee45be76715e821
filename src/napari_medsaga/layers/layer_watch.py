"""Notices that what is on some layers has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari import Viewer
    from napari.layers import Image, Labels, Layer

# An undone stroke is told by `set_data` alone.
_LABEL_EVENTS = ("paint", "data", "features", "colormap", "set_data")


class LayerWatch(QObject):
    """Watches an image and what is painted on it.

    Parameters
    ----------
    viewer
        Where the layers are looked at.
    parent
        Qt parent.
    """

    changed = Signal()
    """Emitted at each stroke, and when the image gets other pixels."""

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._watched: list[tuple[Layer, str]] = []
        self._view: Any = None

    def follow(self, image: Image | None, labels: Labels | None) -> None:
        """Watch these layers, and no others any more."""
        self.disconnect_viewer()
        self._view = self._view_now()
        self._watch(image, ("data",))
        self._watch(labels, _LABEL_EVENTS)

    def disconnect_viewer(self) -> None:
        """Watch no layer any more."""
        for layer, name in self._watched:
            layer.events[name].disconnect(self._on_layer_changed)
        self._watched.clear()

    def _watch(self, layer: Layer | None, names: Sequence[str]) -> None:
        for name in names:
            if layer is not None and name in layer.events.emitters:
                layer.events[name].connect(self._on_layer_changed)
                self._watched.append((layer, name))

    def _on_layer_changed(self, event: Any) -> None:
        before, self._view = self._view, self._view_now()
        has_moved = self._view != before
        # It is also sent for each slice that is scrolled to, and a look takes a while.
        if event.type != "set_data" or not has_moved:
            self.changed.emit()

    def _view_now(self) -> Any:
        dims = self._viewer.dims
        return dims.current_step, dims.order, dims.ndisplay

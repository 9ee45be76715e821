"""Boxes and clicks on the canvas: a layer to point on, over the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import QObject, QTimer, Signal

from napari_medsaga.layers.convert import unused_name
from napari_medsaga.layers.place import geometry_of
from napari_medsaga.layers.plane import Plane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari import Viewer
    from napari.layers import Image, Layer

# Pixels of the screen by which a drag is more than a click with a shaking hand.
_FEWEST_DRAGGED = 4
_LEFT = 1
_NAME = "prompts"
_EDGE = "#00ffcc"


class Pointer(QObject):
    """Takes boxes and clicks on an image while its layer is the active one.

    Parameters
    ----------
    viewer
        The viewer.
    parent
        Qt parent.
    """

    boxed = Signal(object, object)
    """Emits `(Plane, (top, left, bottom, right))` in pixels of the slice."""
    clicked = Signal(object, object)
    """Emits `(Plane, (row, column, whether it adds))`."""
    switched = Signal(bool)
    """Emits whether boxes and clicks are taken now."""

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._image: Image | None = None
        self._before: Layer | None = None
        self.layer: Shapes | None = None
        self.takes_away = False
        # Later: napari deletes several layers one after the other, and must not find
        # that another one is gone in the meantime.
        self._ending = QTimer(self)
        self._ending.setSingleShot(True)
        self._ending.timeout.connect(self.end)
        viewer.layers.selection.events.active.connect(self._on_active_changed)
        viewer.layers.events.removed.connect(self._on_removed)

    @property
    def is_on(self) -> bool:
        """Whether boxes and clicks are taken."""
        return self.layer is not None

    def begin(self, image: Image) -> Shapes:
        """Take boxes and clicks on an image from now on."""
        self.end()
        active = self._viewer.layers.selection.active
        self._image, self._before = image, active
        layer = Shapes(
            ndim=image.ndim,
            name=unused_name(self._viewer, _NAME),
            edge_color=_EDGE,
            face_color="transparent",
            edge_width=self._edge_width(image),
            **geometry_of(image),
        )
        layer.mouse_drag_callbacks.append(self._on_drag)
        layer.mouse_pan = False
        self._viewer.add_layer(layer)
        self._viewer.layers.selection.active = layer
        self.layer = layer
        self.switched.emit(True)
        return layer

    def end(self) -> None:
        """Take no more boxes and clicks; what was active before is so again."""
        layer, self.layer = self.layer, None
        if layer is None:
            return
        was_active = self._viewer.layers.selection.active == layer
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)
        if was_active and self._before in self._viewer.layers:
            self._viewer.layers.selection.active = self._before
        self._image = self._before = None
        self.switched.emit(False)

    def clear(self) -> None:
        """Take the drawn box away."""
        if self.layer is not None:
            self.layer.data = []

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        self.end()
        selection = self._viewer.layers.selection.events
        selection.active.disconnect(self._on_active_changed)
        self._viewer.layers.events.removed.disconnect(self._on_removed)

    def _on_active_changed(self, _: object = None) -> None:
        """Another layer is worked on: the pointer is put away."""
        active = self._viewer.layers.selection.active
        # Not `is`: what a dock is given of the viewer are proxies.
        if self.layer is not None and active is not None and active != self.layer:
            self._before = active
            self.end()

    def _on_removed(self, _: object = None) -> None:
        gone = self.layer is not None and self.layer not in self._viewer.layers
        if gone or (self._image is not None and self._image not in self._viewer.layers):
            self._ending.start(0)

    def _on_drag(self, layer: Shapes, event: Any) -> Iterator[None]:
        """Follow the mouse from its press to its release."""
        image = self._image
        plane = None if image is None else Plane.shown(self._viewer, image)
        if image is None or plane is None or event.button != _LEFT:
            return
        pressed, start = np.array(event.pos), event.position
        takes_away = self.takes_away or "Control" in event.modifiers
        first = plane.position(self._viewer, image, start)
        is_drag = False
        yield
        while event.type == "mouse_move":
            moved = np.abs(np.array(event.pos) - pressed).max()
            is_drag = is_drag or moved >= _FEWEST_DRAGGED
            if is_drag:
                last = plane.position(self._viewer, image, event.position)
                self._draw(layer, image, plane, first, last)
            yield
        if is_drag:
            last = plane.position(self._viewer, image, event.position)
            rows, columns = sorted((first[0], last[0])), sorted((first[1], last[1]))
            self.boxed.emit(plane, (rows[0], columns[0], rows[1], columns[1]))
        else:
            self.clicked.emit(plane, (*first, not takes_away))

    def _draw(
        self,
        layer: Shapes,
        image: Image,
        plane: Plane,
        first: tuple[float, float],
        last: tuple[float, float],
    ) -> None:
        (top, left), (bottom, right) = first, last
        corners = np.array([(top, left), (top, right), (bottom, right), (bottom, left)])
        layer.data = [(plane.outline(image, corners), "rectangle")]

    def _edge_width(self, image: Image) -> float:
        """Give a width of two pixels of the screen, in the layer's data."""
        finest = min(abs(float(side)) for side in image.scale)
        # napari 0.9 has the camera in the scene.
        camera = getattr(self._viewer, "scene", self._viewer).camera
        return 2.0 / max(1e-6, float(camera.zoom) * finest)

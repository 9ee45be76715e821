"""A button that turns the chosen layer into one of the other kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image
from qtpy.QtWidgets import QPushButton, QWidget

from medsaga import MedsagaError
from napari_medsaga.layers.convert import as_image, as_labels
from napari_medsaga.widgets.plain_text import show_error

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

    from napari_medsaga.widgets.layer_choice import LayerChoice


class ConvertButton(QPushButton):
    """Puts a Labels layer in the place of an image layer, or the reverse."""

    def __init__(
        self, viewer: Viewer, choice: LayerChoice, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._choice = choice
        self.clicked.connect(self._on_clicked)

    def _on_clicked(self) -> None:
        layer: Layer | None = self._choice.layer()
        if layer is None:
            return
        if getattr(layer, "locked", False):  # earlier versions know no locks
            show_error(f"{layer.name} is locked: unlock it, and click again.")
            return
        convert = as_labels if isinstance(layer, Image) else as_image
        try:
            data, options, kind = convert(layer)
        except MedsagaError as error:
            show_error(str(error))
            return
        layers = self._viewer.layers
        place = layers.index(layer)
        made = getattr(self._viewer, f"add_{kind}")(data, **options)
        layers.remove(layer)
        made.name = options["name"]
        layers.move(layers.index(made), place)

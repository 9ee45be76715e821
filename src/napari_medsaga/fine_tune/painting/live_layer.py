"""The layer that live suggestions are seen in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_medsaga.layers.convert import array_of, geometry_of, shape_of
from napari_medsaga.layers.result_layer import ResultLayer
from napari_medsaga.widgets.layer_choice import without_choice

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels

    from napari_medsaga.fine_tune.painting.live_session import LiveAnswer

_OUTLINE = 1  # pixels wide: what is below stays in sight


class LiveLayer:
    """Shows what is suggested for single slices, as outlines.

    Parameters
    ----------
    viewer
        Where the layer is added.
    image
        What it lies on.
    labels
        Whose colours and names it has.
    axis
        Across which the slices lie.

    Attributes
    ----------
    shown
        The slices that are suggested now.
    n_fits
        What has learned them; see :class:`LiveAnswer`.
    """

    def __init__(self, viewer: Viewer, image: Image, labels: Labels, axis: int) -> None:
        options = geometry_of(image) | {
            "name": f"{image.name} live",
            "colormap": labels.colormap,
            "features": labels.features,
        }
        dtype = array_of(labels).dtype
        self._layer = ResultLayer(
            viewer, shape_of(image), dtype, axis, without_choice(options)
        )
        added = self._layer.add()
        added.contour, added.editable = _OUTLINE, False
        self.shown: set[int] = set()
        self.n_fits = 0

    @property
    def is_gone(self) -> bool:
        """Whether the user has deleted it."""
        return self._layer.is_gone

    def show(self, answer: LiveAnswer, labels: Labels) -> None:
        """Show a slice, and take away what something has suggested that knew less."""
        index = answer.query.index
        outdated = {index}
        if answer.mask is None or answer.n_fits != self.n_fits:
            outdated |= self.shown
        for one in outdated:
            self._layer.clear(one)
        self.shown -= outdated
        self.n_fits = answer.n_fits
        if answer.mask is not None:
            self._layer.write(index, answer.mask)
            self.shown.add(index)
        layer = self._layer.shown
        if layer is not None and layer.colormap is not labels.colormap:
            layer.colormap = labels.colormap
        self._layer.refresh(at_once=True)

    def remove(self) -> None:
        """Take it out of the viewer."""
        self._layer.remove()

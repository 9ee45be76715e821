"""Which image a Labels layer was painted on."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from napari.layers import Image, Labels

from napari_medsaga.layers.convert import lies_on
from napari_medsaga.layers.predictions import prediction_of
from napari_medsaga.widgets.layer_choice import is_offered

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer


class ImagesOfLabels:
    """Remembers the images of Labels layers, and finds those that are not known.

    Parameters
    ----------
    viewer
        Whose layers they are.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._known: WeakKeyDictionary[Labels, ref[Image]] = WeakKeyDictionary()

    def remember(self, labels: Labels, image: Image) -> None:
        """Remember the image of a layer."""
        self._known[labels] = ref(image)

    def known(self, labels: Labels | None) -> Image | None:
        """Give the image that was remembered, if it is still there."""
        found = None if labels is None else self._known.get(labels)
        image = None if found is None else found()
        return image if image in self._viewer.layers else None

    def find(self, labels: Labels) -> Image | None:
        """Give the remembered image, or the one that the layer can only belong to.

        Where several images lie on its grid, that is the one at the same place among
        these as the layer has among the Labels layers of the grid, if they are as many;
        else the one right under it, unless another one lies under that. None where it
        is not clear.
        """
        known = self.known(labels)
        layers = self._viewer.layers
        if known is not None or labels not in layers:
            return known
        images = self._images_of(labels)
        if len(images) < 2:
            return images[0] if images else None
        peers = [
            layer
            for layer in layers
            if is_painted_on(layer) and self._images_of(layer) == images
        ]
        if len(peers) == len(images) and labels in peers:
            return images[peers.index(labels)]
        place = layers.index(labels)
        under = layers[place - 1] if place else None
        lower = layers[place - 2] if place > 1 else None
        return under if under in images and lower not in images else None

    def below(self, labels: Labels) -> Image | None:
        """Give what is found, or else the next image of its grid under the layer."""
        found = self.find(labels)
        images = self._images_of(labels)
        if found is not None or not images:
            return found
        layers = self._viewer.layers
        place = layers.index(labels) if labels in layers else 0
        under = [image for image in images if layers.index(image) < place]
        return under[-1] if under else images[0]

    def _images_of(self, labels: Labels) -> list[Image]:
        """Give the images that a layer lies on, from the lowest."""
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Image)
            and is_offered(layer)
            and layer.ndim == labels.ndim
            and lies_on(labels, layer)
        ]


def is_painted_on(layer: Layer) -> bool:
    """Whether a layer is one to paint on, rather than one that something wrote."""
    is_labels = isinstance(layer, Labels) and is_offered(layer)
    return is_labels and prediction_of(layer) is None

"""The layers that the segmentation of one image fills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import Colormap

from napari_medsaga.layers.convert import (
    array_of,
    geometry_of,
    labels_options,
    lies_on,
    shape_of,
    unused_name,
)
from napari_medsaga.layers.predictions import Prediction, remember_prediction
from napari_medsaga.layers.result_layer import ResultLayer
from napari_medsaga.widgets.layer_choice import without_choice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari import Viewer
    from napari.layers import Layer
    from numpy.typing import NDArray

    from medsaga import Segmentation
    from medsaga.events import SegmentedSlice
    from medsaga.frontend import LibraryEntry


class ImageResult:
    """A mask exactly on an image, and what it was made from.

    It lies where the image is when this is made.

    Parameters
    ----------
    viewer
        Where its layers are added.
    image
        The image layer.
    model
        What segments it; with a card.

    Attributes
    ----------
    mask
        The layer of the mask.
    """

    def __init__(self, viewer: Viewer, image: Image, model: LibraryEntry) -> None:
        assert model.card is not None
        self._viewer, self._model, self._card = viewer, model, model.card
        self._image, self._array = ref(image), array_of(image)
        self._geometry = geometry_of(image)
        self._ndim = image.ndim
        self._axis = self._card.axis if image.ndim == 3 else 0
        options = self._geometry | labels_options(self._card.classes)
        options |= {"name": f"{image.name} – {model.name}"}
        self.mask = ResultLayer(
            viewer, shape_of(image), self._card.classes.dtype, self._axis, options
        )

    def fits(self, image: Layer, model: LibraryEntry) -> bool:
        """Whether this can go on: the image, its place and the model are the same."""
        layer = self.mask.shown
        is_same = (model.path, model.created) == (self._model.path, self._model.created)
        return (
            layer is not None
            and is_same
            and self.is_of(image)
            and lies_on(layer, image)
        )

    def is_of(self, image: Layer) -> bool:
        """Whether the image still has the array that is segmented."""
        return array_of(image) is self._array

    def write(self, done: SegmentedSlice) -> None:
        """Write a slice of the mask."""
        self.mask.write(done.index, done.mask)

    def finish(self, found: Segmentation) -> None:
        """Show the final mask, and remember what was predicted, for corrections."""
        mask = found.mask
        self.mask.replace(mask.array[0] if mask.is_2d else mask.array)
        self.leave()

    def leave(self) -> None:
        """Remember what was predicted so far: no more comes."""
        self.mask.refresh(at_once=True)
        layer = self.mask.shown
        if layer is None:
            return
        prediction = Prediction(
            model=self._model.path,
            created=self._card.created,
            axis=self._axis,
            written=self.mask.written(),
            trained={},
            earlier={},
            image=self._image,
        )
        remember_prediction(layer, prediction.with_kept_slices())

    def maps(self, found: Segmentation) -> Iterator[tuple[Image, Labels]]:
        """Make the layers of probabilities and entropy, and what they go under.

        They are hidden: seen on top of each other they would only confuse.
        """
        layer = self.mask.shown
        if layer is None:
            return
        table, name = self._card.classes, layer.name
        # Asking the colormap to map the values would compile it: half a second.
        # Of the layer the user may have shuffled them.
        colormap = labels_options(table)["colormap"]
        colours = {**colormap.color_dict, 0: "white"}
        # Each goes right under the mask, so that the last made comes first.
        if found.entropy is not None:
            yield self._map(found.entropy.array, f"{name}: entropy", "magma"), layer
        chances = () if found.probabilities is None else found.probabilities
        for value, label, chance in reversed(
            list(zip(table.values, table.names, chances, strict=False))
        ):
            shades = Colormap(["black", colours[value]])
            yield self._map(chance, f"{name}: {label}", shades), layer

    def _map(self, array: NDArray[np.floating], name: str, colormap: Any) -> Image:
        # A 2-D image was segmented as a stack of one slice.
        flat = array[0] if array.ndim > self._ndim else array
        return Image(
            flat.astype(np.float32, copy=False),  # napari shows no half precision
            name=unused_name(self._viewer, name),
            colormap=colormap,
            contrast_limits=(0.0, 1.0),
            blending="additive",
            visible=False,
            **without_choice(self._geometry),
        )

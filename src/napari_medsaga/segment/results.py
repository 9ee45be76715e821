"""The layers that the segmentation of one image fills."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import Colormap

from medsaga import slice_place
from napari_medsaga.layers.convert import (
    array_of,
    geometry_of,
    labels_options,
    lies_on,
    slice_shown,
    unused_name,
)
from napari_medsaga.layers.filling_layer import add_quietly
from napari_medsaga.layers.predictions import Prediction, remember_prediction
from napari_medsaga.widgets.layer_choice import without_choice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari import Viewer
    from napari.layers import Layer
    from numpy.typing import NDArray

    from medsaga import LibraryEntry, ModelCard, SegmentedSlice, Volume
    from napari_medsaga.segment.queue import ItemDone

# A refresh in three dimensions uploads the whole volume to the graphics card.
_SECONDS_BETWEEN_REFRESHES_IN_3D = 1.0


class ResultLayer:
    """A Labels layer exactly on an image, added with the first slice.

    It lies where the image is when this is made, has that shape, and is not added again
    once the user has deleted it.

    Parameters
    ----------
    viewer
        Where it is added.
    image
        The image layer.
    volume
        The same as a volume.
    model
        What segments it; with a card.
    """

    def __init__(
        self, viewer: Viewer, image: Image, volume: Volume, model: LibraryEntry
    ) -> None:
        self._viewer, self._model = viewer, model
        self._image = ref(image)
        self._image_array = array_of(image)
        self._shape, self._is_2d = volume.shape, volume.is_2d
        self._name = f"{image.name} – {model.name}"
        self._geometry = geometry_of(image)
        self._layer: Labels | None = None
        self._array: NDArray[np.integer] | None = None
        self._data: NDArray[np.integer] | None = None
        self._written: dict[int, NDArray[np.integer]] = {}
        self._is_stale = False
        self._last_refresh = 0.0

    @property
    def shown_name(self) -> str | None:
        """Name of the layer; None where there is none, or none of ours any more."""
        return None if self._layer is None or self.is_gone else self._layer.name

    @property
    def is_gone(self) -> bool:
        """Whether the user has deleted the layer, or put other data into it."""
        if self._layer is None:
            return False
        is_ours = self._layer.data is self._data
        return self._layer not in self._viewer.layers or not is_ours

    def fits(self, image: Layer, model: LibraryEntry) -> bool:
        """Whether this can go on: the image, its place and the model are the same."""
        if array_of(image) is not self._image_array or self.is_gone:
            return False
        if (model.path, model.created) != (self._model.path, self._model.created):
            return False
        return self._layer is not None and lies_on(self._layer, image)

    def is_of(self, image: Layer) -> bool:
        """Whether the image still has the array that is segmented."""
        return array_of(image) is self._image_array

    def write(self, done: SegmentedSlice) -> None:
        """Write a slice that has not been written before.

        What the user has painted on it in the meantime stays.
        """
        if self.is_gone or done.index in self._written:
            return
        array = self._add(done.mask.dtype)
        self._written[done.index] = done.mask
        target = array[slice_place(done.axis, done.index)]
        np.copyto(target, done.mask, where=target == 0)
        self._is_stale = self._is_stale or self._is_shown(done.axis, done.index)

    def refresh(self, *, at_once: bool = False) -> None:
        """Show what has been written, unless that is not seen or was just done."""
        if self._layer is None or not self._is_stale or self.is_gone:
            return
        waits = _SECONDS_BETWEEN_REFRESHES_IN_3D
        is_soon = time.monotonic() - self._last_refresh < waits
        if self._viewer.dims.ndisplay == 3 and is_soon and not at_once:
            return
        self._layer.refresh()
        self._is_stale = False
        self._last_refresh = time.monotonic()

    def finish(self, mask: Volume) -> None:
        """Show the final mask, and remember what was predicted, for corrections."""
        if self._layer is None or self.is_gone:
            return
        self._replace_slices(mask)
        self.refresh(at_once=True)
        self._remember(self._flat(mask.array))

    def leave(self) -> None:
        """Remember what was predicted so far: no more comes."""
        self.refresh(at_once=True)
        if self._array is None or self.is_gone:
            return
        written = np.zeros_like(self._array)
        for index, mask in self._written.items():
            written[slice_place(self._axis, index)] = mask
        self._remember(self._flat(written))

    def _remember(self, written: NDArray[np.integer]) -> None:
        assert self._layer is not None
        prediction = Prediction(
            model=self._model.path,
            created=self._card.created,
            axis=self._axis,
            written=written,
            trained={},
            earlier={},
            image=self._image,
        )
        remember_prediction(self._layer, prediction.with_earlier())

    def _replace_slices(self, mask: Volume) -> None:
        """Put the mask in the place of the slices that it was before vote and cleaning.

        What the user has made otherwise in the meantime stays.
        """
        assert self._array is not None
        for index, before in self._written.items():
            place = slice_place(self._axis, index)
            shown, final = self._array[place], mask.array[place]
            if not np.array_equal(before, final):
                np.copyto(shown, final, where=shown == before)
                self._is_stale = True
        self._written.clear()

    def maps(self, done: ItemDone) -> Iterator[tuple[Image, Labels]]:
        """Make the layers of probabilities and entropy, and what they go under.

        They are hidden: seen on top of each other they would only confuse.
        """
        if self._layer is None or self.is_gone:
            return
        table, name = self._card.classes, self._layer.name
        # Asking the colormap to map the values would compile it: half a second.
        # Of the layer the user may have shuffled them.
        colormap = labels_options(table)["colormap"]
        colours = {**colormap.color_dict, 0: "white"}
        # Each goes right under the mask, so that the last made comes first.
        if done.entropy is not None:
            yield self._map(done.entropy, f"{name}: entropy", "magma"), self._layer
        for value, label, array in reversed(
            list(zip(table.values, table.names, done.probabilities, strict=False))
        ):
            shades = Colormap(["black", colours[value]])
            yield self._map(array, f"{name}: {label}", shades), self._layer

    @property
    def _axis(self) -> int:
        return 0 if self._is_2d else self._card.axis

    @property
    def _card(self) -> ModelCard:
        assert self._model.card is not None
        return self._model.card

    def _add(self, dtype: np.dtype[Any]) -> NDArray[np.integer]:
        if self._array is None:
            self._array = np.zeros(self._shape, dtype)
            self._layer = Labels(
                self._flat(self._array),
                name=unused_name(self._viewer, self._name),
                **self._geometry,
                **labels_options(self._card.classes),
            )
            self._data = self._layer.data
            add_quietly(self._viewer, self._layer)
        return self._array

    def _map(self, array: NDArray[np.float32], name: str, colormap: Any) -> Image:
        return Image(
            self._flat(array),
            name=unused_name(self._viewer, name),
            colormap=colormap,
            contrast_limits=(0.0, 1.0),
            blending="additive",
            visible=False,
            **without_choice(self._geometry),
        )

    def _flat(self, array: NDArray[Any]) -> NDArray[Any]:
        """Give a view without the one slice that a 2-D image is a stack of."""
        flat: NDArray[Any] = array[0] if self._is_2d else array
        return flat

    def _is_shown(self, axis: int, index: int) -> bool:
        layer, dims = self._layer, self._viewer.dims
        if layer is None or axis + dims.ndim - layer.ndim in dims.displayed:
            return True
        return self._is_2d or slice_shown(self._viewer, layer, axis) == index

"""Labels layers of our own, filled slice by slice while an engine works."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from medsaga.frontend import slice_place
from napari_medsaga.layers.convert import slice_shown, unused_name

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer
    from numpy.typing import NDArray

# A refresh in three dimensions uploads the whole volume to the graphics card.
_SECONDS_BETWEEN_REFRESHES = {2: 0.25, 3: 1.0}


def add_quietly(viewer: Viewer, layer: Layer, under: Layer | None = None) -> None:
    """Add a layer and leave the selection: the user may be painting on another one.

    Parameters
    ----------
    viewer
        Where it is added.
    layer
        The new layer.
    under
        It goes right under this one, if that is still there, else to the top.
    """
    selected, active = set(viewer.layers.selection), viewer.layers.selection.active
    layers = viewer.layers
    layers.insert(layers.index(under) if under in layers else len(layers), layer)
    if selected:
        viewer.layers.selection = selected
        viewer.layers.selection.active = active


class ResultLayer:
    """A Labels layer that is filled slice by slice.

    It is added by :meth:`add`, or with its first slice. Once the user has deleted it,
    or put other data into it, it is left alone and not added again.

    Parameters
    ----------
    viewer
        Where to add it.
    shape
        Of the layer's array: three axes, or two.
    dtype
        Of the layer's array; holds every label value.
    axis
        Across which the slices lie; of no account with two axes.
    options
        Keyword arguments of the layer: geometry, colours, and a name, which is counted
        up where it is taken.

    Attributes
    ----------
    layer
        None before it is added.
    """

    def __init__(
        self,
        viewer: Viewer,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        axis: int,
        options: dict[str, Any],
    ) -> None:
        self._viewer, self._axis, self._options = viewer, axis, options
        self._shape, self._dtype = shape, dtype
        self._array: NDArray[Any] | None = None
        self._written: dict[int, NDArray[np.integer]] = {}
        self._provisional: dict[int, NDArray[np.integer]] = {}
        self._is_stale = False
        self._last_refresh = 0.0
        self.layer: Labels | None = None

    @property
    def is_gone(self) -> bool:
        """Whether the layer was added, and then deleted or given other data."""
        return self.layer is not None and (
            self.layer not in self._viewer.layers or self.layer.data is not self._array
        )

    @property
    def shown(self) -> Labels | None:
        """The layer, if it was added and is not gone."""
        return None if self.is_gone else self.layer

    def add(self) -> Labels:
        """Add the layer, empty, unless it was added before."""
        if self.layer is None:
            array = np.zeros(self._shape, self._dtype)
            self.layer = Labels(array, **self._options | {"name": self._free_name()})
            self._array = self.layer.data
            add_quietly(self._viewer, self.layer)
        return self.layer

    def take_over(self, other: ResultLayer) -> None:
        """Make another one's layer this one's, unless it is gone.

        Adding a layer can hold up the viewer for most of a second while an engine
        computes; a new name does not. What the other one wrote stays in sight until
        the slice is written here, or :meth:`drop_provisional` takes it away.
        """
        layer = other.shown
        if layer is None:
            return
        self.layer, self._array, other.layer = layer, other._array, None
        self._provisional, other._written = other._written, {}
        layer.metadata = self._options.get("metadata", {})
        layer.editable = True
        layer.name = self._free_name()

    def write(self, index: int, mask: NDArray[np.integer]) -> None:
        """Write a slice, (rows, columns), unless it was written before.

        What the user has painted on it in the meantime stays.
        """
        layer = self.add()
        if self.is_gone or index in self._written:
            return
        self._written[index] = mask
        target = layer.data[self._place(index)]
        free = target == self._provisional.pop(index, 0)
        np.copyto(target, mask, where=free, casting="same_kind")
        self._note_change(index)

    def drop_provisional(self) -> None:
        """Empty the slices that another one wrote and this one never did."""
        layer = self.shown
        for index, mask in self._provisional.items():
            if layer is not None:
                target = layer.data[self._place(index)]
                target[target == mask] = 0
                self._note_change(index)
        self._provisional.clear()

    def clear(self, index: int) -> None:
        """Empty a slice, which can then be written again."""
        layer = self.shown
        if layer is not None and self._written.pop(index, None) is not None:
            layer.data[self._place(index)] = 0
            self._note_change(index)

    def replace(self, mask: NDArray[np.integer]) -> None:
        """Put another mask, in the layer's axes, in the place of the written slices.

        What the user has made otherwise in the meantime stays.
        """
        layer = self.shown
        if layer is None:
            return
        for index, before in self._written.items():
            place = self._place(index)
            shown, final = layer.data[place], mask[place]
            if not np.array_equal(before, final):
                np.copyto(shown, final, where=shown == before)
                self._is_stale = True
            self._written[index] = final

    def written(self) -> NDArray[np.integer]:
        """Give what was written, in the layer's axes, 0 where nothing was."""
        written: NDArray[np.integer] = np.zeros(self._shape, self._dtype)
        for index, mask in self._written.items():
            written[self._place(index)] = mask
        return written

    def refresh(self, *, at_once: bool = False) -> None:
        """Show what has been written, unless that is not seen or was just done."""
        layer = self.shown
        if layer is None or not self._is_stale:
            return
        waits = _SECONDS_BETWEEN_REFRESHES[self._viewer.dims.ndisplay]
        if at_once or time.monotonic() - self._last_refresh >= waits:
            layer.refresh()
            self._is_stale = False
            self._last_refresh = time.monotonic()

    def remove(self) -> None:
        """Take the layer out of the viewer."""
        layer = self.shown
        if layer is not None:
            self._viewer.layers.remove(layer)

    def _free_name(self) -> str:
        return unused_name(self._viewer, self._options["name"])

    def _place(self, index: int) -> tuple[Any, ...]:
        if len(self._shape) == 2:
            return (slice(None), slice(None))
        return slice_place(self._axis, index)

    def _note_change(self, index: int) -> None:
        self._is_stale = self._is_stale or self._is_seen(index)

    def _is_seen(self, index: int) -> bool:
        layer, dims = self.layer, self._viewer.dims
        if layer is None or len(self._shape) == 2:
            return True
        if self._axis + dims.ndim - layer.ndim in dims.displayed:
            return True
        return slice_shown(self._viewer, layer, self._axis) == index

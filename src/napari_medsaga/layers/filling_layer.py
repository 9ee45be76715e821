"""Labels layers that are filled slice by slice while an engine works."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from medsaga import slice_place

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer
    from numpy.typing import NDArray

# A refresh in three dimensions uploads the whole volume to the graphics card.
_SECONDS_BETWEEN_REFRESHES = {2: 0.5, 3: 1.5}


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


class FillingLayer:
    """A Labels layer of our own, filled slice by slice.

    It is added by `add`, or with its first slice. Once the user has deleted it, it is
    not added again.

    Parameters
    ----------
    viewer
        Where to add it.
    shape
        Of the layer's array.
    dtype
        Of the layer's array; holds every label value.
    options
        Keyword arguments of the layer: geometry, name, colours.
    """

    def __init__(
        self,
        viewer: Viewer,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        options: dict[str, Any],
    ) -> None:
        self._viewer = viewer
        self._shape, self._dtype, self._options = shape, dtype, options
        self._last_refresh = 0.0
        self._array: NDArray[Any] | None = None
        self.layer: Labels | None = None

    @property
    def is_deleted(self) -> bool:
        """Whether the layer was added, and then deleted or given other data."""
        return self.layer is not None and (
            self.layer not in self._viewer.layers or self.layer.data is not self._array
        )

    def add(self) -> Labels:
        """Add the layer, empty, unless it was added before."""
        if self.layer is None:
            array = np.zeros(self._shape, self._dtype)
            self.layer = Labels(array, **self._options)
            self._array = self.layer.data
            add_quietly(self._viewer, self.layer)
        return self.layer

    def take_over(self, other: FillingLayer) -> None:
        """Make another one's layer this one's, unless it was deleted.

        Adding a layer can hold up the viewer for most of a second while an engine
        computes; a new name does not.
        """
        if other.layer is None or other.is_deleted:
            return
        self.layer, self._array = other.layer, other._array
        layer, other.layer = other.layer, None
        layer.metadata = self._options.get("metadata", {})
        layer.editable = True
        layer.name = self._options["name"]

    def write(self, axis: int, index: int, mask: NDArray[np.integer]) -> None:
        """Write one slice; a 2-D layer has but one.

        What the user has painted on it in the meantime stays.
        """
        layer = self.add()
        if self.is_deleted:
            return
        target = layer.data[self._place(axis, index)]
        np.copyto(target, mask, where=target == 0, casting="same_kind")
        self._refresh(layer)

    def clear(self, axis: int, index: int) -> None:
        """Empty one slice."""
        if self.layer is not None and not self.is_deleted:
            self.layer.data[self._place(axis, index)] = 0

    def finish(self) -> None:
        """Show everything that was written."""
        if self.layer is not None and not self.is_deleted:
            self.layer.refresh()

    def remove(self) -> None:
        """Take the layer out of the viewer."""
        if self.layer is not None and not self.is_deleted:
            self._viewer.layers.remove(self.layer)

    def _place(self, axis: int, index: int) -> tuple[Any, ...]:
        if len(self._shape) == 2:
            return (slice(None), slice(None))
        return slice_place(axis, index)

    def _refresh(self, layer: Labels) -> None:
        now = time.monotonic()
        interval = _SECONDS_BETWEEN_REFRESHES[self._viewer.dims.ndisplay]
        if now - self._last_refresh >= interval:
            layer.refresh()
            self._last_refresh = time.monotonic()

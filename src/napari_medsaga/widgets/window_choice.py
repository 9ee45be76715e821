"""What is black and what is white of an image: CT windows, and all of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from qtpy.QtWidgets import QComboBox, QWidget

from medsaga import frontend
from napari_medsaga.jobs.latest import LatestAnswer
from napari_medsaga.layers.convert import array_of, volume_of

if TYPE_CHECKING:
    from napari.layers import Image
    from numpy.typing import NDArray

    from medsaga import Volume

_AS_SHOWN, _WHOLE = "as shown", "all of the data"


@dataclass(frozen=True, eq=False)
class _Question:
    layer: ref[Image]
    array: NDArray[Any]
    volume: Volume


@dataclass(frozen=True, eq=False)
class _Found:
    layer: ref[Image]
    whole: tuple[float, float]
    is_ct: bool


def _look(question: _Question) -> _Found:
    array = question.array
    finite = array if array.dtype.kind != "f" else array[np.isfinite(array)]
    whole = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    is_ct = frontend.looks_like_hounsfield(question.volume)
    return _Found(question.layer, whole, is_ct)


class WindowChoice(QComboBox):
    """Sets the contrast of an image layer, whose slider then reaches all of the data.

    A file's image is shown in a window that suits it, beyond which napari's own slider
    does not reach.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._layer: ref[Image] | None = None
        self._limits: dict[str, tuple[float, float]] = {}
        self._answers = LatestAnswer(_look, self)
        self.setObjectName("window")
        self.setToolTip(
            "The intensities that are shown as black and white. Boxes and clicks go by "
            "what is shown; a training chooses for itself."
        )
        self.addItem(_AS_SHOWN)
        self._answers.answered.connect(self._on_answered)
        self.activated.connect(self._on_activated)

    def follow(self, layer: Image | None) -> None:
        """Offer what suits another image."""
        if layer is not None and layer == self._followed():
            return
        self._layer = None if layer is None else ref(layer)
        self._offer({})
        is_plain = layer is not None and not layer.rgb and layer.ndim in (2, 3)
        if layer is None or not is_plain or not isinstance(array_of(layer), np.ndarray):
            return  # all of a lazy array would have to be computed
        self._answers.ask(_Question(ref(layer), array_of(layer), volume_of(layer)))

    def _followed(self) -> Image | None:
        return None if self._layer is None else self._layer()

    def _offer(self, limits: dict[str, tuple[float, float]]) -> None:
        self._limits = limits
        self.clear()
        self.addItem(_AS_SHOWN)
        self.addItems(list(limits))
        self.setEnabled(bool(limits))

    def _on_answered(self, found: _Found) -> None:
        layer = found.layer()
        if layer is None or layer != self._followed():
            return
        low, high = found.whole
        shown_low, shown_high = layer.contrast_limits
        if high > low:
            layer.contrast_limits_range = (min(low, shown_low), max(high, shown_high))
        windows = dict(frontend.WINDOWS) if found.is_ct else {}
        if high > low:
            windows[_WHOLE] = found.whole
        self._offer(windows)

    def _on_activated(self, _: int) -> None:
        layer = self._followed()
        limits = self._limits.get(self.currentText())
        if layer is not None and limits is not None:
            layer.contrast_limits = limits

"""A predictor that learns from each stroke, and suggests the classes of any slice."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medsaga.computing import computing_threads
from medsaga.data.intensity import display_limits
from medsaga.data.volume import check_axis
from medsaga.errors import MedsagaError, memory_explained
from medsaga.live.carried import CarriedPaint
from medsaga.live.head import LiveHead, fit_live_head
from medsaga.live.painted import PaintedSlice, PaintSoFar
from medsaga.live.slice_features import SliceFeatures
from medsaga.network.inference import SliceLogits
from medsaga.settings.presets import preset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from medsaga.data.volume import Volume
    from medsaga.settings.fine_tune import FineTuneSettings

    _Painted = dict[int, PaintedSlice]
    _WholePaint = tuple[tuple[int, ...], _Painted]

_SETTINGS = preset("quick")
_CACHE_MB = 512
_NOT_ENOUGH_MEMORY = "The memory is not enough: close other programs."


class LivePredictor:
    """Suggests the classes of a slice from what is painted on others, within a second.

    The encoder stays as it was pretrained, and what it saw of a slice is kept. After
    each stroke a head is fitted anew to the painted pixels, strokes or whole slices.
    What is painted on whole slices is carried to the slice besides, and joined with
    what the head says. It may be used from several threads, one after the other.

    Parameters
    ----------
    image
        A volume, or one 2-D image.
    axis
        The slices are cut across this axis of (z, y, x).
    limits
        Intensities that are black and white; None takes a CT's soft tissue window, and
        percentiles of other images.
    settings
        Backbone, working size, learning rate of the head and seed.
    cache_mb
        Memory for what was seen.

    Attributes
    ----------
    n_fits
        How many heads were fitted so far: what an older one suggested is outdated.

    Raises
    ------
    MedsagaError
        If there is no such axis.
    """

    def __init__(
        self,
        image: Volume,
        *,
        axis: int = 0,
        limits: tuple[float, float] | None = None,
        settings: FineTuneSettings = _SETTINGS,
        cache_mb: int = _CACHE_MB,
    ) -> None:
        check_axis(axis)
        if axis:  # a slice across a lazy stack computes all of it each time
            image = replace(image, array=np.asarray(image.array))
        self._image, self._axis = image, axis
        self._limits = limits or display_limits(image)
        self._settings, self._cache_mb = settings, cache_mb
        self._lock = threading.Lock()
        self._features: SliceFeatures | None = None
        self._paint = PaintSoFar()
        self._head: LiveHead | None = None
        self._carried: tuple[_WholePaint, CarriedPaint | None] | None = None
        self.n_fits = 0

    def paint(
        self,
        index: int,
        values: NDArray[Any],
        known: NDArray[np.bool_] | None = None,
    ) -> None:
        """Say what is painted on a slice, in place of what was said of it before.

        Parameters
        ----------
        index
            Of the slice.
        values
            (rows, columns) label values, 0 for background.
        known
            (rows, columns), whether `values` says anything of the pixel; None where of
            all, so that what carries no class is background.

        Raises
        ------
        MedsagaError
            If there is no such slice, it is of another size, or a value is negative or
            not whole.
        """
        self._image.check_slice(self._axis, index)
        if values.shape != self._image.slice_shape(self._axis):
            raise MedsagaError(
                f"A slice of {self._image.name} has the shape "
                f"{self._image.slice_shape(self._axis)}, and the labels "
                f"{values.shape}: give labels of the image's own size."
            )
        if not np.issubdtype(values.dtype, np.integer) or values.min() < 0:
            raise MedsagaError("Label values are whole numbers from 0.")
        if known is not None and known.all():
            known = None
        painted = PaintedSlice(values.copy(), known)
        with self._lock:
            if self._paint.put(index, painted):
                self._head = None

    def erase(self, index: int) -> None:
        """Say that nothing is painted on a slice any more."""
        with self._lock:
            if self._paint.take(index):
                self._head = None

    def look_at(self, index: int) -> None:
        """See a slice in advance, so that :meth:`suggest` takes less time."""
        self._image.check_slice(self._axis, index)
        with self._computing():
            self._seen().of(index)

    def suggest(self, index: int) -> NDArray[Any]:
        """Give the label values (rows, columns) of a slice, 0 for background.

        What is painted on the slice itself is learned from, but not copied.

        Raises
        ------
        MedsagaError
            If there is no such slice, or too little is painted to learn from.
        """
        self._image.check_slice(self._axis, index)
        with self._computing():
            values, head = self._fitted()
            logits = self._logits(head, index)
            others = {i: one for i, one in self._paint.slices.items() if i != index}
            carried = self._carry(others, values)
            if carried is not None:
                logits = carried.join(logits, carried.carrier.at(index))
            return _chosen(logits, values)

    def suggest_all(self) -> Iterator[NDArray[Any]]:
        """Give those of all slices in order, and what is painted as it is painted.

        What is painted after the first of them is not heeded.

        Raises
        ------
        MedsagaError
            If too little is painted to learn from.
        """
        with self._computing():
            if self._paint.settle():
                self._head = None
            values, head = self._fitted()
            painted = dict(self._paint.slices)
            carried = self._carry(painted, values)
        maps = None if carried is None else carried.carrier.stream()
        for index in range(self._image.shape[self._axis]):
            with self._computing():
                logits = self._logits(head, index)
                if carried is not None and maps is not None:
                    logits = carried.join(logits, next(maps))
                found = _chosen(logits, values)
            yield painted[index].over(found) if index in painted else found

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with self._lock, memory_explained(_NOT_ENOUGH_MEMORY), computing_threads():
            yield

    def _seen(self) -> SliceFeatures:
        if self._features is None:
            self._features = SliceFeatures(
                self._image,
                self._axis,
                self._limits,
                self._settings,
                self._cache_mb,
            )
        return self._features

    def _fitted(self) -> tuple[tuple[int, ...], LiveHead]:
        """Give the label values that are painted, and the head that tells them."""
        values, seen = self._paint.values, self._seen()
        if self._head is None:
            if not values:
                raise MedsagaError("Nothing is painted yet: paint on a slice first.")
            spacing = self._image.slice_spacing(self._axis)
            if seen.see_as_fine(self._paint.finest(spacing)):
                self._paint.forget_samples()
            features, labels = self._paint.sample(seen, self._settings.seed)
            if not (labels == 0).any():
                raise MedsagaError(
                    "Nothing is painted as background: paint a stroke of it too."
                )
            of_values = labels.new_tensor((0, *values))
            targets = torch.searchsorted(of_values, labels)
            n_classes, settings = len(of_values), self._settings
            self._head = fit_live_head(features, targets, seen, n_classes, settings)
            self.n_fits += 1
        return values, self._head

    def _logits(self, head: LiveHead, index: int) -> Tensor:
        """Give what the head says of a slice, (k, rows, columns)."""
        seen = self._seen().of(index)
        return SliceLogits(
            planes=head.logits(seen),
            padded=seen.padded,
            content=seen.content,
            size=self._image.slice_shape(self._axis),
        ).restore()

    def _carry(self, painted: _Painted, values: tuple[int, ...]) -> CarriedPaint | None:
        """Give what carries this paint, which is made when the paint has changed."""
        whole = {i: one for i, one in painted.items() if one.known is None}
        if self._carried is None or self._carried[0] != (values, whole):
            made = CarriedPaint.of(self._image, self._axis, self._limits, whole, values)
            self._carried = (values, whole), made
        return self._carried[1]


def _chosen(logits: Tensor, values: tuple[int, ...]) -> NDArray[Any]:
    """Give the label values of the likeliest classes, background first."""
    of_classes = np.array((0, *values), np.min_scalar_type(max(values)))
    found: NDArray[Any] = of_classes[logits.argmax(0).cpu().numpy()]
    return found

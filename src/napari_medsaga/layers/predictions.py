"""Layers that we predicted: what was written, and what the user changed since."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from weakref import ref

    from napari import Viewer
    from napari.layers import Image, Labels, Layer
    from numpy.typing import NDArray

    from medsaga import Advice
    from medsaga.frontend import SliceId
    from napari_medsaga.layers.rounds import Round

_KEY = "medsaga_prediction"


@dataclass(frozen=True, eq=False, kw_only=True)
class Prediction:
    """What a predicted layer was when it was written.

    Attributes
    ----------
    model
        Folder of the model that predicted it, as it was called then; None of paint
        that was carried without one.
    created
        When that model was trained, by which it is known under any name; else empty.
    axis
        Array axis that the model slices across.
    written
        The mask, in the layer's own axes.
    trained
        The slices of this image that trained the model, or were carried, as they were
        labelled, by index.
    earlier
        The labels of the other slices that trained it and are kept with it.
    image
        A weak reference to the layer that it was predicted on.
    rounds
        What the trainings gave that led to it, the last one last.
    advice
        Where it is expected to be wrong; None where that is not known.
    """

    model: Path | None
    created: str
    axis: int
    written: NDArray[Any]
    trained: Mapping[int, NDArray[Any]]
    earlier: Mapping[SliceId, NDArray[Any]]
    image: ref[Image]
    rounds: tuple[Round, ...] = ()
    advice: Advice | None = None

    def find_model(self) -> Path | None:
        """Give the folder of the model as it is called now, None if it is gone."""
        from medsaga import MedsagaError, ModelLibrary

        if self.model is None:
            return None
        try:
            entries = ModelLibrary().entries()
        except MedsagaError:  # where one starts from says so
            entries = []
        for entry in entries:
            if entry.card is not None and entry.card.created == self.created:
                return entry.path
        return self.model if (self.model / "card.json").is_file() else None

    def with_kept_slices(self, own_image: str | None = None) -> Prediction:
        """Add the slices that are kept with the model.

        Those of the image of the fingerprint `own_image` are `trained`. Strokes stay
        strokes only as the model keeps them: their image is not told, as in
        corrections of a layer what is not painted is background.
        """
        from medsaga.frontend import kept_labels

        model = self.find_model()  # it may have been renamed in the meantime
        kept = {} if model is None else kept_labels(model)
        own = {one for one in kept if (one.image, one.axis) == (own_image, self.axis)}
        return replace(
            self,
            trained={one.index: kept[one] for one in own},
            earlier={one: labels for one, labels in kept.items() if one not in own},
        )

    def changed_slices(self, array: NDArray[Any]) -> list[int]:
        """List the slices on which `array` is not what was written.

        Parameters
        ----------
        array
            The layer's array as it is now; of another shape, nothing is comparable and
            every slice counts as unchanged.
        """
        if array.shape != self.written.shape:
            return []
        if array.ndim == 2:
            return [0] if (array != self.written).any() else []
        # Slice by slice: a comparison of the whole would take as much memory again.
        now, then = (
            np.moveaxis(array, self.axis, 0),
            np.moveaxis(self.written, self.axis, 0),
        )
        return [i for i in range(len(now)) if not np.array_equal(now[i], then[i])]

    def slice_to_train(
        self, array: NDArray[Any], index: int, *, is_changed: bool
    ) -> NDArray[Any]:
        """Give the labels of a slice: as changed, or as they trained the model."""
        if is_changed or index not in self.trained:
            return np.array(array if array.ndim == 2 else array.take(index, self.axis))
        return self.trained[index]


def remember_prediction(layer: Labels, prediction: Prediction) -> None:
    """Keep with a layer what was written into it."""
    layer.metadata = {**layer.metadata, _KEY: prediction}


def prediction_of(layer: Layer | None) -> Prediction | None:
    """Give what was written into a layer, if we predicted it."""
    found = None if layer is None else layer.metadata.get(_KEY)
    return found if isinstance(found, Prediction) else None


def rounds_on(viewer: Viewer, image: Image) -> tuple[Round, ...]:
    """Give the rounds that the results on an image have behind them, the last last."""
    found = (prediction_of(layer) for layer in reversed(viewer.layers))
    of_image = (p for p in found if p is not None and p.image() is image)
    return max((p.rounds for p in of_image), key=len, default=())

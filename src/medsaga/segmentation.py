"""Segmentation: a trained model over all slices of an image."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medsaga.computing import (
    FixedPrecision,
    computing_threads,
    evaluating,
    pick_device,
    pick_precision,
)
from medsaga.data.inputs import ImageLike, as_volume
from medsaga.events import SegmentedSlice, Stop, Stream
from medsaga.inference import predict_slice
from medsaga.model_folder import TrainedModel, load_model
from medsaga.settings import SegmentSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from medsaga.data.classes import ClassTable
    from medsaga.data.volume import Volume


@dataclass(frozen=True, eq=False, kw_only=True)
class Segmentation:
    """What a model makes of an image.

    Attributes
    ----------
    mask
        (z, y, x) label values, in the image's place in space.
    probabilities
        (k, z, y, x) float16, classes in the card's order, background first; or None.
    entropy
        (z, y, x) float32: entropy of the probabilities over its largest possible
        value, so from 0 (sure) to 1 (undecided); or None.
    n_segmented
        Slices done; fewer than there are when it was stopped. The others are 0.
    n_slices
        Slices that there are.
    """

    mask: Volume
    probabilities: NDArray[np.float16] | None
    entropy: Volume | None
    n_segmented: int
    n_slices: int

    @property
    def is_complete(self) -> bool:
        """Whether every slice was segmented."""
        return self.n_segmented == self.n_slices

    def volumes(self) -> Iterator[Volume]:
        """Give all that there is to write: float32 maps, entropy and last the mask."""
        for chance in () if self.probabilities is None else self.probabilities:
            yield self.mask.with_array(chance.astype(np.float32))
        if self.entropy is not None:
            yield self.entropy
        yield self.mask


def segment(
    model: TrainedModel | Path | str,
    image: ImageLike,
    settings: SegmentSettings | None = None,
) -> Stream[Segmentation]:
    """Segment an image slice by slice with a trained model.

    Beyond the image and what is returned, the memory does not grow with the slices.

    Parameters
    ----------
    model
        A trained model, or its folder.
    image
        A file, an array (z, y, x) or (y, x), or a `Volume`.
    settings
        What to give beside the mask.

    Yields
    ------
    SegmentedSlice
        Each slice's mask.

    Returns
    -------
    Segmentation
        Whole, or as far as it came when stopped.

    Raises
    ------
    MedsagaError
        If the model or the image cannot be read.
    """
    settings = settings or SegmentSettings()
    model = load_model(model) if isinstance(model, (Path, str)) else model
    volume = as_volume(image)
    axis = 0 if volume.is_2d else model.card.axis
    output = _Output.allocate(model, volume, axis, settings)
    n_slices, done = volume.shape[axis], 0
    with computing_threads(), suppress(Stop):
        device = pick_device()
        network = model.network.to(device)
        precision = _pick_precision(model, settings, device)
        limits = model.card.intensity.limits(volume)
        for index in range(n_slices):
            with evaluating(network):
                logits = predict_slice(
                    network,
                    volume,
                    axis,
                    index,
                    limits=limits,
                    canvas=model.card.canvas,
                    precision=precision,
                )
            mask = output.write(index, logits)
            done += 1
            yield SegmentedSlice(
                image_name=volume.name,
                axis=axis,
                index=index,
                total=n_slices,
                mask=mask,
            )
    return output.result(volume, done)


def _pick_precision(
    model: TrainedModel, settings: SegmentSettings, device: torch.device
) -> FixedPrecision:
    """Measure only where the model was not trained on a device of this kind."""
    trained_on, trained_in = model.card.measured["device"], model.card.settings
    same_kind = torch.device(trained_on).type == device.type
    if settings.precision == "auto" and same_kind and trained_in["precision"] == "fp32":
        return "fp32"
    return pick_precision(
        settings.precision, model.network, device, model.card.canvas.long_side
    )


@dataclass(eq=False)
class _Output:
    """The arrays that are filled slice by slice."""

    table: ClassTable
    axis: int
    mask: NDArray[np.integer]
    probabilities: NDArray[np.float16] | None
    entropy: NDArray[np.float32] | None

    @classmethod
    def allocate(
        cls, model: TrainedModel, volume: Volume, axis: int, settings: SegmentSettings
    ) -> _Output:
        table, shape = model.card.classes, volume.shape
        dtype = table.to_values(np.zeros(1, dtype=int)).dtype
        return cls(
            table,
            axis,
            np.zeros(shape, dtype),
            np.zeros((len(table), *shape), np.float16)
            if settings.probabilities
            else None,
            np.zeros(shape, np.float32) if settings.entropy else None,
        )

    def write(self, index: int, logits: Tensor) -> NDArray[np.integer]:
        """Write one slice of all outputs; returns its label values."""
        place = (slice(None),) * self.axis + (index,)
        mask = self.table.to_values(logits.argmax(0).cpu().numpy())
        self.mask[place] = mask
        if self.probabilities is not None or self.entropy is not None:
            chances = torch.softmax(logits, 0)
            if self.probabilities is not None:
                self.probabilities[(slice(None), *place)] = chances.cpu().numpy()
            if self.entropy is not None:
                entropy = torch.special.entr(chances).sum(0) / math.log(len(self.table))
                self.entropy[place] = entropy.cpu().numpy()
        return mask

    def result(self, volume: Volume, n_segmented: int) -> Segmentation:
        entropy = self.entropy
        return Segmentation(
            mask=volume.with_array(self.mask),
            probabilities=self.probabilities,
            entropy=None if entropy is None else volume.with_array(entropy),
            n_segmented=n_segmented,
            n_slices=volume.shape[self.axis],
        )

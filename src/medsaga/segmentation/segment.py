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
    computes_natively,
    computing_threads,
    evaluating,
    pick_device,
    pick_precision,
)
from medsaga.data.inputs import ImageLike, as_volume
from medsaga.data.intensity import image_doubts
from medsaga.data.samples import working_image
from medsaga.data.volume import slice_place
from medsaga.errors import memory_explained
from medsaga.events import Event, Notice, SegmentedSlice, Stop, Stream, VotedSlice
from medsaga.models.folder import TrainedModel, load_model
from medsaga.network.inference import predict_image
from medsaga.segmentation.cleaning import clean_mask
from medsaga.segmentation.smoothing import smooth_as_asked
from medsaga.settings.segment import SegmentSettings

NOT_ENOUGH_MEMORY = (
    "The memory is not enough: close other programs, or give smaller images."
)

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
        They are what the model says, whatever was cleaned of the mask.
    entropy
        (z, y, x) float32: entropy of the probabilities over its largest possible
        value, so from 0 (sure) to 1 (undecided); or None.
    n_segmented
        Slices done; fewer than there are when it was stopped. The mask is then not
        cleaned. Stopped in the model's own plane, the other slices are 0; stopped in
        a later one, the planes before it have voted, and there are no probabilities.
    n_slices
        Slices that there are, in all the planes that vote.
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

    Beyond the image and what is returned, the memory does not grow with the slices,
    but for a vote of three planes: that takes 2 bytes a voxel and class.

    Parameters
    ----------
    model
        A trained model, or its folder.
    image
        A file, an array (z, y, x) or (y, x), or a `Volume`.
    settings
        What to do to the mask, and what to give beside it.

    Yields
    ------
    Notice
        What is to be said of the image, such as that the model sees nothing in it.
    SegmentedSlice
        Each slice's mask, as the model predicts it in its own plane. With smoothing it
        comes once the next slice is predicted too.
    VotedSlice
        Each slice of the other planes, where these vote.

    Returns
    -------
    Segmentation
        Whole, or as far as it came when stopped.

    Raises
    ------
    MedsagaError
        If the model or the image cannot be read, the image has colours and the model
        looks at neighbouring slices, or the memory does not suffice.
    """
    with memory_explained(NOT_ENOUGH_MEMORY):
        return (yield from _segment(model, image, settings or SegmentSettings()))


def _segment(
    model: TrainedModel | Path | str, image: ImageLike, settings: SegmentSettings
) -> Stream[Segmentation]:
    model = load_model(model) if isinstance(model, (Path, str)) else model
    volume = as_volume(image)
    planes = _planes(model, volume, settings)
    if any(planes):
        # Each slice across the stack of a lazy array would compute all of it.
        volume = volume.with_array(np.asarray(volume.array))
    output = _Output.allocate(model, volume, planes, settings)
    with computing_threads(), suppress(Stop):
        device = pick_device()
        network = model.network.to(device)
        precision = _pick_precision(model, settings, device)
        limits, canvas = model.card.intensity.limits(volume), model.card.canvas

        def predict(axis: int, index: int) -> Tensor:
            with evaluating(network):
                image, content = working_image(volume, axis, index, limits, canvas)
                size = volume.slice_shape(axis)
                return predict_image(network, image, content, size, precision)

        for doubt in image_doubts(volume, model.card.intensity):
            yield Notice(message=doubt)
        for axis in planes:
            stack = (predict(axis, index) for index in range(volume.shape[axis]))
            smoothed = smooth_as_asked(stack, settings.smooth, volume, axis)
            for index, logits in enumerate(smoothed):
                yield output.take(axis, index, logits)
    return output.result(settings)


def _planes(
    model: TrainedModel, volume: Volume, settings: SegmentSettings
) -> tuple[int, ...]:
    """Give the axes to slice along, the model's own first."""
    own = 0 if volume.is_2d else model.card.axis
    if not settings.three_planes or min(volume.shape) == 1:
        return (own,)
    return own, *(axis for axis in range(3) if axis != own)


def _pick_precision(
    model: TrainedModel, settings: SegmentSettings, device: torch.device
) -> FixedPrecision:
    """Take the format that the card names; on another kind of device, the faster."""
    trained_in: FixedPrecision = model.card.settings["precision"]
    same_kind = torch.device(model.card.measured["device"]).type == device.type
    if settings.precision == "auto" and same_kind:
        return trained_in if computes_natively(trained_in, device) else "fp32"
    return pick_precision(
        settings.precision, model.network, device, model.card.canvas.long_side
    )


@dataclass(eq=False, kw_only=True)
class _Output:
    """The arrays that are filled slice by slice.

    `chances` are probabilities, of several planes their sum.
    """

    volume: Volume
    table: ClassTable
    planes: tuple[int, ...]
    mask: NDArray[np.integer]
    chances: NDArray[np.float16] | None
    entropy: NDArray[np.float32] | None
    done: int = 0

    @classmethod
    def allocate(
        cls,
        model: TrainedModel,
        volume: Volume,
        planes: tuple[int, ...],
        settings: SegmentSettings,
    ) -> _Output:
        table, shape = model.card.classes, volume.shape
        needs_chances = settings.probabilities or len(planes) > 1
        return cls(
            volume=volume,
            table=table,
            planes=planes,
            mask=np.zeros(shape, table.dtype),
            chances=np.zeros((len(table), *shape), np.float16)
            if needs_chances
            else None,
            entropy=np.zeros(shape, np.float32) if settings.entropy else None,
        )

    @property
    def total(self) -> int:
        """Slices that there are in all planes."""
        return sum(self.volume.shape[axis] for axis in self.planes)

    def take(self, axis: int, index: int, logits: Tensor) -> Event:
        """Take in one slice, and give the event that says so."""
        self.done += 1
        if axis != self.planes[0]:
            return self._vote(axis, index, logits)
        place = slice_place(axis, index)
        mask = self.table.to_values(logits.argmax(0).cpu().numpy())
        self.mask[place] = mask
        if self.chances is not None or self.entropy is not None:
            chances = torch.softmax(logits, 0)
            if self.chances is not None:
                self.chances[(slice(None), *place)] = chances.cpu().numpy()
            if self.entropy is not None:
                self.entropy[place] = self._entropy_of(chances)
        return SegmentedSlice(
            image_name=self.volume.name,
            axis=axis,
            index=index,
            total=self.total,
            mask=mask,
        )

    def _vote(self, axis: int, index: int, logits: Tensor) -> VotedSlice:
        assert self.chances is not None
        place = (slice(None), *slice_place(axis, index))
        # In single precision: numpy has no fast sum of halves.
        chances = torch.softmax(logits, 0).cpu().numpy()
        self.chances[place] = self.chances[place] + chances
        if index == self.volume.shape[axis] - 1:
            self._count(self.chances, self.planes.index(axis) + 1)
        return VotedSlice(
            image_name=self.volume.name,
            axis=axis,
            index=index,
            done=self.done,
            total=self.total,
        )

    def _count(self, chances: NDArray[np.float16], n_planes: int) -> None:
        """Decide on the mean of the planes that are through, slice by slice."""
        is_last = n_planes == len(self.planes)
        for index in range(self.volume.shape[0]):
            mean = chances[:, index].astype(np.float32) / n_planes
            self.mask[index] = self.table.to_values(mean.argmax(0))
            if self.entropy is not None:
                self.entropy[index] = self._entropy_of(torch.from_numpy(mean))
            if is_last:
                chances[:, index] = mean

    def _entropy_of(self, chances: Tensor) -> NDArray[np.float32]:
        entropy = torch.special.entr(chances).sum(0) / math.log(len(self.table))
        found: NDArray[np.float32] = entropy.cpu().numpy()
        return found

    def result(self, settings: SegmentSettings) -> Segmentation:
        is_complete, mask = self.done == self.total, self.mask
        if is_complete:
            mask = clean_mask(mask, self.table.values[1:], settings)
        # After a stop in a later plane they are sums, of that plane in part.
        are_means = is_complete or self.done <= self.volume.shape[self.planes[0]]
        wanted = settings.probabilities and are_means
        entropy = self.entropy
        return Segmentation(
            mask=self.volume.with_array(mask),
            probabilities=self.chances if wanted else None,
            entropy=None if entropy is None else self.volume.with_array(entropy),
            n_segmented=self.done,
            n_slices=self.total,
        )

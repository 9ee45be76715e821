"""What a segmentation gives, and the arrays that become it slice by slice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from medsaga.data.volume import slice_place
from medsaga.events import Event, SegmentedSlice, VotedSlice
from medsaga.segmentation.cleaning import clean_mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from medsaga.data.classes import ClassTable
    from medsaga.data.volume import Volume
    from medsaga.models.folder import TrainedModel
    from medsaga.network.bands import Band
    from medsaga.settings.segment import SegmentSettings


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


@dataclass(eq=False, kw_only=True)
class ResultArrays:
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
    ) -> ResultArrays:
        """Make the arrays that the settings and the planes need, empty."""
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

    def take(self, axis: int, index: int, bands: Iterable[Band]) -> Event:
        """Take in the logits of one slice, and give the event that says so."""
        if axis != self.planes[0]:
            return self._vote(axis, index, bands)
        place = slice_place(axis, index)
        mask = np.empty(self.volume.slice_shape(axis), self.table.dtype)
        for rows, logits in bands:
            mask[rows] = self.table.to_values(logits.argmax(0).cpu().numpy())
            if self.chances is None and self.entropy is None:
                continue
            chances = torch.softmax(logits, 0)
            if self.chances is not None:
                of_slice = self.chances[(slice(None), *place)]
                of_slice[:, rows] = chances.cpu().numpy()
            if self.entropy is not None:
                self.entropy[place][rows] = self._entropy_of(chances)
        self.mask[place] = mask
        self.done += 1
        return SegmentedSlice(
            image_name=self.volume.name,
            axis=axis,
            index=index,
            total=self.total,
            mask=mask,
        )

    def _vote(self, axis: int, index: int, bands: Iterable[Band]) -> VotedSlice:
        assert self.chances is not None
        of_slice = self.chances[(slice(None), *slice_place(axis, index))]
        for rows, logits in bands:
            # In single precision: numpy has no fast sum of halves.
            chances = torch.softmax(logits, 0).cpu().numpy()
            of_slice[:, rows] = of_slice[:, rows] + chances
        self.done += 1
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
        """Give what there is, cleaned as asked if it is all."""
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

"""What is painted on a slice, and pixels of it to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medsaga.data.sizing import IGNORE, resize_target
from medsaga.data.survey import width_of_finest
from medsaga.training.features.sampled_pixels import PixelQuota

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from medsaga.data.canvas import Spacing
    from medsaga.live.slice_features import FeatureMaps, SliceFeatures

# Half of what a view gives in a training.
_PER_CLASS, _BACKGROUND = 200, 600
# Of all slices together: more of them would take longer than a second.
_MOST_PIXELS, _MOST_SLICES = 20_000, 24
_MEASURED = 6


@dataclass(frozen=True, eq=False)
class PaintedSlice:
    """What is painted on a slice.

    Attributes
    ----------
    values
        (rows, columns) label values, 0 for background.
    known
        (rows, columns), whether anything is said of the pixel; None where of all.
    """

    values: NDArray[Any]
    known: NDArray[np.bool_] | None

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """The label values on it, without 0."""
        return tuple(int(value) for value in np.unique(self.values) if value)

    def equals(self, other: PaintedSlice | None) -> bool:
        """Whether the same is painted on both."""
        if other is None or not np.array_equal(self.values, other.values):
            return False
        if self.known is None or other.known is None:
            return self.known is other.known
        return np.array_equal(self.known, other.known)

    def over(self, suggested: NDArray[Any]) -> NDArray[Any]:
        """Give what is painted, and what is suggested where nothing is known."""
        values = self.values.astype(suggested.dtype)
        return values if self.known is None else np.where(self.known, values, suggested)

    def sample(
        self, seen: FeatureMaps, seed: int, number: int
    ) -> tuple[Tensor, Tensor]:
        """Draw pixels, half of them near boundaries.

        Parameters
        ----------
        seen
            The slice's features.
        seed, number
            The same ones give the same pixels.

        Returns
        -------
        features : Tensor
            (n, features) bf16.
        labels : Tensor
            (n,) label values.
        """
        values = np.array((0, *self.classes))
        indices = np.searchsorted(values, self.values)
        if self.known is not None:
            indices[~self.known] = IGNORE
        is_sparse = self.known is not None
        target = resize_target(indices, seen.content, keep_strokes=is_sparse)
        quota = PixelQuota(_PER_CLASS, _BACKGROUND, len(values), seed)
        points = quota.draw(target, number)
        features = seen.at(points).to(torch.bfloat16)
        labels = torch.from_numpy(values)[target[points[:, 0], points[:, 1]]]
        return features, labels.to(features.device)


class PaintSoFar:
    """All that is painted, and pixels of it.

    Attributes
    ----------
    slices
        What is painted, by the index of the slice.
    """

    def __init__(self) -> None:
        self.slices: dict[int, PaintedSlice] = {}
        self._samples: dict[int, tuple[Tensor, Tensor]] = {}
        self._last: int | None = None

    @property
    def values(self) -> tuple[int, ...]:
        """The label values that are painted anywhere, without 0."""
        return tuple(sorted({v for one in self.slices.values() for v in one.classes}))

    def put(self, index: int, painted: PaintedSlice) -> bool:
        """Take what is painted on a slice now; gives whether that is new."""
        if painted.equals(self.slices.get(index)):
            return False
        self.slices[index], self._last = painted, index
        self._samples.pop(index, None)
        return True

    def take(self, index: int) -> bool:
        """Forget a slice; gives whether it was known."""
        self._samples.pop(index, None)
        return self.slices.pop(index, None) is not None

    def settle(self) -> bool:
        """Say that no slice is being painted now; gives whether one was until now."""
        was_painted, self._last = self._last is not None, None
        return was_painted

    def finest(self, spacing: Spacing | None) -> float | None:
        """Measure the finest class on a few slices that are painted as a whole.

        The slice that is being painted may show but a dab of a class so far.

        Parameters
        ----------
        spacing
            Size of a pixel in mm along rows and columns.
        """
        whole = [
            one
            for index, one in self.slices.items()
            if one.known is None and index != self._last
        ]
        return width_of_finest((one.values, spacing) for one in whole[:_MEASURED])

    def forget_samples(self) -> None:
        """Forget the pixels, as the slices are seen at another size now."""
        self._samples.clear()

    def sample(self, seen: SliceFeatures, seed: int) -> tuple[Tensor, Tensor]:
        """Give the (n, features) and the (n,) label values of pixels of all slices.

        Of many slices an even choice is taken, of many pixels every second, or fewer.
        """
        chosen = self._chosen()
        for index in chosen:
            if index not in self._samples:
                painted = self.slices[index]
                self._samples[index] = painted.sample(seen.of(index), seed, index)
        samples = [self._samples[index] for index in chosen]
        step = -(-sum(len(labels) for _, labels in samples) // _MOST_PIXELS)
        return (
            torch.cat([features[::step] for features, _ in samples]),
            torch.cat([labels[::step] for _, labels in samples]),
        )

    def _chosen(self) -> list[int]:
        every = sorted(self.slices)
        if len(every) <= _MOST_SLICES:
            return every
        spread = np.linspace(0, len(every) - 1, _MOST_SLICES).round().astype(int)
        being_painted = [i for i in every if i == self._last]
        return sorted({*being_painted, *(every[place] for place in spread)})

"""Advice: where in a volume a look, or paint, is worth most."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from medsaga.computing import computing_threads
from medsaga.data.intensity import image_doubts
from medsaga.data.volume import slice_place
from medsaga.errors import MedsagaError, memory_explained
from medsaga.events import JudgedSlice, Notice, Stop, Stream
from medsaga.models.loading import load_model
from medsaga.network.bands import join_bands
from medsaga.propagation.carrying import Carrier
from medsaga.propagation.fusion import fuse
from medsaga.propagation.trust import PaintTrust
from medsaga.segmentation.painted import painted_volume
from medsaga.segmentation.predictor import Predictor
from medsaga.segmentation.segment import NOT_ENOUGH_MEMORY
from medsaga.segmentation.smoothing import is_smoothed
from medsaga.settings.segment import SegmentSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from medsaga.data.inputs import ImageLike
    from medsaga.data.volume import Volume
    from medsaga.models.folder import TrainedModel
    from medsaga.propagation.paint import Paint

# Where no slice is painted, one that is painted tells of so large a part of the depth.
_TOLD_PART = 0.5
# A model whose labels were smoothed is never quite sure, and all of the background
# would outweigh what is open: what is less likely wrong than this counts as right.
_SURE = 0.25


@dataclass(frozen=True, eq=False, kw_only=True)
class Advice:
    """Where a model, with the paint that is carried, expects to be wrong.

    Attributes
    ----------
    axis
        The axis that it slices along.
    painted
        Indices of the painted slices, in order.
    errors
        Pixels that are expected to be wrong, of each slice that was looked at: from the
        first, none on painted ones.
    doubts
        What the slice takes from the mean Dice of the classes, as expected; so that
        small classes count as much as large ones.
    most_doubtful
        The label value of the class that takes most of it; 0 where nothing does.
    mask
        (z, y, x) label values in the image's place in space, as :func:`medsaga.segment`
        gives them without cleaning; 0 on slices that were not looked at.
    uncertainty
        (z, y, x) float32 in the same place: how likely a voxel is wrong; 0 where that
        is less than 0.25.
    n_slices
        Slices that there are.
    """

    axis: int
    painted: tuple[int, ...]
    errors: tuple[float, ...]
    doubts: tuple[float, ...]
    most_doubtful: tuple[int, ...]
    mask: Volume
    uncertainty: Volume
    n_slices: int

    @property
    def is_complete(self) -> bool:
        """Whether every slice was looked at."""
        return len(self.errors) == self.n_slices

    def to_review(self) -> list[int]:
        """Give the unpainted slices, those with the most expected errors first."""
        unpainted = set(range(len(self.errors))) - set(self.painted)
        return sorted(unpainted, key=lambda index: (-self.errors[index], index))

    def to_paint(self, n: int = 1) -> list[int]:
        """Give the slices whose paint is worth most, one after the other.

        Paint mends its own slice, and of the doubts of others as large a part as they
        come nearer to paint by it: so neighbours of painted and of chosen slices are
        left out by themselves, and where doubts are even, slices are spread evenly.

        Parameters
        ----------
        n
            How many; fewer are given where no more are unpainted.
        """
        doubts, chosen = np.array(self.doubts), []
        places = np.arange(len(doubts))
        gaps = np.full(len(doubts), max(1.0, _TOLD_PART * len(doubts)))
        if self.painted:
            gaps = abs(places[:, None] - np.array(self.painted)).min(1)
        for _ in range(min(n, len(self.to_review()))):
            nearer = np.minimum(gaps, abs(places - places[:, None]))
            mended = 1 - nearer / np.maximum(gaps, 1)
            gains = np.where(gaps > 0, (mended * doubts).sum(1), -math.inf)
            best = int(gains.argmax())
            chosen.append(best)
            doubts, gaps = doubts * (1 - mended[best]), nearer[best]
        return chosen


def advise(
    model: TrainedModel | Path | str,
    image: ImageLike,
    *,
    labels: ImageLike | None = None,
) -> Stream[Advice]:
    """Find where in a volume a look, or paint, is worth most.

    The class of a pixel is what :func:`medsaga.segment` gives. What the model and the
    carried paint say against it, in the mean of their probabilities, is how uncertain
    it is: by the model's own doubt, the disagreement of the two and the distance to the
    paint, with which the paint's doubt grows.

    Parameters
    ----------
    model
        A trained model, or its folder.
    image
        A file, an array (z, y, x), or a `Volume`.
    labels
        Painted slices of it, as for :func:`medsaga.segment`.

    Yields
    ------
    Notice
        What is to be said of the image and its paint.
    JudgedSlice
        Each slice, in order.

    Returns
    -------
    Advice
        Of all slices, or of as many as were looked at when it was stopped.

    Raises
    ------
    MedsagaError
        If the image is 2-D, cannot be read or segmented, or the labels do not fit it.
    """
    with memory_explained(NOT_ENOUGH_MEMORY):
        model = load_model(model) if isinstance(model, (Path, str)) else model
        volume, paint, said = painted_volume(model, image, labels)
        if volume.shape[model.card.axis] == 1 or volume.is_2d:
            raise MedsagaError(
                f"{volume.name} is a single slice, so that there is nothing to choose: "
                "give a volume."
            )
        return (yield from _advise(model, volume, paint, said))


def _advise(
    model: TrainedModel, volume: Volume, paint: Paint | None, said: Sequence[str]
) -> Stream[Advice]:
    axis = model.card.axis
    if axis:
        # Each slice across the stack of a lazy array would compute all of it.
        volume = replace(volume, array=np.asarray(volume.array))
    painted = () if paint is None else tuple(sorted(paint.slices))
    table = model.card.classes
    uncertainty = np.zeros(volume.shape, np.float32)
    whole = np.zeros(volume.shape, table.dtype)
    found: list[_Expected] = []
    errors: list[float] = []
    with computing_threads(), suppress(Stop):
        for sentence in (*image_doubts(volume, model.card.intensity), *said):
            yield Notice(message=sentence)
        for index, (chances, chosen) in enumerate(_opinions(model, volume, paint)):
            against = 1 - chances.gather(0, chosen[None])[0]
            is_open = against >= _SURE
            if index in painted:
                is_open = torch.zeros_like(is_open)
            wrong = torch.where(is_open, against, 0.0).cpu().numpy()
            uncertainty[slice_place(axis, index)] = wrong
            found.append(_Expected.of(chances, chosen, is_open))
            errors.append(float(wrong.sum()))
            mask = table.to_values(chosen.cpu().numpy())
            whole[slice_place(axis, index)] = mask
            yield JudgedSlice(
                image_name=volume.name,
                axis=axis,
                index=index,
                total=volume.shape[axis],
                mask=mask,
                errors=errors[-1],
            )
    shares = _shares(found)
    values = np.array([0, *table.values[1:]])
    return Advice(
        axis=axis,
        painted=painted,
        errors=tuple(errors),
        doubts=tuple(shares.mean(1).tolist()),
        most_doubtful=tuple(values[_largest(shares)].tolist()),
        mask=volume.with_array(whole),
        uncertainty=volume.with_array(uncertainty),
        n_slices=volume.shape[axis],
    )


def _opinions(
    model: TrainedModel, volume: Volume, paint: Paint | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the mean of the probabilities by model and by paint, and what is chosen.

    (k, rows, columns) and (rows, columns), of each slice in order.
    """
    axis = model.card.axis
    with Predictor(model, volume, "auto") as predictor:
        smooth = is_smoothed(SegmentSettings().smooth, volume, axis)
        stack = predictor.predict_all(axis, smooth=smooth)
        smoothed = map(join_bands, stack)
        if paint is None:
            for logits in smoothed:
                yield logits.softmax(0), logits.argmax(0)
            return
        carrier = Carrier(volume, paint, predictor.limits)
        trust = model.card.paint_trust or PaintTrust()
        for logits, maps in zip(smoothed, carrier.stream(), strict=True):
            chances = logits.softmax(0)
            if maps.is_reached:
                nothing = torch.zeros_like(logits)
                of_paint = fuse(nothing, maps, carrier, trust)
                chances = (chances + of_paint.softmax(0)) / 2
            yield chances, fuse(logits, maps, carrier, trust).argmax(0)


@dataclass(frozen=True, eq=False)
class _Expected:
    """Of each class, without background, on one slice: pixels in both masks, wrong."""

    size: NDArray[np.float64]
    wrong: NDArray[np.float64]

    @classmethod
    def of(cls, chances: Tensor, chosen: Tensor, is_open: Tensor) -> _Expected:
        size, wrong = [], []
        for index in range(1, len(chances)):
            is_class = chosen == index
            off = (chances[index] - is_class.to(chances.dtype))[is_open]
            # Those that are chosen, and those that are expected to be there.
            size.append(float(2 * is_class.sum() + off.sum()))
            wrong.append(float(off.abs().sum()))
        return cls(np.array(size), np.array(wrong))


def _shares(found: Sequence[_Expected]) -> NDArray[np.float64]:
    """Give (slices, classes): what each slice takes from the Dice of each class.

    A class that is nowhere has none to lose, and is left out of the mean.
    """
    if not found:
        return np.zeros((0, 1))
    sizes = np.sum([one.size for one in found], axis=0)
    is_there = sizes > 0
    shares = np.zeros((len(found), len(sizes)))
    wrong = np.stack([one.wrong for one in found])
    shares[:, is_there] = wrong[:, is_there] / sizes[is_there]
    shares *= len(sizes) / max(1, int(is_there.sum()))
    return shares


def _largest(shares: NDArray[np.float64]) -> NDArray[np.intp]:
    """Give 1 more than the class with the largest share of each slice, 0 without."""
    return np.where(shares.max(1) > 0, shares.argmax(1) + 1, 0)

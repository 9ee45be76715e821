"""Dice, HD95 and surface Dice of a mask against the truth, class by class, by MONAI.

Importing it imports neither torch nor MONAI.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from numpy.typing import NDArray

# Of a surface, in mm or pixels: what two careful annotators differ by.
_TOLERANCE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How well a mask fits the truth, by label value.

    Attributes
    ----------
    dice
        From 0 to 1; 0 for a class that only one of the two has. A class that neither
        has is absent.
    hd95
        95th percentile of the distances between the two surfaces, the larger of both
        directions, in `unit`; only of classes that both have.
    surface_dice
        Part of both surfaces that lies within 1 `unit` of the other one, from 0 to 1
        (Nikolov et al., arXiv 1809.04430); of the classes of `hd95`.
    missing
        Why a class of `dice` has no HD95 and no surface Dice: "not in the truth", "not
        predicted" or "not all known".
    unit
        "mm" where the spacing is known, else "pixels".
    """

    dice: Mapping[int, float]
    hd95: Mapping[int, float]
    surface_dice: Mapping[int, float]
    missing: Mapping[int, str]
    unit: Literal["mm", "pixels"]

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the classes; NaN without any."""
        return mean(self.dice.values())

    @property
    def mean_hd95(self) -> float:
        """Mean HD95 over the classes that have one; NaN without any."""
        return mean(self.hd95.values())

    @property
    def mean_surface_dice(self) -> float:
        """Mean surface Dice over the classes that have one; NaN without any."""
        return mean(self.surface_dice.values())


def score(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    values: Sequence[int] | None = None,
    spacing: tuple[float, ...] | None = None,
    known: NDArray[np.bool_] | None = None,
) -> Scores:
    """Score a mask against the truth.

    Parameters
    ----------
    prediction, truth
        Label values, (z, y, x) or (y, x). A stack of one slice is scored in 2-D.
    values
        Label values to score; None takes all that occur. Background, 0, is never
        scored.
    spacing
        Voxel size in mm along the same axes; None where unknown.
    known
        Whether the truth says anything of a pixel; None where of all. The others do
        not count, and as surfaces end where knowledge does, nothing is said of them.

    Raises
    ------
    ValueError
        If the shapes differ, or the spacing does not fit them.
    """
    if known is not None:
        prediction, truth = np.where(known, prediction, 0), np.where(known, truth, 0)
    if prediction.shape != truth.shape:
        raise ValueError(f"shapes differ: {prediction.shape} and {truth.shape}")
    if spacing is not None and len(spacing) != truth.ndim:
        raise ValueError(f"spacing {spacing} for {truth.ndim} axes")
    flat = truth.ndim == 3 and 1 in truth.shape
    if flat:  # in 3-D every pixel of a single slice would be on the surface
        axis = truth.shape.index(1)
        prediction, truth = prediction.squeeze(axis), truth.squeeze(axis)
        spacing = spacing and (*spacing[:axis], *spacing[axis + 1 :])
    spacing = spacing and tuple(map(float, spacing))  # MONAI refuses NumPy's floats
    if values is None:
        values = sorted((distinct_values(prediction) | distinct_values(truth)) - {0})
    # Seconds: not before it is needed, so that a first preview stands sooner.
    from monai.metrics import compute_dice

    dice: dict[int, float] = {}
    hd95: dict[int, float] = {}
    surface_dice: dict[int, float] = {}
    missing: dict[int, str] = {}
    for value in map(int, values):
        pair = _cropped(prediction, truth, value) if value else None
        if pair is None:
            continue
        dice[value] = float(compute_dice(*pair, ignore_empty=False))
        predicted, true = pair
        if not true.any():
            missing[value] = "not in the truth"
        elif not predicted.any():
            missing[value] = "not predicted"
        elif known is not None:
            missing[value] = "not all known"
        else:
            hd95[value], surface_dice[value] = _compare_surfaces(*pair, spacing)
    unit: Literal["mm", "pixels"] = "pixels" if spacing is None else "mm"
    return Scores(
        dice=dice, hd95=hd95, surface_dice=surface_dice, missing=missing, unit=unit
    )


def share_of_equal_neighbours(array: NDArray[Any]) -> float:
    """Give how many neighbours along the rows, both marked, have one value.

    Nearly all of a mask, which has areas of one value; few of an image, or of a mask
    that was smoothed. 1 where nothing is marked.

    Parameters
    ----------
    array
        Of any number of axes, the last along the rows; 0 is unmarked.
    """
    left, right = array[..., :-1], array[..., 1:]
    are_marked = (left != 0) & (right != 0)
    n_marked = int(np.count_nonzero(are_marked))
    n_equal = int(np.count_nonzero(are_marked & (left == right)))
    return n_equal / n_marked if n_marked else 1.0


def distinct_values(array: NDArray[Any], most: int | None = None) -> set[int]:
    """Give the whole numbers that a mask holds, or some more than `most` of them.

    Slice by slice: sorting a whole volume would take a multiple of its memory.
    """
    values: set[int] = set()
    for part in array:
        values.update(np.unique(part).tolist())
        if most is not None and len(values) > most:
            break
    return values


def mean(numbers: Iterable[float]) -> float:
    """Give the mean; NaN of nothing."""
    listed = list(numbers)
    return float(np.mean(listed)) if listed else float("nan")


def mean_by_class(rows: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """Give the mean of each class over the rows that have a score of it."""
    numbers: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        for value, number in row.items():
            numbers[value].append(number)
    return {value: mean(listed) for value, listed in numbers.items()}


def _cropped(
    prediction: NDArray[Any], truth: NDArray[Any], value: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Give both masks of a class where either has it, (1, 1, ...); None if neither.

    Beyond the box there is background only, which the surfaces and the distances
    between them do not depend on.
    """
    either = (prediction == value) | (truth == value)
    if not either.any():
        return None
    import torch

    box = tuple(_extent(either, axis) for axis in range(either.ndim))
    predicted, true = (
        torch.from_numpy(mask[box] == value)[None, None] for mask in (prediction, truth)
    )
    return predicted, true


def _extent(mask: NDArray[np.bool_], axis: int) -> slice:
    others = tuple(a for a in range(mask.ndim) if a != axis)
    hits = np.flatnonzero(mask.any(axis=others))
    return slice(int(hits[0]), int(hits[-1]) + 1)


def _compare_surfaces(
    predicted: torch.Tensor, true: torch.Tensor, spacing: tuple[float, ...] | None
) -> tuple[float, float]:
    """Give HD95 and surface Dice of two masks, neither of them empty.

    MONAI's own functions for either look for the same surfaces and distances.
    """
    from monai.metrics import get_mask_edges, get_surface_distance

    edges = get_mask_edges(predicted[0, 0].numpy(), true[0, 0].numpy(), crop=False)
    there, back = (
        get_surface_distance(*pair, spacing=spacing) for pair in (edges, edges[::-1])
    )
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    near = np.count_nonzero(there <= _TOLERANCE) + np.count_nonzero(back <= _TOLERANCE)
    return float(hd95), near / (len(there) + len(back))

"""Mask files scored against their truths, as one stream."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsaga.data.files import read_labels
from medsaga.data.folders import listed, pair_files
from medsaga.data.formats.catalogue import stem
from medsaga.data.matching import match_labels
from medsaga.errors import MedsagaError, memory_explained
from medsaga.events import Notice, Scoring, Stop
from medsaga.metrics import (
    Scores,
    distinct_values,
    mean,
    score,
    share_of_equal_neighbours,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medsaga.data.volume import Volume
    from medsaga.events import Stream

_MOST_VALUES = 256
# From so many values upwards neighbours are compared: in a mask most are equal.
_FEW_VALUES, _LEAST_EQUAL = 16, 0.5
_NOT_ENOUGH_MEMORY = (
    "The memory does not suffice to score these masks: close other programs, or score "
    "fewer voxels."
)
Pair = tuple[Path, Path]
"""A mask and its truth."""


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """The scores of one class over all files that have it; NaN where there are none."""

    dice: float
    hd95: float
    surface_dice: float
    n_files: int
    missing: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of masks, and why others have none.

    Attributes
    ----------
    scores
        By the mask's name.
    failed
        By the mask's file name, why it has no scores.
    without_prediction
        File names of the truths that have no mask.
    is_complete
        Whether no stop came before the last pair.
    """

    scores: Mapping[str, Scores]
    failed: Mapping[str, str]
    without_prediction: tuple[str, ...]
    is_complete: bool = True

    @property
    def unit(self) -> Literal["mm", "pixels"] | None:
        """Unit of distances; None if the files differ in it: there is no mean then."""
        units = {scores.unit for scores in self.scores.values()}
        return units.pop() if len(units) == 1 else None

    @property
    def by_class(self) -> dict[int, ClassScores]:
        """Average each class over the files that have it."""
        values = {value for scores in self.scores.values() for value in scores.dice}
        return {value: self._of_class(value) for value in sorted(values)}

    @property
    def mean_dice(self) -> float:
        """Mean over the classes' means; NaN without any."""
        return mean(c.dice for c in self.by_class.values())

    @property
    def mean_hd95(self) -> float:
        """Mean over the means of the classes that have one; NaN without any."""
        numbers = (c.hd95 for c in self.by_class.values())
        return mean(hd95 for hd95 in numbers if hd95 == hd95)

    @property
    def mean_surface_dice(self) -> float:
        """Mean over the means of the classes that have one; NaN without any."""
        numbers = (c.surface_dice for c in self.by_class.values())
        return mean(one for one in numbers if one == one)

    def _of_class(self, value: int) -> ClassScores:
        having = [s for s in self.scores.values() if value in s.dice]
        reasons = Counter(s.missing[value] for s in having if value in s.missing)
        hd95 = mean(s.hd95[value] for s in having if value in s.hd95)
        surfaces = (s.surface_dice for s in having if value in s.surface_dice)
        surface_dice = mean(one[value] for one in surfaces)
        return ClassScores(
            dice=mean(s.dice[value] for s in having),
            hd95=float("nan") if self.unit is None else hd95,
            surface_dice=float("nan") if self.unit is None else surface_dice,
            n_files=len(having),
            missing=dict(sorted(reasons.items())),
        )


def evaluate(prediction: Path | str, truth: Path | str) -> Stream[Evaluation]:
    """Score mask files against their truths; a pair that fails costs no other.

    Parameters
    ----------
    prediction, truth
        Two files, or two folders whose files are paired by name; what is without the
        other is named. HD95 is in mm where the truth (or else the prediction)
        has a spacing.

    Yields
    ------
    Notice, Scoring
        A :class:`~medsaga.Stop` ends it with the scores so far.

    Returns
    -------
    Evaluation
        Dice, HD95 and surface Dice by file and class.

    Raises
    ------
    MedsagaError
        If nothing can be paired, several masks have one name, or the only pair cannot
        be scored: its files cannot be read, are no masks, or do not fit together.
    """
    found = pair_files(prediction, truth)
    pairs = found.pairs
    scores: dict[str, Scores] = {}
    failed: dict[str, str] = {}
    is_complete = False
    try:
        if found.labels_alone:
            yield Notice(message=f"No prediction for: {listed(found.labels_alone)}.")
        if found.images_alone:
            yield Notice(message=f"No truth for: {listed(found.images_alone)}.")
        for done, pair in enumerate(pairs):
            yield Scoring(done=done, total=len(pairs))
            try:
                scores[stem(pair[0])] = yield from _score_pair(pair)
            except MedsagaError as error:
                if len(pairs) == 1:
                    raise
                failed[pair[0].name] = str(error)
                yield Notice(message=f"{pair[0].name} failed: {error}")
        is_complete = True
    except Stop:
        pass
    return Evaluation(
        scores=scores,
        failed=failed,
        without_prediction=tuple(file.name for file in found.labels_alone),
        is_complete=is_complete,
    )


def _score_pair(pair: Pair) -> Stream[Scores]:
    with memory_explained(_NOT_ENOUGH_MEMORY):
        predicted, true = map(_read_mask, pair)
        # The one that says where it lies decides on the axes, and so on the spacing.
        if true.spacing is not None:
            predicted, warning = match_labels(true, predicted)
        else:
            true, warning = match_labels(predicted, true)
        if warning is not None:
            yield Notice(message=warning)
        return score(
            predicted.array, true.array, spacing=true.spacing or predicted.spacing
        )


def _read_mask(path: Path) -> Volume:
    """Read a mask; an image of whole numbers would be scored for each of its greys."""
    mask = read_labels(path)
    n_values = len(distinct_values(mask.array, _MOST_VALUES))
    if n_values > _MOST_VALUES or (
        n_values > _FEW_VALUES and share_of_equal_neighbours(mask.array) < _LEAST_EQUAL
    ):
        raise MedsagaError(
            f"{path.name} holds many values that change from pixel to pixel, as an "
            "image does: give masks, with one value for each class."
        )
    return mask

"""The rounds of annotating and training that a predicted layer has behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medsaga.frontend import ClassMeasure


@dataclass(frozen=True, eq=False, kw_only=True)
class Round:
    """What one training gave.

    Attributes
    ----------
    model
        What the model is called.
    names
        Of the classes, by label value.
    dice
        By label value: what is to be expected on slices that nobody painted, or else
        what was measured.
    where
        What that is, in words.
    measures
        How much there is of each class, by label value; empty where nothing was
        segmented.
    """

    model: str
    names: Mapping[int, str]
    dice: Mapping[int, float]
    where: str
    measures: Mapping[int, ClassMeasure]

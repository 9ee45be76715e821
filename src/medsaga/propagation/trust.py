"""How much paint is worth beside a model; imports neither torch nor OpenCV."""

from __future__ import annotations

from dataclasses import dataclass

# What was best on nine tasks lay between 0 and 1.6, and half or twice of it cost little
# (docs/choices.md).
USUAL_GROWTH = 0.6
# A model of one painted slice knows little more than that slice does.
GROWTH_OF_ONE = 0.05


@dataclass(frozen=True, kw_only=True)
class PaintTrust:
    """How fast carried paint loses weight with the distance from the painted slices.

    Attributes
    ----------
    growth
        mm of doubt about where a boundary lies, for each mm of effective gap: 0 trusts
        the paint alone, a large one the model alone.
    n_pairs
        Painted slices that were left out one by one to find it; 0 where none were.
    """

    growth: float = USUAL_GROWTH
    n_pairs: int = 0

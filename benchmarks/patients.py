"""Which patients train, which are judged, and which of their slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from medsaga import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Slice = TypeVar("Slice")

SEED = 0
"""Of the split and of the draw, whatever the seed of the training is."""

TEST_SHARE = 0.2
"""Of the patients: the shares of the paper (arXiv 2407.15042) are unknown to us."""


def split_patients(
    patients: Iterable[str], seed: int = SEED
) -> tuple[list[str], list[str]]:
    """Split patients at random into those that train and those that are judged.

    The order of the latter is random too, so that its beginning is a fair sample.

    Raises
    ------
    MedsagaError
        If there are fewer than two.
    """
    ordered = sorted(set(patients))
    if len(ordered) < 2:
        raise MedsagaError(
            f"The images of {len(ordered)} patient(s) can be used here: unpack at "
            "least two, as patients that train are not judged."
        )
    np.random.default_rng(seed).shuffle(ordered)
    n_test = max(1, round(TEST_SHARE * len(ordered)))
    return ordered[n_test:], ordered[:n_test]


def draw(
    slices: Mapping[str, Sequence[Slice]], n: int, seed: int = SEED
) -> dict[str, list[Slice]]:
    """Draw n slices at random from all of them together.

    More slices contain fewer: those drawn for n = 100 begin with those for n = 50.

    Parameters
    ----------
    slices
        Of each patient.
    n
        How many are drawn.
    seed
        Another one draws others.

    Returns
    -------
    dict
        The drawn slices of each patient who has any.

    Raises
    ------
    MedsagaError
        If there are fewer than n.
    """
    pool = [(patient, one) for patient in slices for one in slices[patient]]
    if n > len(pool):
        raise MedsagaError(
            f"The patients that train have {len(pool)} slices that can be used, and "
            f"{n} are wanted: give a smaller --n."
        )
    drawn: dict[str, list[Slice]] = {}
    for index in np.random.default_rng([seed, 1]).permutation(len(pool))[:n]:
        patient, one = pool[index]
        drawn.setdefault(patient, []).append(one)
    return drawn

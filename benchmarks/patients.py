"""Which patients train, which are judged, and which of their slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from medsaga import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Slice = TypeVar("Slice")

SEED = 0
"""Of the split and of the draw, whatever the seed of the training is."""

TEST_SHARE = 0.2
"""Of the patients: the shares of the paper (arXiv 2407.15042) are unknown to us."""


@dataclass(frozen=True)
class Split(Generic[Slice]):
    """The slices of the patients that train and of those that are judged.

    Attributes
    ----------
    training
        The drawn slices of each patient who has any.
    test
        All usable slices of each patient that is judged.
    facts
        What the results say of it: its seed, numbers of patients and slices.
    """

    training: Mapping[str, Sequence[Slice]]
    test: Mapping[str, Sequence[Slice]]
    facts: Mapping[str, int]


def split_and_draw(
    slices: Mapping[str, Sequence[Slice]],
    n: int,
    test_patients: int | None = None,
    seed: int = SEED,
) -> Split[Slice]:
    """Split by patient, and draw n slices of those that train.

    Parameters
    ----------
    slices
        The usable ones of each patient.
    n
        How many train.
    test_patients
        At most so many patients are judged; None: all.
    seed
        Of the split and the draw.

    Raises
    ------
    MedsagaError
        If there are fewer than two patients, or fewer than n slices.
    """
    training, test = split_patients(slices, seed)
    judged = {patient: slices[patient] for patient in test[:test_patients]}
    return Split(
        training=draw({patient: slices[patient] for patient in training}, n, seed),
        test=judged,
        facts={
            "split_seed": seed,
            "patients_drawn_from": len(training),
            "patients_judged": len(judged),
            "slices_judged": sum(map(len, judged.values())),
        },
    )


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

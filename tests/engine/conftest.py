"""The synthetic volume as fixtures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.phantom import TINY, keep_slices, make_phantom, train
from tests.tubes import PAINTED, carrier_of, make_tubes

from medsaga.data.volume import Volume
from medsaga.propagation.carrying import Carrier
from medsaga.settings.fine_tune import FineTuneSettings


@pytest.fixture(scope="session")
def phantom() -> tuple[np.ndarray, np.ndarray]:
    return make_phantom()


@pytest.fixture(scope="session")
def tubes() -> tuple[np.ndarray, np.ndarray]:
    return make_tubes()


@pytest.fixture
def carrier(tubes) -> Carrier:
    """Of three painted slices of the tubes."""
    return carrier_of(tubes[0], keep_slices(tubes[1], PAINTED))


def pair_of(phantom: tuple[np.ndarray, np.ndarray]) -> tuple[Volume, Volume]:
    """Give the phantom as volumes, with four annotated slices."""
    arrays = phantom[0], keep_slices(phantom[1], [1, 4, 7, 10])
    image, labels = (
        Volume(array=array, spacing=(2.0, 1.0, 1.0), name="phantom") for array in arrays
    )
    return image, labels


@pytest.fixture
def image(phantom) -> Volume:
    return pair_of(phantom)[0]


@pytest.fixture
def labels(phantom) -> Volume:
    return pair_of(phantom)[1]


@pytest.fixture
def quick() -> FineTuneSettings:
    """Exact steps on the tiny random backbone, of painted slices alone: a second."""
    return replace(TINY, agreed_slices=0)


@pytest.fixture(scope="session")
def unbroken(phantom):
    """Model and events of the quick training of `image` and `labels`, on the CPU.

    For tests that only look at it, or compare another one with it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return train(*pair_of(phantom), replace(TINY, agreed_slices=0))


@pytest.fixture
def on_cpu(monkeypatch):
    """Leave a GPU alone: on it no two trainings are equal to the last bit."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

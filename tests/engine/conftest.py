"""The synthetic volume as fixtures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.phantom import TINY, keep_slices, make_phantom
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


@pytest.fixture
def image(phantom) -> Volume:
    return Volume(array=phantom[0], spacing=(2.0, 1.0, 1.0), name="phantom")


@pytest.fixture
def labels(phantom) -> Volume:
    array = keep_slices(phantom[1], [1, 4, 7, 10])
    return Volume(array=array, spacing=(2.0, 1.0, 1.0), name="phantom")


@pytest.fixture
def quick() -> FineTuneSettings:
    """Exact steps on the tiny random backbone, of painted slices alone: a second."""
    return replace(TINY, agreed_slices=0)


@pytest.fixture
def on_cpu(monkeypatch):
    """Leave a GPU alone: on it no two trainings are equal to the last bit."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

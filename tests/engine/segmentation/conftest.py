"""A model that many tests segment with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.phantom import TINY, keep_slices, make_phantom

from medsaga import TrainingData, drain, fine_tune


@pytest.fixture(scope="module")
def model():
    """After one step on three slices of the phantom."""
    image, labels = make_phantom()
    settings = replace(TINY, steps=1, head_views=4, head_steps=20)
    return drain(
        fine_tune(TrainingData(image, keep_slices(labels, [1, 4, 7])), settings)
    )

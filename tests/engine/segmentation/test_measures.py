"""How much of each class a mask holds."""

from __future__ import annotations

import numpy as np
import pytest

from medsaga import volume_from_array
from medsaga.frontend import measure_classes


def test_voxels_slices_and_millilitres():
    mask = np.zeros((4, 10, 10), np.uint8)
    mask[1:3, :5, :4] = 2
    mask[3, 0, 0] = 7
    two, seven, none = measure_classes(
        volume_from_array(mask, spacing=(5, 2, 2)), (2, 7, 9)
    )
    assert (two.n_voxels, two.n_slices, two.size) == (40, 2, pytest.approx(0.8))
    assert (seven.n_voxels, seven.n_slices) == (1, 1)
    assert (none.n_voxels, none.n_slices, none.size) == (0, 0, 0.0)


def test_slices_are_counted_along_the_axis():
    mask = np.zeros((4, 10, 10), np.uint8)
    mask[1:3, :5, :4] = 1
    (found,) = measure_classes(volume_from_array(mask), (1,), axis=2)
    assert found.n_slices == 4
    assert found.size is None


def test_an_image_has_an_area():
    mask = np.zeros((10, 10), np.uint8)
    mask[:5, :4] = 1
    (found,) = measure_classes(volume_from_array(mask, spacing=(0.5, 2)), (1,))
    assert found.size == pytest.approx(20)

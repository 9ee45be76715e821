from __future__ import annotations

import numpy as np
import pytest

from medsaga.data.volume import volume_from_array
from medsaga.errors import MedsagaError

STACK = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
COLOUR = np.arange(6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)


def test_slices_and_their_spacing_along_every_axis() -> None:
    volume = volume_from_array(STACK, spacing=(3.0, 0.5, 0.25))
    assert volume.shape == (5, 6, 7)
    np.testing.assert_array_equal(volume.slice(0, 2), STACK[2])
    np.testing.assert_array_equal(volume.slice(1, 3), STACK[:, 3])
    np.testing.assert_array_equal(volume.slice(2, 4), STACK[:, :, 4])
    spacings = [volume.slice_spacing(axis) for axis in range(3)]
    assert spacings == [(0.5, 0.25), (3.0, 0.25), (3.0, 0.5)]
    assert volume_from_array(STACK).slice_spacing(0) is None


def test_a_2d_array_is_a_stack_of_one_slice() -> None:
    volume = volume_from_array(STACK[0], spacing=(0.5, 0.25))
    assert volume.is_2d
    assert volume.shape == (1, 6, 7)
    assert volume.slice_spacing(0) == (0.5, 0.25)


def test_a_short_last_axis_of_bytes_is_colour() -> None:
    volume = volume_from_array(COLOUR)
    assert volume.is_rgb
    assert volume.is_2d
    assert volume.shape == (1, 6, 7)
    np.testing.assert_array_equal(volume.slice(0, 0), COLOUR)
    assert not volume_from_array(COLOUR.astype(np.int16)).is_rgb
    assert not volume_from_array(COLOUR, rgb=False).is_rgb
    alpha = np.concatenate([COLOUR, COLOUR[..., :1]], axis=-1)
    np.testing.assert_array_equal(volume_from_array(alpha).array[0], COLOUR)
    assert not volume_from_array(COLOUR[:3]).is_rgb


def test_other_values_keep_the_place_in_space() -> None:
    volume = volume_from_array(STACK, spacing=(3.0, 0.5, 0.25), name="ct")
    other = volume.with_array(STACK > 5)
    assert (other.spacing, other.name) == (volume.spacing, "ct")
    np.testing.assert_array_equal(other.array, STACK > 5)
    np.testing.assert_array_equal(volume.array, STACK)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4, 5), (0, 5), (3, 0, 5)])
def test_arrays_that_are_no_image_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MedsagaError, match="no image"):
        volume_from_array(np.zeros(shape))


def test_spacing_must_fit_the_axes() -> None:
    with pytest.raises(MedsagaError, match="2 numbers for 3 axes"):
        volume_from_array(STACK, spacing=(1.0, 2.0))

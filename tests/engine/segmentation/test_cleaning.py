from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medsaga.segmentation.cleaning import (
    clean_mask,
    fill_holes,
    keep_largest_components,
)
from medsaga.settings.segment import SegmentSettings

VALUES = (1, 5, 117)


def speckled(shape: tuple[int, int, int]) -> np.ndarray:
    """Blobs of each class with islands and holes."""
    noise = np.random.default_rng(0).normal(size=(4, *shape))
    smooth = [ndimage.gaussian_filter(plane, 1.2) for plane in noise]
    return np.array((0, *VALUES), np.uint8)[np.argmax(smooth, axis=0)]


@pytest.mark.parametrize("shape", [(20, 22, 24), (1, 50, 40)])
def test_one_component_of_each_class_stays_and_nothing_else_changes(shape):
    mask = speckled(shape)
    before = mask.copy()
    kept = keep_largest_components(mask, VALUES)
    assert np.array_equal(mask, before)
    touching = np.ones((3, 3, 3))
    for value in VALUES:
        components, n = ndimage.label(mask == value, touching)
        assert n > 1
        sizes = np.bincount(components.ravel())[1:]
        largest = components == 1 + sizes.argmax()
        assert np.array_equal(kept == value, largest)
    assert np.array_equal(kept[mask == 0], mask[mask == 0])
    again = keep_largest_components(kept, VALUES)
    assert np.array_equal(again, kept)


def test_only_the_named_classes_lose_islands():
    mask = speckled((12, 14, 16))
    kept = keep_largest_components(mask, (5, 99))
    assert (kept != mask).any()
    assert set(mask[kept != mask]) == {5}


def test_corners_connect_and_of_two_equal_parts_the_first_stays():
    mask = np.zeros((4, 4, 4), np.int16)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = -7
    kept = keep_largest_components(mask, (-7,))
    assert np.argwhere(kept).tolist() == [[0, 0, 0], [1, 1, 1]]
    mask[1, 1, 1] = 0
    assert np.argwhere(keep_largest_components(mask, (-7,))).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("shape", [(20, 22, 24), (1, 50, 40), (50, 1, 40)])
def test_holes_are_filled_only_where_they_are_background(shape):
    mask = speckled(shape)
    # Less of it all, so that there is background inside too.
    mask[np.random.default_rng(1).random(shape) < 0.15] = 0
    before = mask.copy()
    filled = fill_holes(mask, VALUES)
    assert np.array_equal(mask, before)
    changed = filled != mask
    assert changed.any()
    assert (mask[changed] == 0).all()
    thin = shape.index(1) if 1 in shape else ()
    enclosed = [
        ndimage.binary_fill_holes((mask == value).squeeze(thin)).reshape(shape)
        for value in VALUES
    ]
    for value, inside in zip(VALUES, enclosed, strict=True):
        assert inside[filled == value].all()
    assert (filled[np.any(enclosed, axis=0)] != 0).all()


def test_a_hole_is_closed_in_the_whole_volume_and_open_at_its_border():
    ring = np.zeros((5, 7, 7), np.uint8)
    ring[:, 1:6, 1:6] = 4
    ring[:, 3, 3] = 0
    assert np.array_equal(fill_holes(ring, (4,)), ring)  # a tube
    ring[[0, -1], 3, 3] = 4
    assert (fill_holes(ring, (4,))[:, 1:6, 1:6] == 4).all()
    assert (fill_holes(ring[2:3], (4,))[0, 1:6, 1:6] == 4).all()  # in 2-D


@pytest.mark.parametrize("values", [(1, 2), (2, 1)])
def test_what_two_classes_enclose_goes_to_the_inner_one(values):
    mask = np.zeros((1, 13, 13), np.uint8)
    mask[0, 1:12, 1:12] = 1
    mask[0, 2:11, 2:11] = 0
    mask[0, 4:9, 4:9] = 2
    mask[0, 5:8, 5:8] = 0
    filled = fill_holes(mask, values)[0]
    assert (filled[4:9, 4:9] == 2).all()
    assert (filled[1:12, 1:12] != 0).all()
    assert (filled == 2).sum() == 25


def test_a_hole_that_an_island_of_another_class_leaves_is_filled_too():
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[1:8, 1:8, 1:8] = 1
    mask[4, 4, 4] = 2
    mask[0, 0, :3] = 2
    both = SegmentSettings(largest_component=True, fill_holes=True)
    cleaned = clean_mask(mask, (1, 2), both)
    assert (cleaned[1:8, 1:8, 1:8] == 1).all()
    assert (cleaned == 2).sum() == 3
    assert clean_mask(mask, (1, 2), SegmentSettings()) is mask

"""Paint put onto the slice that a viewer shows, whatever way its layers lie."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from medsaga import MedsagaError
from napari_medsaga.layers.plane import Plane, go_to, paint

SHAPE = (5, 7, 9)


@pytest.fixture
def pair():
    image = Image(np.zeros(SHAPE, np.float32), scale=(3, 1, 2))
    return image, Labels(np.zeros(SHAPE, np.uint8), scale=(3, 1, 2))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_paint_lands_on_its_slice_and_can_be_taken_back(pair, axis):
    image, labels = pair
    size = tuple(n for a, n in enumerate(SHAPE) if a != axis)
    mask = np.zeros(size, bool)
    mask[1:3, 2:4] = True
    painted = paint(labels, image, Plane(axis, 2), mask, 3)
    np.testing.assert_array_equal(labels.data.take(2, axis) == 3, mask)
    assert (labels.data > 0).sum() == painted.n_pixels == 4
    painted.take_back()
    assert not labels.data.any()


def test_a_mirrored_layer_is_painted_where_the_image_shows_it(pair):
    image, _ = pair
    place = np.diag([1.0, -1.0, -1.0, 1.0])
    place[1, 3], place[2, 3] = 6, 16
    labels = Labels(np.zeros(SHAPE, np.uint8), scale=(3, 1, 2), affine=place)
    mask = np.zeros(SHAPE[1:], bool)
    mask[0, 1:3] = True
    paint(labels, image, Plane(0, 4), mask, 1)
    expected = np.zeros(SHAPE, np.uint8)
    expected[4] = mask[::-1, ::-1]
    np.testing.assert_array_equal(labels.data, expected)


def test_what_was_painted_since_is_not_taken_back(pair):
    image, labels = pair
    labels.data[1, 0, 0] = 9
    mask = np.zeros(SHAPE[1:], bool)
    mask[0, :3] = True
    painted = paint(labels, image, Plane(0, 1), mask, 2)
    labels.data[1, 0, 1] = 4
    painted.take_back()
    assert labels.data[1, 0, :3].tolist() == [9, 4, 0]


def test_preserved_labels_stay_and_undo_takes_one_step(pair):
    image, labels = pair
    labels.data[1, 0, 0] = 9
    labels.preserve_labels = True
    mask = np.zeros(SHAPE[1:], bool)
    mask[0, :3] = True
    paint(labels, image, Plane(0, 1), mask, 2)
    assert labels.data[1, 0, :4].tolist() == [9, 2, 2, 0]
    labels.undo()
    assert labels.data[1, 0, :4].tolist() == [9, 0, 0, 0]


def test_values_of_a_whole_slice(pair):
    image, labels = pair
    values = np.arange(63).reshape(7, 9) % 4
    paint(labels, image, Plane(0, 0), values != 0, values)
    np.testing.assert_array_equal(labels.data[0], values)


def test_layers_that_lie_elsewhere_and_large_values_are_refused(pair):
    image, labels = pair
    mask = np.ones(SHAPE[1:], bool)
    with pytest.raises(MedsagaError, match="from 0 to 255"):
        paint(labels, image, Plane(0, 0), mask, 300)
    away = Labels(np.zeros(SHAPE, np.uint8), translate=(0, 3, 0))
    with pytest.raises(MedsagaError, match="does not lie on"):
        paint(away, image, Plane(0, 0), mask, 1)
    flat = Labels(np.zeros(SHAPE[1:], np.uint8))
    with pytest.raises(MedsagaError, match="does not lie on"):
        paint(flat, image, Plane(0, 0), mask, 1)


def test_the_shown_plane_follows_the_viewer():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros(SHAPE), scale=(3, 1, 2))
    go_to(viewer, image, 0, 3)
    assert Plane.shown(viewer, image) == Plane(0, 3)
    go_to(viewer, image, 2, 5)
    assert Plane.shown(viewer, image) == Plane(2, 5)
    assert Plane(2, 5).position(viewer, image, (3, 2, 10)) == (1.5, 2.5)
    viewer.dims.ndisplay = 3
    assert Plane.shown(viewer, image) is None
    flat = ViewerModel().add_image(np.zeros((4, 4)))
    assert Plane.shown(ViewerModel(), flat) == Plane(0, 0, is_2d=True)

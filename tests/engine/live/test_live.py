"""What is painted is learned at once, and suggests the other slices."""

from __future__ import annotations

import numpy as np
import pytest
from tests.phantom import VALUES, make_phantom

from medsaga import LivePredictor, MedsagaError, volume_from_array
from medsaga.live.slice_features import SliceFeatures


@pytest.fixture(scope="module")
def phantom():
    image, labels = make_phantom(8, 96)
    return volume_from_array(image, spacing=(3, 1, 1)), labels


@pytest.fixture(scope="module")
def taught(phantom):
    """A predictor that has learned from one slice as a whole."""
    image, labels = phantom
    live = LivePredictor(image)
    live.paint(4, labels[4])
    return live


def dice(one: np.ndarray, other: np.ndarray, values=VALUES) -> float:
    scores = []
    for value in values:
        a, b = one == value, other == value
        scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(np.mean(scores))


def stroked(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give strokes across every class, background among them, as (values, known)."""
    known = np.zeros(labels.shape, bool)
    known[::6] = True
    return np.where(known, labels, 0), known


def test_neighbours_of_a_painted_slice_are_suggested(taught, phantom):
    _, labels = phantom
    for index in (3, 5):
        found = taught.suggest(index)
        assert found.shape == labels[index].shape
        assert set(np.unique(found)) <= {0, *VALUES}
        assert dice(found, labels[index]) > 0.8


def test_strokes_teach_the_slice_that_they_are_on(phantom):
    image, labels = phantom
    live = LivePredictor(image)
    live.paint(4, *stroked(labels[4]))
    assert dice(live.suggest(4), labels[4]) > 0.6


def test_more_paint_is_learned_and_the_same_is_not(phantom):
    image, labels = phantom
    live = LivePredictor(image)
    once = np.where(labels[4] == VALUES[0], labels[4], 0)
    live.paint(4, once)
    assert set(np.unique(live.suggest(3))) == {0, VALUES[0]}
    live.paint(4, once.copy())
    live.suggest(4)
    assert live.n_fits == 1
    live.paint(4, labels[4])
    assert set(np.unique(live.suggest(3))) == {0, *VALUES}
    assert live.n_fits == 2


def test_it_forgets_what_is_erased(phantom):
    image, labels = phantom
    live = LivePredictor(image)
    with pytest.raises(MedsagaError, match="Nothing is painted yet"):
        live.suggest(4)
    live.paint(4, labels[4])
    live.paint(5, np.where(labels[5] == VALUES[2], 9, 0))
    assert 9 in live.suggest(6)
    live.erase(5)
    assert 9 not in live.suggest(6)
    live.erase(4)
    with pytest.raises(MedsagaError, match="Nothing is painted yet"):
        live.suggest(6)


def test_strokes_without_background_are_refused(phantom):
    image, labels = phantom
    live = LivePredictor(image)
    live.paint(4, labels[4], labels[4] != 0)
    with pytest.raises(MedsagaError, match="background"):
        live.suggest(4)


def test_it_is_the_same_each_time(taught, phantom):
    image, labels = phantom
    other = LivePredictor(image)
    other.look_at(6)
    other.paint(4, labels[4])
    assert np.array_equal(other.suggest(6), taught.suggest(6))


def test_what_was_seen_is_kept_and_forgotten_in_order(phantom, monkeypatch):
    image, labels = phantom
    seen, compute = [], SliceFeatures._compute
    monkeypatch.setattr(
        SliceFeatures, "_compute", lambda own, i: seen.append(i) or compute(own, i)
    )
    live = LivePredictor(image, cache_mb=12)  # of 5 MiB each
    live.paint(4, labels[4])
    live.suggest(4)
    live.suggest(5)
    live.suggest(4)
    assert seen == [4, 5]
    live.suggest(6)
    live.suggest(5)
    assert seen == [4, 5, 6, 5]


def test_fine_structures_are_seen_at_a_larger_size():
    rows = np.arange(256)
    labels = np.zeros((256, 256), np.uint8)
    labels[:, rows % 32 < 2] = 1
    array = np.stack([100 * labels + 20] * 3).astype(np.float32)
    live = LivePredictor(volume_from_array(array))
    live.look_at(0)
    live.paint(1, labels)
    assert dice(live.suggest(1), labels, [1]) > 0.8


def test_a_first_dab_does_not_enlarge_what_is_seen():
    labels = np.zeros((3, 300, 300), np.uint8)
    labels[:, 100:200, 100:200] = 1
    array = (100 * labels + 20).astype(np.float32)
    live = LivePredictor(volume_from_array(array))
    dab = np.zeros((300, 300), np.uint8)
    dab[150:153, 150:153] = 1
    live.paint(1, dab)
    live.suggest(1)
    before = live._seen().of(1).padded
    live.paint(1, labels[1])
    live.paint(2, dab)
    live.suggest(2)
    assert live._seen().of(1).padded == before


def test_of_many_slices_some_are_learned(monkeypatch):
    shape = (60, 48, 48)
    labels = np.zeros(shape, np.uint8)
    labels[:, 10:30, 10:30] = 1
    array = np.random.default_rng(0).normal(20, 3, shape) + 100 * labels
    live = LivePredictor(volume_from_array(array.astype(np.float32)))
    for index in range(59):
        live.paint(index, labels[index])
    assert dice(live.suggest(59), labels[59], [1]) > 0.9
    assert len(live._paint._samples) <= 25


@pytest.mark.parametrize("axis", [1, 2])
def test_slices_across_another_axis(phantom, axis):
    image, labels = phantom
    other_axes = tuple(a for a in range(3) if a != axis)
    index = int((labels != 0).sum(other_axes).argmax())
    live, truth = LivePredictor(image, axis=axis), labels.take(index, axis)
    live.paint(index, truth)
    beside = live.suggest(index + 1)
    assert beside.shape == truth.shape
    assert dice(beside, labels.take(index + 1, axis), np.unique(truth)[1:]) > 0.6


def test_2d_images_and_colours(phantom):
    image, labels = phantom
    grey = np.clip(image.array[4], 0, 255).astype(np.uint8)
    for array, rgb in ((grey, False), (np.stack([grey] * 3, -1), True)):
        live = LivePredictor(volume_from_array(array, rgb=rgb))
        live.paint(0, *stroked(labels[4]))
        assert dice(live.suggest(0), labels[4]) > 0.6


def test_what_cannot_be_meant_is_refused(taught, phantom):
    image, labels = phantom
    with pytest.raises(MedsagaError, match="no axis 3"):
        LivePredictor(image, axis=3)
    with pytest.raises(MedsagaError, match="no slice 8"):
        taught.suggest(8)
    with pytest.raises(MedsagaError, match="no slice -1"):
        taught.paint(-1, labels[0])
    with pytest.raises(MedsagaError, match="own size"):
        taught.paint(2, labels[2][:50])
    with pytest.raises(MedsagaError, match="whole numbers"):
        taught.paint(2, labels[2].astype(float))

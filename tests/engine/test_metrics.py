from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial import cKDTree

from medsaga.metrics import score


def blobs(shape: tuple[int, ...], seed: int, n_classes: int = 3) -> np.ndarray:
    """Random smooth regions that touch the borders, with labels 0, 1, 5, 9, ..."""
    noise = np.random.default_rng(seed).normal(size=(n_classes + 1, *shape))
    smooth = np.stack([gaussian_filter(n, 2) for n in noise])
    return np.array([0, *range(1, 4 * n_classes, 4)])[smooth.argmax(0)]


def brute_hd95(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> float:
    surfaces = [np.argwhere(m & ~binary_erosion(m)) * spacing for m in (a, b)]
    there = cKDTree(surfaces[1]).query(surfaces[0])[0]
    back = cKDTree(surfaces[0]).query(surfaces[1])[0]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def brute_surface_dice(a, b, spacing: tuple[float, ...]) -> float:
    surfaces = [np.argwhere(m & ~binary_erosion(m)) * spacing for m in (a, b)]
    there = cKDTree(surfaces[1]).query(surfaces[0])[0]
    back = cKDTree(surfaces[0]).query(surfaces[1])[0]
    near = (there < 1 + 1e-6).sum() + (back < 1 + 1e-6).sum()
    return float(near / (len(there) + len(back)))


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((14, 23, 18), None),
        ((14, 23, 18), (3.0, 0.5, 0.75)),
        ((40, 31), None),
        ((40, 31), (0.5, 0.2)),
    ],
)
def test_equals_brute_force(
    shape: tuple[int, ...], spacing: tuple[float, ...] | None
) -> None:
    prediction, truth = blobs(shape, 1), blobs(shape, 2)
    scores = score(prediction.astype(np.int16), truth.astype(np.uint8), None, spacing)
    assert set(scores.dice) == set(scores.hd95) == {1, 5, 9}
    assert scores.unit == ("mm" if spacing else "pixels")
    for value in (1, 5, 9):
        a, b = prediction == value, truth == value
        dice = 2 * (a & b).sum() / (a.sum() + b.sum())
        assert scores.dice[value] == pytest.approx(dice, abs=1e-6)
        hd95 = brute_hd95(a, b, spacing or (1.0,) * len(shape))
        assert scores.hd95[value] == pytest.approx(hd95, rel=1e-5)
        surface_dice = brute_surface_dice(a, b, spacing or (1.0,) * len(shape))
        assert scores.surface_dice[value] == pytest.approx(surface_dice, abs=1e-6)
    assert scores.mean_dice == pytest.approx(np.mean(list(scores.dice.values())))
    assert scores.mean_hd95 == pytest.approx(np.mean(list(scores.hd95.values())))


def test_small_and_distant_masks() -> None:
    prediction, truth = np.zeros((2, 30, 40, 20), np.uint8)
    prediction[0, 0, 0] = 1
    truth[29, 39, 19] = 1
    scores = score(prediction, truth, spacing=(2.0, 1.0, 1.0))
    assert scores.dice == {1: 0.0}
    assert scores.hd95[1] == pytest.approx(math.hypot(58, 39, 19), rel=1e-6)
    assert scores.surface_dice == {1: 0.0}


def test_perfect_masks() -> None:
    truth = blobs((10, 20, 20), 3)
    scores = score(truth, truth)
    assert scores.mean_dice == 1
    assert scores.mean_hd95 == 0
    assert not scores.missing


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_stack_of_one_slice_is_scored_in_2d(axis: int) -> None:
    prediction, truth = blobs((40, 31), 1), blobs((40, 31), 2)
    flat = score(prediction, truth, spacing=(0.5, 0.2))
    spacing = [0.5, 0.2]
    spacing.insert(axis, 7.0)
    stack = score(
        np.expand_dims(prediction, axis),
        np.expand_dims(truth, axis),
        spacing=tuple(spacing),
    )
    assert stack == flat


def test_classes_that_one_or_both_lack() -> None:
    prediction, truth = np.zeros((2, 12, 12), np.uint8)
    prediction[:4], truth[:5] = 1, 1
    prediction[6] = 2
    truth[8] = 3
    scores = score(prediction, truth, values=[0, 1, 2, 3, 4])
    assert set(scores.dice) == {1, 2, 3}
    assert scores.dice[2] == scores.dice[3] == 0
    assert set(scores.hd95) == {1}
    assert scores.missing == {2: "not in the truth", 3: "not predicted"}
    assert scores.mean_dice == pytest.approx(8 / 9 / 3)
    assert scores.mean_hd95 == scores.hd95[1] == 1
    assert score(prediction, truth) == scores
    assert set(score(prediction, truth, values=[1]).dice) == {1}


def test_nothing_to_score_is_nan() -> None:
    empty = np.zeros((5, 5), np.uint8)
    scores = score(empty, empty)
    assert scores.dice == scores.hd95 == scores.missing == {}
    assert math.isnan(scores.mean_dice)
    assert math.isnan(scores.mean_hd95)


def test_shapes_and_spacing_must_fit() -> None:
    with pytest.raises(ValueError, match="shapes"):
        score(np.zeros((5, 5)), np.zeros((1, 5, 5)))
    with pytest.raises(ValueError, match="spacing"):
        score(np.zeros((5, 5)), np.zeros((5, 5)), spacing=(1.0, 1.0, 1.0))

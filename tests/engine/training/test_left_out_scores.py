"""What slices that were left out tell of the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.phantom import keep_slices
from tests.tubes import PAINTED, carrier_of, logits_of

from medsaga.propagation.trust import USUAL_GROWTH
from medsaga.training.paint_context.left_out_scores import LeftOutScores


@pytest.mark.parametrize("model_is_right", [True, False])
def test_the_slices_tell_who_is_right(tubes, carrier, model_is_right):
    scores = LeftOutScores((3, 7), (3, 3))
    for index in PAINTED:
        truth = tubes[1][index]
        said = truth if model_is_right else np.roll(truth, 9, axis=0)
        scores.take(logits_of(said), truth, carrier, index)
    trust = scores.trust()
    assert trust.n_pairs == 3
    expected = scores.expected_dice()
    assert set(expected) == {3, 7}
    if model_is_right:
        assert trust.growth >= USUAL_GROWTH
        assert min(expected.values()) > 0.95
    else:
        assert trust.growth < USUAL_GROWTH


def test_where_it_makes_no_difference_the_usual_trust_stays(tubes, carrier):
    assert LeftOutScores((3, 7), (3, 3)).trust() is None
    scores = LeftOutScores((3, 7), (3, 3))
    nothing = torch.zeros(3, *carrier.shape)
    nothing[0] = 100.0  # of which no paint takes anything away
    scores.take(nothing, tubes[1][9], carrier, 9)
    assert scores.trust().growth == USUAL_GROWTH


def test_without_carried_paint_the_model_alone_is_scored(tubes):
    scores = LeftOutScores((3, 7), (3, 3))
    for index in PAINTED:
        truth = tubes[1][index]
        scores.take(logits_of(np.roll(truth, 2, axis=0)), truth, None, index)
    assert scores.trust() is None
    common = wrong = 0
    for index in PAINTED:
        one, other = np.roll(tubes[1][index], 2, axis=0) == 3, tubes[1][index] == 3
        common += 2 * (one & other).sum()
        wrong += one.sum() + other.sum()
    assert scores.expected_dice()[3] == pytest.approx(common / wrong)


def test_a_class_that_no_other_slice_shows_is_not_forecast(tubes):
    scores = LeftOutScores((3, 7), (3, 1))
    for index in PAINTED:
        truth = tubes[1][index].copy()
        if index != 9:
            truth[truth == 7] = 0
        said = np.where(truth == 3, 3, 0)
        scores.take(logits_of(said), truth, None, index)
    assert scores.expected_dice() == {3: 1.0}


def test_slices_nearer_to_the_paint_are_expected_to_be_better(tubes, carrier):
    near, far = LeftOutScores((3, 7), (3, 3)), LeftOutScores((3, 7), (3, 3))
    for index in PAINTED:
        truth = tubes[1][index]
        said = logits_of(np.roll(truth, 4, axis=0), sure=50.0)
        near.take(said, truth, carrier, index)
        far.take(said, truth, None, index)
    assert near.expected_dice()[3] > far.expected_dice()[3]


def test_empty_slices_tell_nothing(tubes):
    image, truth = tubes
    empty = carrier_of(image, keep_slices(truth, [2]), empty_slices=[9, 16])
    scores = LeftOutScores((3, 7), (1, 1))
    nothing = torch.zeros(3, *empty.shape)
    nothing[0] = 100.0
    for index in (9, 16):
        scores.take(nothing, np.zeros_like(truth[0]), None, index)
    assert scores.trust() is None
    assert scores.expected_dice() == {}

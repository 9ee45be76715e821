from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medsaga.training.optim.losses import SegmentationLoss


@pytest.fixture
def target():
    return torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def logits():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def _by_hand(logits, target, weight):
    probabilities = torch.softmax(logits, 1)
    one_hot = F.one_hot(target, 3).movedim(-1, 1).float()
    overlap = (probabilities * one_hot).sum((0, 2, 3))
    dice = 1 - 2 * overlap / (probabilities.sum((0, 2, 3)) + one_hot.sum((0, 2, 3)))
    return (1 - weight) * F.cross_entropy(logits, target) + weight * dice.mean()


@pytest.mark.parametrize("weight", [0.0, 0.8, 1.0])
def test_is_the_papers_weighted_sum(logits, target, weight):
    expected = _by_hand(logits, target, weight)
    torch.testing.assert_close(
        SegmentationLoss(weight)(logits, target), expected, atol=1e-4, rtol=1e-4
    )


def test_dice_is_monais(logits, target):
    from monai.losses import DiceLoss

    target[target == 2] = 0  # a class that is nowhere counts as found, but for what is
    one_hot = F.one_hot(target, 3).movedim(-1, 1)
    expected = DiceLoss(softmax=True, batch=True)(logits, one_hot)
    torch.testing.assert_close(SegmentationLoss(1.0)(logits, target), expected)


def test_falls_to_nothing_when_right(target):
    logits = 50.0 * F.one_hot(target, 3).movedim(-1, 1).float()
    assert SegmentationLoss(0.8)(logits, target) < 1e-4


def test_unknown_pixels_count_in_neither_part(logits, target):
    target[:, :, 4:] = -1
    changed = logits.clone()
    changed[..., 4:] = torch.randn(2, 3, 8, 4)
    loss = SegmentationLoss(0.8)
    torch.testing.assert_close(loss(logits, target), loss(changed, target))
    cropped = loss(logits[..., :4], target[..., :4])
    torch.testing.assert_close(loss(logits, target), cropped)


def test_a_batch_without_any_known_pixel_is_no_nan(logits):
    loss = SegmentationLoss(0.8)(logits, torch.full((2, 8, 8), -1))
    assert torch.isfinite(loss)


def test_the_target_comes_down_to_the_decoders_resolution(logits, target):
    fine = target.repeat_interleave(4, 1).repeat_interleave(4, 2)
    loss = SegmentationLoss(0.8)
    torch.testing.assert_close(loss(logits, fine), loss(logits, target))

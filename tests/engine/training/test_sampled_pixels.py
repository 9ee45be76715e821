from __future__ import annotations

import pytest
import torch

from medsaga.data.sizing import IGNORE
from medsaga.training.features.sampled_pixels import PixelQuota

QUOTA = PixelQuota(per_class=100, background=300, n_classes=2, seed=0)


def _square(rows: slice, columns: slice) -> torch.Tensor:
    target = torch.zeros(80, 80, dtype=torch.long)
    target[rows, columns] = 1
    return target


def _depths(points: torch.Tensor, target: torch.Tensor, index: int) -> torch.Tensor:
    """How far the points of a class are from the nearest pixel of another one."""
    own = points[target[points[:, 0], points[:, 1]] == index]
    others = ((target != index) & (target != IGNORE)).nonzero()
    return (own[:, None] - others).abs().amax(-1).amin(-1)


@pytest.mark.parametrize("index", [0, 1])
def test_half_of_a_class_comes_from_its_boundary(index):
    target = _square(slice(20, 60), slice(20, 60))
    depths = _depths(QUOTA.draw(target, view=0), target, index)
    assert len(depths) == (QUOTA.per_class if index else QUOTA.background)
    assert (depths <= 4).float().mean() == 0.5


def test_a_class_that_is_all_boundary_still_gives_its_quota():
    target = _square(slice(20, 24), slice(10, 70))
    points = QUOTA.draw(target, view=0)
    assert (target[points[:, 0], points[:, 1]] == 1).sum() == QUOTA.per_class


def test_a_class_that_has_few_pixels_gives_each_of_them_once():
    target = _square(slice(20, 25), slice(20, 25))
    points = QUOTA.draw(target, view=0)
    drawn = points[target[points[:, 0], points[:, 1]] == 1]
    assert len(drawn.unique(dim=0)) == len(drawn) == 25


def test_the_end_of_the_paint_is_no_boundary():
    strokes = torch.full((80, 80), IGNORE)
    strokes[:40], strokes[60:] = 1, 0  # farther apart than a boundary reaches
    ones = QUOTA.draw(strokes, view=0)
    rows = ones[strokes[ones[:, 0], ones[:, 1]] == 1, 0]
    assert (strokes[ones[:, 0], ones[:, 1]] != IGNORE).all()
    # As many as its area has, not half of them.
    assert (rows >= 35).float().mean() < 0.3


def test_a_view_gives_the_same_pixels_again_and_another_view_others():
    target = _square(slice(20, 60), slice(20, 60))
    first = QUOTA.draw(target, view=3)
    assert torch.equal(QUOTA.draw(target, view=3), first)
    assert not torch.equal(QUOTA.draw(target, view=4), first)

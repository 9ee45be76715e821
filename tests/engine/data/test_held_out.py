from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.phantom import slice_of

from medsaga.data.held_out import split_held_out
from medsaga.data.samples import Sample


def _sample(index: int, classes: list[int]) -> Sample:
    target = torch.tensor([[0, *classes]])
    return Sample(
        image=torch.zeros(3, *target.shape),
        target=target,
        labels=target.short(),
        id=slice_of("ct", index),
        truth=np.zeros(target.shape, np.uint8),
        spacing=None,
        content=(1, 1),
    )


def test_below_the_number_all_train():
    samples = [_sample(i, [1]) for i in range(7)]
    training, held_out = split_held_out(samples, 2, 8)
    assert (len(training), held_out) == (7, [])


@pytest.mark.parametrize("n", [8, 20, 100])
def test_a_fifth_is_held_out_and_spread(n):
    samples = [_sample(i, [1]) for i in range(n)]
    training, held_out = split_held_out(samples, 2, 8)
    assert len(held_out) == max(2, round(n / 5))
    assert len(training) + len(held_out) == n
    indices = [s.id.index for s in held_out]
    assert min(indices) < n / 2 <= max(indices)


def test_a_slice_that_alone_carries_a_class_trains():
    samples = [_sample(i, [1, 2] if i in (3, 6) else [1]) for i in range(10)]
    samples[5] = _sample(5, [1, 3])
    training, held_out = split_held_out(samples, 4, 8)
    trained = {int(c) for s in training for c in s.target.unique()}
    assert trained == {0, 1, 2, 3}
    assert len(held_out) == 2


def test_a_slice_that_alone_carries_background_trains():
    samples = [_sample(i, [1]) for i in range(10)]
    for i, sample in enumerate(samples):
        sample.target[sample.target == 0] = 0 if i == 3 else -1
    training, held_out = split_held_out(samples, 2, 8)
    assert samples[3] in training
    assert len(held_out) == 2


def test_a_model_that_goes_on_keeps_its_split():
    """What it has trained on says nothing of it, what was held out still does."""
    before = [_sample(i, [1]) for i in range(20)]
    training, held_out = split_held_out(before, 2, 8)
    trained, before_out = ({s.id for s in part} for part in (training, held_out))
    now = [_sample(100, [1]), *before, _sample(101, [1])]
    training, again = split_held_out(now, 2, 8, before=before_out, trained=trained)
    assert set(held_out) <= set(again)
    assert {s.id.index for s in again} <= {
        *(s.id.index for s in held_out),
        100,
        101,
    }
    assert len(training) + len(again) == 22
    everything = trained | before_out
    assert split_held_out(before, 2, 8, trained=everything)[1] == []

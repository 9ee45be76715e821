"""Advice: the slices that are worth paint, and a look."""

from __future__ import annotations

import numpy as np
import pytest
from tests.phantom import TINY, keep_slices, train

from medsaga import (
    Advice,
    MedsagaError,
    Stop,
    Volume,
    advise,
    drain,
    save_model,
    segment,
)
from medsaga.events import JudgedSlice, Notice

PAINTED = [1, 4, 7, 10]


@pytest.fixture(scope="module")
def model(phantom):
    image, labels = phantom
    return train(image, keep_slices(labels, PAINTED), TINY)[0]


def advice(doubts, painted=()):
    nothing = Volume(array=np.zeros((len(doubts), 2, 2), np.float32))
    return Advice(
        axis=0,
        painted=tuple(painted),
        errors=tuple(doubts),
        doubts=tuple(doubts),
        most_doubtful=(1,) * len(doubts),
        mask=nothing,
        uncertainty=nothing,
        n_slices=len(doubts),
    )


def test_even_doubts_are_painted_evenly():
    chosen = sorted(advice([1.0] * 21, painted=[0, 20]).to_paint(3))
    assert chosen == pytest.approx([5, 10, 15], abs=2)
    assert advice([1.0] * 9).to_paint(1) == [4]


def test_doubts_draw_paint_to_them_but_not_to_neighbours_of_paint():
    doubts = [1.0] * 20
    doubts[13:18] = [5.0] * 5
    chosen = advice(doubts, painted=[2]).to_paint(2)
    assert 13 <= chosen[0] <= 17
    assert abs(chosen[1] - chosen[0]) > 2
    doubts[3] = 6.0  # next to paint, which tells of it already
    assert advice(doubts, painted=[2]).to_paint(1)[0] != 3


def test_no_more_slices_are_named_than_are_free():
    found = advice([0.0, 1.0, 2.0], painted=[1])
    assert found.to_paint(5) == [2, 0]
    assert found.to_review() == [2, 0]
    assert advice([0.0], painted=[0]).to_paint(2) == []


def test_a_slice_that_the_model_cannot_read_comes_first(model, phantom):
    image, labels = phantom
    spoilt = image.copy()
    random = np.random.default_rng(0)
    spoilt[5] = random.permuted(image[5].ravel()).reshape(image[5].shape)
    painted = keep_slices(labels, [1, 4, 10])
    found = drain(advise(model, spoilt, labels=painted))
    assert found.is_complete
    assert found.painted == (1, 4, 10)
    assert found.to_review()[0] == 5
    assert not {1, 4, 10} & set(found.to_review())
    assert found.uncertainty.array[5].max() > found.uncertainty.array[4].max() == 0


def test_the_events_say_what_the_advice_says(model, phantom):
    events = []
    found = drain(advise(model, phantom[0]), events.append)
    judged = [e for e in events if isinstance(e, JudgedSlice)]
    assert [e.index for e in judged] == list(range(12))
    assert [e.errors for e in judged] == pytest.approx(found.errors)
    assert [e.message for e in events if isinstance(e, Notice)] == [
        "4 painted slices are carried to the other slices."
    ]
    assert found.painted == tuple(PAINTED)
    assert found.uncertainty.array.shape == phantom[0].shape
    map_sums = found.uncertainty.array.sum(axis=(1, 2))
    np.testing.assert_allclose(map_sums, found.errors, rtol=1e-4)
    mask = drain(segment(model, phantom[0])).mask.array
    shown = np.stack([e.mask for e in judged])
    np.testing.assert_array_equal(shown, mask)


def test_without_paint_the_model_alone_is_asked(model, phantom, tmp_path):
    image = phantom[0] + 1.0  # another image, of which no slice is known
    found = drain(advise(save_model(model, tmp_path / "model"), image))
    assert found.painted == ()
    assert min(found.errors) >= 0
    assert len(set(found.to_paint(3))) == 3


def test_what_was_looked_at_is_kept_when_it_is_stopped(model, phantom):
    stream = advise(model, phantom[0])
    event = next(stream)
    while not (isinstance(event, JudgedSlice) and event.index == 3):
        event = next(stream)
    with pytest.raises(StopIteration) as ended:
        stream.throw(Stop())
    found = ended.value.value
    assert not found.is_complete
    assert len(found.errors) == len(found.doubts) == 4
    assert max(found.to_review()) < 4


def test_one_slice_has_nothing_to_choose(model, phantom):
    with pytest.raises(MedsagaError, match="nothing to choose"):
        drain(advise(model, phantom[0][5]))

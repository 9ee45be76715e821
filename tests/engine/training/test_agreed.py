"""Slices beside painted ones train where model and carried paint agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.engine.training.conftest import begin, stop_when
from tests.phantom import TINY, keep_slices, make_phantom, train

from medsaga import TrainingData, drain, fine_tune
from medsaga.data.sizing import IGNORE
from medsaga.events import Progress
from medsaga.training.paint_context import agreed as agreed_module
from medsaga.training.paint_context.agreed import Neighbour, find_agreed, with_agreed

PAINTED = [2, 8]


def prepared(image, labels, settings=TINY):
    setup, state, _ = begin(image, labels, settings)
    return setup, state.network


@pytest.fixture(scope="module")
def found():
    image, labels = make_phantom()
    setup, network = prepared(image, keep_slices(labels, PAINTED))
    return setup, drain(find_agreed(setup, network))


def test_neighbours_are_looked_at_and_no_painted_slice(found):
    setup, agreed = found
    assert [one.id.index for one in setup.neighbours] == [0, 1, 3, 4, 6, 7, 9, 10]
    assert len(agreed) == 8


def test_what_is_known_is_what_the_paint_says(found):
    setup, agreed = found
    truth = make_phantom()[1]
    for one, indices in zip(setup.neighbours, agreed, strict=True):
        sample = one.sample(indices, setup.table)
        known = sample.known
        assert sample.image.shape[1:] == setup.training[0].image.shape[1:]
        assert (indices == IGNORE).any(), "an untrained model agrees on everything"
        assert (sample.truth[known] == truth[one.id.index][known]).mean() > 0.97


def test_half_of_the_views_are_painted_ones(found):
    setup, agreed = found
    samples = with_agreed(setup, agreed)
    n_painted = sum(sample.known is None for sample in samples)
    assert n_painted == len(samples) / 2
    assert with_agreed(setup, []) == list(setup.training)


def test_it_is_read_as_it_was_written(found):
    for one in found[0].neighbours:
        again = Neighbour.read(one.tensors(), one.notes())
        assert again.id == one.id
        assert torch.equal(again.seen.image, one.seen.image)
        np.testing.assert_array_equal(again.of_paint, one.of_paint)
        assert again.seen.content == one.seen.content
        assert again.seen.size == one.seen.size
        assert again.spacing == one.spacing


def test_flat_images_strokes_and_the_setting_have_none():
    image, labels = make_phantom()
    painted = keep_slices(labels, PAINTED)
    off = prepared(image, painted, replace(TINY, agreed_slices=0))
    flat = prepared(list(image[:4]), list(labels[:4]))
    sparse = replace(TINY, sparse=True, background_value=1)
    strokes = prepared(image, painted, sparse)
    for setup, _ in (off, flat, strokes):
        assert setup.neighbours == []


def test_held_out_slices_stay_out():
    image, labels = make_phantom(24)
    settings = replace(TINY, hold_out_from=4)
    setup, _ = prepared(image, keep_slices(labels, [2, 6, 10, 14, 18]), settings)
    held_out = {sample.id.index for sample in setup.held_out}
    assert held_out
    near = {index + step for index in held_out for step in (-1, 1)}
    assert not {one.id.index for one in setup.neighbours} & (held_out | near)


def test_what_is_held_out_of_one_image_trains_in_another():
    image, labels = make_phantom()
    painted = keep_slices(labels, PAINTED)
    setup, _ = prepared([image, image + 1], [painted, painted])
    first, second = (one.fingerprint for one in setup.images)
    held_out = [s for s in setup.training if s.id.image == second]
    training = [s for s in setup.training if s.id.image == first]
    setup = replace(setup, training=training, held_out=held_out)
    found = {(one.id.image, one.id.index) for one in setup.neighbours}
    assert found == {(first, index) for index in (0, 1, 3, 4, 6, 7, 9, 10)}


def test_many_painted_slices_have_no_more_than_the_most(monkeypatch):
    monkeypatch.setattr(agreed_module, "_MOST", 3)
    image, labels = make_phantom()
    setup, _ = prepared(image, keep_slices(labels, PAINTED))
    assert [one.id.index for one in setup.neighbours] == [1, 3, 7]


def test_a_training_says_it_and_its_card_names_the_painted_slices_alone():
    image, labels = make_phantom()
    model, events = train(image, keep_slices(labels, PAINTED), TINY)
    looked = [e for e in events if isinstance(e, Progress) and e.stage == "agreed"]
    assert len(looked) == 8
    assert [one.index for one in model.card.training_slices] == PAINTED
    assert model.card.settings["agreed_slices"] == 2


def test_a_stop_while_it_looks_keeps_the_head():
    image, labels = make_phantom()
    data = TrainingData(image, keep_slices(labels, PAINTED))
    model = stop_when(
        fine_tune(data, TINY), lambda e: isinstance(e, Progress) and e.stage == "agreed"
    )
    assert model.card.metrics["step"] == 0
    assert model.card.settings["steps"] == TINY.steps

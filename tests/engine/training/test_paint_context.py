"""What is painted beside what is learned: shown first, weighed, and joined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.engine.training.conftest import begin
from tests.phantom import TINY, keep_slices, slice_of, train

from medsaga import (
    MedsagaError,
    ModelLibrary,
    SegmentSettings,
    drain,
    load_model,
    propagate,
    save_model,
    score,
    segment,
    volume_from_array,
)
from medsaga.data.identity import SliceId
from medsaga.events import Expected, Notice, Preview, Progress
from medsaga.models.card import ModelCard
from medsaga.training.paint_context import left_out
from medsaga.training.paint_context.left_out import left_out_slices

PAINTED = [1, 4, 7, 10]


@pytest.fixture(scope="module")
def trained(phantom):
    image, labels = phantom
    return train(
        image, keep_slices(labels, PAINTED), TINY, preview={"preview_at": (0, 5)}
    )


def mask_of(model, image, **options):
    settings = SegmentSettings(**options)
    return drain(segment(model, image, settings)).mask.array


def test_carried_paint_is_the_first_thing_to_be_seen(trained, phantom):
    image, labels = phantom
    events = trained[1]
    shown = [e for e in events if not isinstance(e, Notice)]
    assert isinstance(shown[0], Preview)
    assert (shown[0].stage, shown[0].slice_index) == ("paint", 5)
    carried = drain(propagate(image, keep_slices(labels, PAINTED)))
    same = shown[0].mask == carried.mask.array[5]
    assert same.mean() > 0.999  # the fields of a stream are kept in half precision


def test_what_paint_is_worth_is_found_out_and_kept_in_the_card(trained):
    model, events = trained
    trust = model.card.paint_trust
    assert trust.n_pairs == 4
    assert any(isinstance(e, Progress) and e.stage == "left out" for e in events)
    assert ModelCard.from_json(model.card.to_json()).paint_trust == trust


def test_weighing_changes_nothing_of_the_network(trained, phantom, monkeypatch):
    image, labels = phantom
    monkeypatch.setattr(left_out, "left_out_slices", lambda setup: [])
    other, _ = train(image, keep_slices(labels, PAINTED), TINY)
    assert other.card.paint_trust is None
    for name, tensor in trained[0].network.state_dict().items():
        assert torch.equal(tensor, other.network.state_dict()[name]), name


def test_one_painted_slice_is_worth_more_than_what_a_model_learns_of_it(phantom):
    image, labels = phantom
    model, _ = train(image, keep_slices(labels, [5]), TINY)
    assert model.card.paint_trust.growth < 0.1
    assert model.card.paint_trust.n_pairs == 0
    rest = [i for i in range(len(labels)) if i != 5]
    joined = score(mask_of(model, image)[rest], labels[rest]).mean_dice
    carried = drain(propagate(image, keep_slices(labels, [5]))).mask.array
    assert joined > score(carried[rest], labels[rest]).mean_dice - 0.01
    # What trained it before tells more than one more slice.
    further, _ = train(image, keep_slices(labels, [2]), TINY, start=model)
    assert further.card.paint_trust == model.card.paint_trust


def test_after_a_correction_round_the_repainted_slices_are_paint(trained, phantom):
    image, labels = phantom
    corrected = keep_slices(labels, [*PAINTED, 5])
    corrected[4] = np.roll(corrected[4], 3, axis=0)
    model, _ = train(image, corrected, TINY, start=trained[0])
    known = {one.index: painted for one, painted in model.paint.items()}
    assert set(known) == {*PAINTED, 5}
    np.testing.assert_array_equal(known[4], corrected[4])
    assert model.card.paint_trust.n_pairs == 5
    mask = mask_of(model, image)
    np.testing.assert_array_equal(mask[[4, 5]], corrected[[4, 5]])


def test_the_mask_is_as_painted_where_it_was_painted(trained, phantom):
    image, labels = phantom
    joined = mask_of(trained[0], image)
    np.testing.assert_array_equal(joined[PAINTED], labels[PAINTED])
    alone = mask_of(trained[0], image, paint=False)
    assert not np.array_equal(joined, alone)
    rest = [i for i in range(len(labels)) if i not in PAINTED]
    assert (joined[rest] == labels[rest]).mean() > (alone[rest] == labels[rest]).mean()


@pytest.mark.parametrize("way", ["three_planes", "largest_component"])
def test_neither_other_planes_nor_cleaning_change_what_was_painted(phantom, way):
    image, labels = phantom
    painted = keep_slices(labels, PAINTED)
    painted[4, :3, :3] = 1  # a second part of the class
    model, _ = train(image, painted, TINY)
    found = mask_of(model, image, **{way: True})
    np.testing.assert_array_equal(found[PAINTED], painted[PAINTED])


def test_labels_that_the_model_cannot_go_by_are_refused(trained, phantom):
    model, (image, labels) = trained[0], phantom
    across = np.zeros_like(labels)
    across[:, :, [9, 11]] = labels[:, :, [9, 11]]
    with pytest.raises(MedsagaError, match=r"axis 2 \(sagittal\), but the model"):
        drain(segment(model, image, labels=across))
    other = np.where(labels == 5, 6, labels)
    with pytest.raises(MedsagaError, match="value 6, which is none of"):
        drain(segment(model, image, labels=keep_slices(other, PAINTED)))
    with pytest.raises(MedsagaError, match="one 2-D image"):
        drain(segment(model, image[4], labels=labels[4]))


def test_an_image_of_the_same_name_is_not_taken_for_the_painted_one(trained, phantom):
    """As models of earlier formats know their slices by a name."""
    model = trained[0]
    named = {slice_of("ct", one.index): found for one, found in model.paint.items()}
    named = {
        SliceId.from_name(f"ct [{one.index}]", 0, one.index): found
        for one, found in named.items()
    }
    old = replace(model, samples=(), kept_paint=named)
    image = volume_from_array(phantom[0][:, ::-1].copy(), name="ct")
    alone = drain(segment(old, image, SegmentSettings(paint=False)))
    found = drain(segment(old, image))
    np.testing.assert_array_equal(found.mask.array, alone.mask.array)


def test_another_image_is_segmented_by_the_model_alone(trained, phantom):
    other = phantom[0] + 1
    np.testing.assert_array_equal(
        mask_of(trained[0], other), mask_of(trained[0], other, paint=False)
    )


def test_a_model_of_the_library_knows_the_paint_and_a_saved_one_is_told(
    trained, phantom, tmp_path
):
    image, labels = phantom
    wanted = mask_of(trained[0], image)
    kept = load_model(ModelLibrary(tmp_path / "library").add(trained[0], "phantom"))
    np.testing.assert_array_equal(mask_of(kept, image), wanted)
    saved = load_model(save_model(trained[0], tmp_path / "model"))
    assert not saved.paint
    told = drain(segment(saved, image, labels=keep_slices(labels, PAINTED)))
    np.testing.assert_array_equal(told.mask.array, wanted)


def test_images_of_one_slice_each_are_left_out_without_any_paint(phantom):
    image, labels = phantom
    flat, _ = train([image[1], image[4]], [labels[1], labels[4]], TINY)
    painted = keep_slices(labels, [4])
    deep, _ = train([image, image + 1], [painted, painted], TINY, axis=0)
    for model in (flat, deep):
        assert model.card.paint_trust is None
        assert set(model.card.metrics["expected_dice"]) == {"1", "5", "117"}
    alone, _ = train(image, painted, TINY, axis=0)
    assert not alone.card.metrics["expected_dice"]


def test_what_is_to_be_expected_is_told_and_kept(trained):
    model, events = trained
    (told,) = (e for e in events if isinstance(e, Expected))
    assert told.n_left_out == 4
    assert set(told.dice) == {1, 5, 117}
    assert all(0 < dice <= 1 for dice in told.dice.values())
    kept = model.card.metrics["expected_dice"]
    assert kept == {str(value): dice for value, dice in told.dice.items()}


def test_images_are_judged_before_the_encoder_knows_them_too(phantom):
    """Of five hippocampi 0.88 was promised, and 0.75 came true."""
    image, labels = phantom
    pair = [image[1], image[4]], [labels[1], labels[4]]
    model, events = train(*pair, TINY)
    first, last = (e.dice for e in events if isinstance(e, Expected))
    assert model.card.metrics["expected_dice"] == {str(v): d for v, d in last.items()}
    started = [isinstance(e, Progress) and e.stage == "galore" for e in events]
    told = [isinstance(e, Expected) for e in events]
    assert told.index(True) < started.index(True) < len(told) - told[::-1].index(True)
    for value, dice in last.items():
        assert first[value] / 3 <= dice <= first[value] / 3 + 2 / 3
    _, of_head = train(*pair, replace(TINY, stages="head"))
    assert len([e for e in of_head if isinstance(e, Expected)]) == 1


def test_strokes_are_neither_carried_nor_left_out(phantom):
    image, labels = phantom
    strokes = np.where(labels == 0, 200, labels)
    strokes[:, ::2] = 0
    settings = replace(TINY, sparse=True, background_value=200)
    model, events = train(image, keep_slices(strokes, PAINTED), settings)
    assert model.card.paint_trust is None
    assert not model.paint
    assert not any(isinstance(e, Preview) and e.stage == "paint" for e in events)


def test_at_most_ten_slices_are_left_out(phantom):
    image, labels = phantom
    training = begin(image, labels, replace(TINY, hold_out_from=100), axis=0)
    assert len(training.setup.training) == 12
    numbers = left_out_slices(training.setup)
    assert (len(numbers), numbers[0], numbers[-1]) == (10, 0, 11)

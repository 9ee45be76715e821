"""Boxes and clicks become masks, and what was seen of a slice is kept."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.phantom import make_phantom

from medsaga import Box, Click, MedsagaError, Prompt, PromptPredictor, volume_from_array
from medsaga.prompts.clicks import mend
from medsaga.prompts.network import PromptNetwork


@pytest.fixture(scope="module")
def predictor():
    return PromptPredictor()


@pytest.fixture(scope="module")
def phantom():
    image, labels = make_phantom(6, 96)
    return volume_from_array(image, spacing=(3, 1, 1)), labels


def box_of(mask: np.ndarray, margin: float = 1) -> Box:
    rows, columns = np.nonzero(mask)
    return Box(
        rows.min() - margin,
        columns.min() - margin,
        rows.max() + 1 + margin,
        columns.max() + 1 + margin,
    )


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("value", [1, 5, 117])
def test_a_box_gives_the_mask_of_what_is_in_it(predictor, phantom, value):
    image, labels = phantom
    truth = labels[3] == value
    found = predictor.predict(image, Prompt(box=box_of(truth)), index=3)
    assert found.mask.shape == truth.shape
    assert dice(found.mask, truth) > 0.85
    assert 0 < found.quality <= 1.1


def test_planes_of_other_axes_and_unequal_pixels(predictor):
    z, y, x = np.ogrid[:32, :64, :64]
    ball = (2 * z - 30) ** 2 + (y - 30) ** 2 + (x - 34) ** 2 < 12**2
    noise = np.random.default_rng(0).normal(100, 5, ball.shape)
    image = volume_from_array(noise + 80 * ball, spacing=(2, 1, 1))
    truth = ball[:, :, 34]
    found = predictor.predict(image, Prompt(box=box_of(truth, 0)), axis=2, index=34)
    assert found.mask.shape == (32, 64)
    assert dice(found.mask, truth) > 0.8


def test_colour_and_2d_images(predictor, phantom):
    image, labels = phantom
    grey = np.clip(image.array[3], 0, 255).astype(np.uint8)
    colour = volume_from_array(np.stack([grey] * 3, -1), rgb=True)
    truth = labels[3] == 117
    found = predictor.predict(colour, Prompt(box=box_of(truth)))
    assert dice(found.mask, truth) > 0.85


def test_what_was_seen_is_kept_and_forgotten_in_order(phantom, monkeypatch):
    image, labels = phantom
    predictor, seen = PromptPredictor(cache_mb=8), []
    embed = PromptNetwork.embed
    monkeypatch.setattr(
        PromptNetwork, "embed", lambda net, img: seen.append(1) or embed(net, img)
    )
    prompt = Prompt(box=box_of(labels[3] == 1))
    predictor.look_at(image, index=3)
    predictor.predict(image, prompt, index=3)
    predictor.predict(image, prompt, index=3)
    assert len(seen) == 1
    for index in (2, 3, 4):  # an embedding takes 4 MiB: room for two
        predictor.predict(image, prompt, index=index)
    assert len(seen) == 3
    predictor.predict(image, prompt, index=2)
    assert len(seen) == 4


def test_the_window_decides_what_is_seen(predictor, phantom):
    image, labels = phantom
    truth = labels[3] == 117
    prompt = Prompt(box=box_of(truth))
    found = predictor.predict(image, prompt, index=3, limits=(1000.0, 2000.0))
    assert dice(found.mask, truth) < dice(
        predictor.predict(image, prompt, index=3).mask, truth
    )


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Prompt(), "draw a box"),
        (Prompt(clicks=(Click(3, 3, adds=False),)), "draw a box"),
        (Prompt(box=Box(0, 0, float("nan"), 3)), "finite"),
        (Prompt(box=Box(100, 0, 120, 5)), "outside of the slice of 96 x 96"),
        (Prompt(box=Box(5, 5, 5, 9)), "outside"),
        (Prompt(clicks=(Click(3, 97),)), "outside of the slice"),
    ],
)
def test_prompts_that_say_nothing_are_refused(predictor, phantom, prompt, words):
    with pytest.raises(MedsagaError, match=words):
        predictor.predict(phantom[0], prompt, index=3)


def test_a_slice_that_is_not_there_is_refused(predictor, phantom):
    with pytest.raises(MedsagaError, match="no slice 6"):
        predictor.predict(phantom[0], Prompt(box=Box(1, 1, 9, 9)), index=6)


def test_weights_without_prompts_are_refused():
    backbone = torch.nn.Identity()
    backbone.embedding = (256, 4)
    with pytest.raises(MedsagaError, match="no prompt encoder"):
        PromptNetwork(SimpleNamespace(backbone=backbone, sam={}))


def test_a_click_gives_the_mask_of_what_it_lies_in(predictor, phantom):
    image, labels = phantom
    truth = labels[3] == 117
    row, column = (int(numbers.mean()) for numbers in np.nonzero(truth))
    found = predictor.predict(image, Prompt(clicks=(Click(row, column),)), index=3)
    assert dice(found.mask, truth) > 0.8


def test_further_clicks_add_and_take_away(predictor, phantom):
    image, labels = phantom
    box = box_of(labels[3] == 1)
    first = predictor.predict(image, Prompt(box=box), index=3).mask
    rows, columns = np.nonzero(first)
    inside = Click(rows[0] + 0.5, columns[0] + 0.5, adds=False)
    beside = Click(box.top - 2, (box.left + box.right) / 2)
    less = predictor.predict(image, Prompt(box=box, clicks=(inside,)), index=3).mask
    more = predictor.predict(image, Prompt(box=box, clicks=(beside,)), index=3).mask
    assert not less[rows[0], columns[0]]
    assert 0 < less.sum() < first.sum()
    assert more[int(beside.row), int(beside.column)]
    assert more.sum() > first.sum()
    # Far from a click nothing changes.
    np.testing.assert_array_equal(
        less[int(box.bottom) - 3 :], first[int(box.bottom) - 3 :]
    )


def test_clicks_at_the_rim_of_an_empty_or_full_mask():
    empty = np.full((8, 9), -3.0, np.float32)
    assert (mend(empty, Click(8, 9)) > 0).sum() > 0
    assert (mend(-empty, Click(0, 0, adds=False)) < 0).sum() > 0

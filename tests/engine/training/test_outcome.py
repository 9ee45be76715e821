"""What a training keeps in the end, and what is said where that is worse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.engine.training.conftest import begin
from tests.phantom import train

from medsaga import drain
from medsaga.data.augment import Augmenter
from medsaga.data.volume import Volume
from medsaga.events import Notice, Validated
from medsaga.training import head_stage, outcome, steps, validation
from medsaga.training.head_stage import run_head_stage
from medsaga.training.resuming.state_writer import StateWriter
from medsaga.training.steps import run_galore_stage


@pytest.fixture
def all_labels(image, phantom):
    """Labels of each slice."""
    return Volume(array=phantom[1], spacing=image.spacing)


@pytest.mark.parametrize(
    ("dice", "is_kept", "is_told"),
    [
        ((0.5, 0.9, 0.85), True, False),
        ((0.5, 0.9, 0.7), False, False),
        ((0.86, 0.9, 0.85), False, False),
        ((0.9, 0.8, 0.7), False, True),
        ((0.9, 0.88, 0.89), False, True),
    ],
)
def test_the_average_is_kept_unless_others_are_clearly_better_on_held_out_slices(
    image, all_labels, quick, monkeypatch, dice, is_kept, is_told
):
    """Where it is worse than the start, it is never kept."""
    found = iter(dice)

    def judge(setup, network, step):
        return Validated(
            step=step,
            dice={1: next(found)},
            hd95={},
            measured_on="held-out slices",
        )

    for module in (steps, outcome):
        monkeypatch.setattr(module, "validate", judge)
    settings = replace(
        quick, steps=12, hold_out_from=8, validations=1, refit_head=False
    )
    training = begin(image, all_labels, settings)
    drain(run_head_stage(*training))
    events = list(run_galore_stage(*training, StateWriter(None)))
    state = training.state
    means = state.average.state_dict().values()
    assert means
    pairs = zip(state.network.parameters(), means, strict=True)
    assert all(torch.equal(kept, mean) for kept, mean in pairs) == is_kept
    told = [e for e in events if isinstance(e, Notice) and "made Dice" in e.message]
    assert bool(told) == is_told


@pytest.mark.parametrize(
    ("after", "on_views", "is_kept", "said"),
    [
        (0.9, 0.85, True, None),
        (0.9, 0.79, True, None),
        (0.75, 0.85, True, "themselves went from 0.900 to 0.750"),
        (0.95, 0.7, False, "made Dice on altered views of the training slices worse"),
        (0.9, math.nan, True, None),
    ],
)
def test_a_head_alone_fitted_anew_is_compared_with_the_model_before(
    image, labels, quick, monkeypatch, after, on_views, is_kept, said
):
    """On views that never trained: the training slices' own pixels tell little."""
    settings = replace(quick, stages="head")
    model, _ = train(image, labels, settings)
    before = [p.clone() for p in model.network.detail_head.parameters()]
    dice, dice_on_views = iter((0.9, after)), iter((0.8, on_views))

    def judge(setup, network, step):
        return Validated(
            step=step, dice={1: next(dice)}, hd95={}, measured_on="training slices"
        )

    for module in (head_stage, outcome):
        monkeypatch.setattr(module, "validate", judge)
    monkeypatch.setattr(outcome, "dice_on_views", lambda *_: next(dice_on_views))
    again, events = train(image, labels, replace(settings, seed=1), start=model)
    same = [
        torch.equal(a, b)
        for a, b in zip(before, again.network.detail_head.parameters(), strict=True)
    ]
    assert all(same) != is_kept
    told = [e.message for e in events if isinstance(e, Notice)]
    assert [m for m in told if "went from" in m or "made Dice" in m] == [
        m for m in told if said is not None and said in m
    ]
    assert said is None or any(said in message for message in told)
    assert again.card.metrics["dice"] == {"1": after if is_kept else 0.9}


@pytest.mark.parametrize(("hold_out_from", "n_compared"), [(30, 2), (4, 0)])
def test_start_and_end_are_compared_on_views_that_never_train(
    image, all_labels, quick, monkeypatch, hold_out_from, n_compared
):
    """Unless slices are held out, which tell more."""
    drawn: list[int] = []
    compared: list[tuple[float, list[int]]] = []
    view = Augmenter.__call__

    def note(self, image, labels, index, *where):
        drawn.append(index)
        return view(self, image, labels, index, *where)

    def judge(setup, network):
        n_trained_on = len(drawn)
        dice = validation.dice_on_views(setup, network)
        compared.append((dice, drawn[n_trained_on:]))
        del drawn[n_trained_on:]
        return dice

    monkeypatch.setattr(Augmenter, "__call__", note)
    monkeypatch.setattr(outcome, "dice_on_views", judge)
    train(image, all_labels, replace(quick, steps=30, hold_out_from=hold_out_from))
    assert len(compared) == n_compared
    if compared:
        (at_start, first), (at_end, last) = compared
        assert first == last
        assert len(set(first)) == 8
        assert drawn
        assert not {*first} & {*drawn}
        assert at_end > at_start


def test_an_encoder_that_ran_away_is_sent_back(image, labels, quick):
    wild = replace(quick, steps=20, encoder_lr=0.2, refit_head=False)
    _, events = train(image, labels, wild)
    told = [e.message for e in events if isinstance(e, Notice)]
    assert any("made Dice on altered views" in message for message in told)
    start, *_, end = [e.mean_dice for e in events if isinstance(e, Validated)]
    assert start == end

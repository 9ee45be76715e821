"""Classes that a training has lost from sight are noticed, and fitted anew."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.engine.training.conftest import begin
from tests.phantom import VALUES, slice_of

from medsaga import TrainingData, drain, fine_tune
from medsaga.data.samples import Sample
from medsaga.events import Event, Notice, Progress, Stop, Validated
from medsaga.network.medsaga import MedSAGa
from medsaga.training.head_stage import run_head_stage
from medsaga.training.lost_classes import lost_classes
from medsaga.training.resuming.state_writer import StateWriter
from medsaga.training.steps import run_galore_stage

LOST = VALUES[1]
SAID = f"lost class {LOST} from sight"


class Trained(NamedTuple):
    """What a training leaves, and its decoder as it was when the class was lost."""

    network: MedSAGa
    decoder_then: torch.nn.Module
    events: list[Event]
    kept: Validated

    @property
    def said(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice)]

    @property
    def scores(self) -> list[Validated]:
        scores = [event for event in self.events if isinstance(event, Validated)]
        return [*scores, self.kept]


def lose_the_class(setup, network) -> None:
    """Make a network see nothing of one class."""
    index = setup.table.values.index(LOST)
    with torch.no_grad():
        images = setup.to_device(setup.training[0].image[None])
        embedding = network.backbone(images)[-1]
        features = network.decoder.decode(embedding)[1].mean((0, 2, 3))
    network.decoder.set_linear_map(index, -1000 * features / features.norm())
    if network.detail_head is not None:
        network.detail_head.classify.bias.data[index] = -100


def is_at_the_start(event) -> bool:
    return isinstance(event, Validated)


def train(image, labels, settings, lose_at=is_at_the_start, stop_at=None):
    """Train in both stages; the class is lost at the first event of the second stage
    that fits, and a stop is thrown in at the first one after that.
    """
    training = begin(image, labels, settings)
    setup, state, _ = training
    if settings.stages == "both":
        list(run_head_stage(*training))
    events, stream, is_lost = [], run_galore_stage(*training, StateWriter(None)), False
    try:
        event = next(stream)
        while True:
            events.append(event)
            if not is_lost and lose_at(event):
                is_lost = True
                lose_the_class(setup, state.network)
                decoder = deepcopy(state.network.decoder)
            if stop_at is not None and stop_at(event):
                stop_at = None
                event = stream.throw(Stop())
            else:
                event = next(stream)
    except StopIteration as end:
        return Trained(state.network, decoder, events, end.value)


@pytest.fixture
def slow(quick):
    """Rates at which the loss alone would bring no class back."""
    return replace(
        quick,
        steps=10,
        warmup_steps=0,
        encoder_lr=1e-7,
        decoder_lr=1e-7,
        head_lr=1e-7,
        head_steps=150,
    )


@pytest.fixture
def bare(slow):
    """The same without the head, which would see the class by itself."""
    return replace(slow, detail_head=False, stages="galore")


@pytest.mark.parametrize("detail_head", [True, False])
def test_a_lost_class_is_noticed_and_fitted_anew(
    image, labels, slow, bare, detail_head
):
    trained = train(image, labels, slow if detail_head else bare)
    assert any(SAID in message for message in trained.said)
    scores = [score.dice[LOST] for score in trained.scores]
    assert scores[1] == 0
    assert scores[-1] > (0.5 if detail_head else 0.1)


def test_it_is_left_to_the_loss_during_the_warm_up(image, labels, slow):
    trained = train(image, labels, replace(slow, warmup_steps=50))
    assert not any(SAID in message for message in trained.said)


def test_what_was_mended_is_not_averaged_away(image, labels, bare):
    """The last scoring comes when the averaging of the last quarter has begun."""
    settings = replace(bare, warmup_steps=7, validations=5)
    trained = train(image, labels, settings)
    assert sum(SAID in message for message in trained.said) == 1
    scores = [score.dice[LOST] for score in trained.scores]
    assert scores[-2] == 0
    assert scores[-1] > 0.1


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_class_that_is_lost_last_of_all_is_mended_too(
    image, labels, bare, is_stopped
):
    """And a stop meanwhile leaves out no judgement of what is kept."""
    settings = replace(bare, average_weights=False, steps=40)

    def is_last(event) -> bool:
        return isinstance(event, Progress) and event.step == 40

    def is_mended(event) -> bool:
        return isinstance(event, Notice) and SAID in event.message

    stop_at = is_mended if is_stopped else None
    trained = train(image, labels, settings, is_last, stop_at)
    assert sum(SAID in message for message in trained.said) == 1
    assert trained.kept.dice[LOST] > 0.1


@pytest.fixture
def one_slice_with_the_class(labels):
    array = labels.array.copy()
    array[[1, 7, 10]] = np.where(array[[1, 7, 10]] == LOST, 0, array[[1, 7, 10]])
    return labels.with_array(array)


def test_a_class_that_no_held_out_slice_shows_is_mended_too(
    image, one_slice_with_the_class, slow
):
    settings = replace(slow, hold_out_from=4)
    trained = train(image, one_slice_with_the_class, settings)
    scores = trained.scores
    assert all(score.measured_on == "held-out slices" for score in scores)
    assert LOST not in scores[1].dice
    assert any(SAID in message for message in trained.said)


def test_a_class_that_no_held_out_slice_shows_is_told_where_it_is_lost(
    image, one_slice_with_the_class, bare
):
    """A model that sees nothing of it trains on, at rates that change nothing."""
    settings = replace(
        bare, hold_out_from=4, mend_classes=False, encoder_lr=0.0, decoder_lr=0.0
    )
    data = TrainingData(image, one_slice_with_the_class)
    blind = drain(fine_tune(data, settings))
    setup, *_ = begin(image, one_slice_with_the_class, settings)
    lose_the_class(setup, blind.network)
    events = list(fine_tune(data, settings, start=blind))
    said = [event.message for event in events if isinstance(event, Notice)]
    wanted = f"class {LOST} was not learned: the model finds nothing of it on the train"
    assert any(wanted in message for message in said)


@pytest.mark.parametrize(
    "unwanted", [{"strategy": "medsaga-v2"}, {"mend_classes": False}]
)
def test_a_frozen_decoder_and_one_who_does_not_want_it_are_left_alone(
    image, labels, bare, unwanted
):
    settings = replace(bare, **unwanted)
    trained = train(image, labels, settings)
    assert not any(SAID in message for message in trained.said)
    if settings.strategy == "medsaga-v2":
        before = dict(trained.decoder_then.named_parameters())
        for name, parameter in trained.network.decoder.named_parameters():
            assert torch.equal(parameter, before[name]), name


def test_the_other_classes_stay_as_they_were(image, labels, slow):
    trained = train(image, labels, slow)
    scores = trained.scores
    for value in VALUES:
        if value != LOST:
            assert scores[-1].dice[value] > 0.9 * scores[0].dice[value], value


class _SeesAll(torch.nn.Module):
    """Finds class 1 everywhere, a quarter as fine as the image."""

    def forward(self, images):
        logits = torch.zeros(1, 2, images.shape[-2] // 4, images.shape[-1] // 4)
        logits[:, 1] = 1
        return logits


def test_a_stroke_that_falls_between_the_coarse_pixels_is_seen_too():
    target = torch.full((16, 16), -1)
    target[:, 3] = 1  # the nearest pixels of a quarter's size are 2, 6, 10 and 14
    sample = Sample(
        image=torch.zeros(3, 16, 16),
        target=target,
        labels=target.short(),
        id=slice_of("strokes", 3),
        truth=target.clamp_min(0).numpy(),
        spacing=None,
        content=(16, 16),
        known=(target >= 0).numpy(),
    )
    setup = SimpleNamespace(
        training=[sample],
        table=SimpleNamespace(values=(0, 1)),
        canvas=SimpleNamespace(tile=0),
        to_device=lambda images: images,
        autocast=nullcontext,
    )
    assert lost_classes(setup, _SeesAll()) == []

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.phantom import VALUES

from medsaga import TrainingData, drain, fine_tune
from medsaga.data.samples import Sample
from medsaga.events import Notice, Stop, Validated
from medsaga.training import steps as galore_stage
from medsaga.training.lost_classes import lost_classes

LOST = VALUES[1]


@pytest.fixture
def loses_a_class(monkeypatch):
    """Make the GaLore stage begin with a network that sees nothing of one class."""
    begin = galore_stage._validate_start

    def begin_blind(session, best):
        seconds = yield from begin(session, best)
        _lose_the_class(session)
        return seconds

    monkeypatch.setattr(galore_stage, "_validate_start", begin_blind)


def _lose_the_class(session):
    index = session.table.values.index(LOST)
    network = session.network
    with torch.no_grad():
        images = session.to_device(session.training[0].image[None])
        embedding = network.backbone(images)[-1]
        features = network.decoder.decode(embedding)[1].mean((0, 2, 3))
    network.decoder.set_linear_map(index, -1000 * features / features.norm())
    if network.detail_head is not None:
        network.detail_head.classify.bias.data[index] = -100


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


@pytest.mark.parametrize("detail_head", [True, False])
def test_a_lost_class_is_noticed_and_fitted_anew(
    image, labels, slow, loses_a_class, detail_head
):
    stages = "both" if detail_head else "galore"
    settings = replace(slow, detail_head=detail_head, stages=stages)
    events = []
    drain(fine_tune(TrainingData(image, labels), settings), events.append)
    said = [e.message for e in events if isinstance(e, Notice)]
    assert any(f"lost class {LOST} from sight" in message for message in said)
    scores = [e.dice[LOST] for e in events if isinstance(e, Validated)]
    assert scores[1] == 0
    assert scores[-1] > (0.5 if detail_head else 0.1)


def test_it_is_left_to_the_loss_during_the_warm_up(image, labels, slow, loses_a_class):
    settings = replace(slow, warmup_steps=50)
    events = []
    drain(fine_tune(TrainingData(image, labels), settings), events.append)
    said = [e.message for e in events if isinstance(e, Notice)]
    assert not any("from sight" in message for message in said)


def test_what_was_mended_is_not_averaged_away(image, labels, slow, loses_a_class):
    """The last scoring comes when the averaging of the last quarter has begun."""
    settings = replace(
        slow, detail_head=False, stages="galore", warmup_steps=7, validations=5
    )
    events = []
    drain(fine_tune(TrainingData(image, labels), settings), events.append)
    mended = [e for e in events if isinstance(e, Notice) and "from sight" in e.message]
    assert len(mended) == 1
    scores = [e.dice[LOST] for e in events if isinstance(e, Validated)]
    assert scores[-2] == 0
    assert scores[-1] > 0.1


def test_a_class_that_is_lost_last_of_all_is_mended_too(
    image, labels, slow, monkeypatch
):
    train = galore_stage._train

    def lose_last(session, *of_the_stage):
        is_whole = yield from train(session, *of_the_stage)
        _lose_the_class(session)
        return is_whole

    monkeypatch.setattr(galore_stage, "_train", lose_last)
    settings = replace(
        slow, detail_head=False, stages="galore", average_weights=False, steps=40
    )
    events = []
    drain(fine_tune(TrainingData(image, labels), settings), events.append)
    said = [e.message for e in events if isinstance(e, Notice)]
    assert sum(f"lost class {LOST} from sight" in message for message in said) == 1
    assert [e for e in events if isinstance(e, Validated)][-1].dice[LOST] > 0.1

    stream = fine_tune(TrainingData(image, labels), settings)
    while not (isinstance(event := next(stream), Notice) and "sight" in event.message):
        pass
    kept, keep_better = [], galore_stage.keep_better

    def note(*of_the_stage, **whether):
        kept.append((yield from keep_better(*of_the_stage, **whether)))
        return kept[-1]

    monkeypatch.setattr(galore_stage, "keep_better", note)
    stream.throw(Stop())
    drain(stream)
    assert kept[0].dice[LOST] > 0.1  # a stop leaves out no judgement of what is kept


@pytest.fixture
def one_slice_with_the_class(labels):
    array = labels.array.copy()
    array[[1, 7, 10]] = np.where(array[[1, 7, 10]] == LOST, 0, array[[1, 7, 10]])
    return labels.with_array(array)


def test_a_class_that_no_held_out_slice_shows_is_mended_too(
    image, one_slice_with_the_class, slow, loses_a_class
):
    events = []
    settings = replace(slow, hold_out_from=4)
    drain(
        fine_tune(TrainingData(image, one_slice_with_the_class), settings),
        events.append,
    )
    scores = [e for e in events if isinstance(e, Validated)]
    assert all(e.measured_on == "held-out slices" for e in scores)
    assert LOST not in scores[1].dice
    said = [e.message for e in events if isinstance(e, Notice)]
    assert any(f"lost class {LOST} from sight" in message for message in said)


def test_a_class_that_no_held_out_slice_shows_is_told_where_it_is_lost(
    image, one_slice_with_the_class, slow, loses_a_class
):
    events = []
    settings = replace(
        slow,
        hold_out_from=4,
        mend_classes=False,
        detail_head=False,
        stages="galore",
    )
    drain(
        fine_tune(TrainingData(image, one_slice_with_the_class), settings),
        events.append,
    )
    said = [e.message for e in events if isinstance(e, Notice)]
    wanted = f"class {LOST} was not learned: the model finds nothing of it on the train"
    assert any(wanted in message for message in said)


@pytest.mark.parametrize(
    "unwanted", [{"strategy": "medsaga-v2"}, {"mend_classes": False}]
)
def test_a_frozen_decoder_and_one_who_does_not_want_it_are_left_alone(
    image, labels, slow, loses_a_class, monkeypatch, unwanted
):
    before = {}
    begin = galore_stage._validate_start

    def note(session, best):
        seconds = yield from begin(session, best)
        parameters = session.network.decoder.named_parameters()
        before.update({name: p.detach().clone() for name, p in parameters})
        return seconds

    monkeypatch.setattr(galore_stage, "_validate_start", note)
    settings = replace(slow, detail_head=False, stages="galore", **unwanted)
    events = []
    model = drain(fine_tune(TrainingData(image, labels), settings), events.append)
    said = [e.message for e in events if isinstance(e, Notice)]
    assert not any("from sight" in message for message in said)
    if settings.strategy == "medsaga-v2":
        for name, p in model.network.decoder.named_parameters():
            assert torch.equal(p, before[name]), name


def test_the_other_classes_stay_as_they_were(image, labels, slow, loses_a_class):
    events = []
    drain(fine_tune(TrainingData(image, labels), slow), events.append)
    scores = [e.dice for e in events if isinstance(e, Validated)]
    for value in VALUES:
        if value != LOST:
            assert scores[-1][value] > 0.9 * scores[0][value], value


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
        slice_index=0,
        name="strokes",
        truth=target.clamp_min(0).numpy(),
        spacing=None,
        content=(16, 16),
        known=(target >= 0).numpy(),
    )
    session = SimpleNamespace(
        network=_SeesAll(),
        training=[sample],
        table=SimpleNamespace(values=(0, 1)),
        to_device=lambda images: images,
        autocast=nullcontext,
    )
    assert lost_classes(session) == []

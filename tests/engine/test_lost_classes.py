from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.phantom import VALUES

from medsaga import drain, fine_tune
from medsaga.events import Notice, Validated
from medsaga.training import galore_stage

LOST = VALUES[1]


@pytest.fixture
def loses_a_class(monkeypatch):
    """Make the GaLore stage begin with a network that sees nothing of one class."""
    begin = galore_stage._validate_start

    def begin_blind(session, best):
        seconds = yield from begin(session, best)
        index = session.table.values.index(LOST)
        network = session.network
        with torch.no_grad():
            embedding = network.backbone(session.training[0].image[None])[-1]
            features = network.decoder.decode(embedding)[1].mean((0, 2, 3))
        network.decoder.set_linear_map(index, -1000 * features / features.norm())
        if network.detail_head is not None:
            network.detail_head.classify.bias.data[index] = -100
        return seconds

    monkeypatch.setattr(galore_stage, "_validate_start", begin_blind)


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
    drain(fine_tune(image, labels, settings), events.append)
    said = [e.message for e in events if isinstance(e, Notice)]
    assert any(f"lost class {LOST} from sight" in message for message in said)
    scores = [e.dice[LOST] for e in events if isinstance(e, Validated)]
    assert scores[1] == 0
    assert scores[-1] > (0.5 if detail_head else 0.1)


def test_it_is_left_to_the_loss_during_the_warm_up(image, labels, slow, loses_a_class):
    settings = replace(slow, warmup_steps=50)
    events = []
    drain(fine_tune(image, labels, settings), events.append)
    said = [e.message for e in events if isinstance(e, Notice)]
    assert not any("from sight" in message for message in said)


def test_the_other_classes_stay_as_they_were(image, labels, slow, loses_a_class):
    events = []
    drain(fine_tune(image, labels, slow), events.append)
    scores = [e.dice for e in events if isinstance(e, Validated)]
    for value in VALUES:
        if value != LOST:
            assert scores[-1][value] > 0.9 * scores[0][value], value

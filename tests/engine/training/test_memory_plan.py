"""What a step is taken with, by the memory that is free."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.phantom import TINY, train

from medsaga import FineTuneSettings
from medsaga.events import Notice, Validated
from medsaga.memory import process
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa
from medsaga.training.optim.averaging import BestWeights, WeightAverage
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.layerwise import LayerwiseOptimizer
from medsaga.training.plan import memory
from medsaga.training.plan.memory import describe_memory, plan_memory, plan_step

SETTINGS = FineTuneSettings(batch_size=4)
CPU = torch.device("cpu")
MB = 10**6


@pytest.fixture(scope="module")
def network():
    with torch.device("meta"):
        return MedSAGa(build_backbone("lite_medsam"), 3)


def plan(network, free_mb, **changes):
    settings = replace(SETTINGS, **changes)
    return plan_step(network, settings, (96, 96), "fp32", CPU, free_mb * MB)


@pytest.fixture
def counts(monkeypatch):
    """Let a step take 150 MB a slice, or 40 if blocks are computed twice."""

    def count(network, batch_size, size, precision, *, checkpointing):
        return (40 + batch_size * (40 if checkpointing else 150)) * MB

    monkeypatch.setattr(memory, "count_step", count)
    return count


def test_with_plenty_nothing_is_counted(network, monkeypatch):
    monkeypatch.setattr(memory, "count_step", None)
    found = plan(network, 100_000)
    assert (found.batch_size, found.checkpointing, found.is_bound) == (4, False, True)
    assert "at most" in describe_memory(found, SETTINGS)


def test_the_less_is_free_the_less_is_taken(network, counts, monkeypatch):
    monkeypatch.setattr(process, "allocates_leanly", lambda _: True)
    found = [plan(network, free_mb) for free_mb in range(3000, 100, -50)]
    ways = [(one.batch_size, one.checkpointing, one.lean) for one in found if one.fits]
    assert list(dict.fromkeys(ways)) == [
        (4, False, False),
        (4, True, False),
        (4, True, True),
        (2, True, True),
        (1, True, True),
    ]
    counted = [one.n_bytes for one in found if one.fits and not one.is_bound]
    assert counted == sorted(counted, reverse=True)
    assert not found[-1].fits
    said = describe_memory(found[-1], SETTINGS)
    assert "computed twice" in said
    assert "as soon as it is free" in said
    assert "1 in place of 4 slices" in said


def test_where_the_allocator_cannot_be_lean_the_batch_is_smaller(
    network, counts, monkeypatch
):
    monkeypatch.setattr(process, "allocates_leanly", lambda _: False)
    found = [plan(network, free_mb) for free_mb in range(3000, 100, -50)]
    assert not any(one.lean for one in found)
    assert {one.batch_size for one in found} == {4, 2, 1}


def test_what_does_not_fit_is_planned_as_small_as_can_be_and_said(network):
    found = plan(network, 50)
    assert (found.batch_size, found.checkpointing) == (1, True)
    assert "may not suffice" in describe_memory(found, SETTINGS)


def test_what_is_set_by_hand_is_followed(network, counts):
    assert plan(network, 100_000, checkpointing="on").checkpointing
    assert not plan(network, 50, lean="off").lean
    found = plan(network, 700, checkpointing="off")
    assert not found.checkpointing
    assert found.batch_size < 4


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"projection": "full"},
        {"optimizer": "fira"},
        {"optimizer": "apollo-mini"},
    ],
)
def test_the_optimiser_is_as_large_as_foreseen(way):
    settings = FineTuneSettings(rank=8, **way)
    network = MedSAGa(build_backbone("tiny"), 3).train()
    optimizer = LayerwiseOptimizer(parameter_groups(network, settings))
    with optimizer, optimizer.step():
        network(torch.rand(1, 3, 16, 16)).square().mean().backward()
    foreseen = memory.optimizer_bytes(network, settings)
    assert optimizer.state_bytes() == pytest.approx(foreseen, rel=0.05)


def test_it_is_foreseen_without_weights():
    settings = FineTuneSettings(backbone="vit_b")
    found = plan_memory(settings, (512, 512), 4, device=CPU, free=4000 * MB)
    assert found.checkpointing
    assert 600 * MB < found.n_bytes < 2500 * MB
    large = plan_memory(
        replace(settings, backbone="vit_h", checkpointing="on"),
        (256, 256),
        4,
        device=CPU,
        free=4000 * MB,
    )
    assert not large.fits


def test_low_rank_updates_are_foreseen_without_weights():
    settings = FineTuneSettings(strategy="samed", detail_head=False, stages="galore")
    found = plan_memory(settings, (64, 64), device=CPU, free=100 * MB)
    assert not found.is_bound


def test_the_copies_of_the_weights_are_as_large_as_foreseen():
    tiny = MedSAGa(build_backbone("tiny"), 3)
    average, best = WeightAverage(tiny), BestWeights(tiny)
    average.update()
    scores = {"step": 0, "dice": {1: 0.5}, "hd95": {}, "measured_on": "held-out slices"}
    best.offer(Validated(**scores))
    kept = [*average.state_dict().values(), *best.state_dict().values()]
    with_average = plan(tiny, 100_000).n_bytes
    without = plan(tiny, 100_000, average_weights=False).n_bytes
    n_bytes = sum(tensor.nbytes for tensor in kept)
    assert with_average - without == n_bytes / 2
    assert memory._copied_bytes(tiny, SETTINGS, CPU) == n_bytes


def test_a_bound_is_no_less_than_what_is_counted(network):
    bound = plan(network, 100_000, batch_size=1)
    counted = plan(network, 1300, batch_size=1)
    assert bound.is_bound
    assert not counted.is_bound
    assert not counted.checkpointing
    assert counted.n_bytes < bound.n_bytes


def test_without_steps_nothing_is_planned(image, labels):
    model, events = train(image, labels, replace(TINY, stages="head"))
    assert not any("A step takes" in getattr(e, "message", "") for e in events)
    assert model.card.settings["checkpointing"] == "auto"


def test_a_training_says_what_it_needs_and_keeps_to_it(image, labels, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda _: 8 * MB)
    settings = replace(TINY, batch_size=4)
    model, events = train(image, labels, settings)
    messages = [event.message for event in events if isinstance(event, Notice)]
    assert any("blocks are computed twice" in message for message in messages)
    assert model.card.settings["checkpointing"] == "on"
    assert model.card.settings["batch_size"] < 4

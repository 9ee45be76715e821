"""How a segmentation takes the memory, by what is free."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cards import make_model

from medsaga import Volume, drain, segment
from medsaga.data.canvas import Canvas
from medsaga.events import Notice
from medsaga.memory import frugality, process
from medsaga.memory.counting import count_look
from medsaga.memory.frugality import Frugality
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa
from medsaga.segmentation import plan, predictor
from medsaga.segmentation.plan import Work, describe_plan, plan_segmentation
from medsaga.settings.segment import SegmentSettings

CPU = torch.device("cpu")
MB = 10**6


def work_on(shape, canvas=None, *, smooth=False, **settings):
    canvas = canvas or Canvas(long_side=512, multiple=4)
    model = make_model(canvas=canvas)
    return Work(
        network=model.network,
        card=model.card,
        volume=Volume(array=np.broadcast_to(np.uint8(0), shape)),
        smooth={0: smooth},
        settings=SegmentSettings(**settings),
    )


def planned(free_mb, shape=(4, 512, 512), **settings):
    return plan_segmentation(work_on(shape, **settings), "fp32", CPU, free_mb * MB)


@pytest.fixture
def counts(monkeypatch):
    """Let a look take 300 MB, and the allocator be one that can be lean."""
    monkeypatch.setattr(plan, "count_look", lambda network, size, precision: 300 * MB)
    monkeypatch.setattr(process, "allocates_leanly", lambda _: True)


def test_with_plenty_nothing_is_counted_and_nothing_said(monkeypatch):
    monkeypatch.setattr(plan, "count_look", None)
    found = planned(100_000)
    assert found.is_bound
    assert not found.lean
    assert describe_plan(found, "auto") == ""


def test_the_less_is_free_the_less_is_kept(counts):
    found = [planned(free_mb) for free_mb in range(3000, 100, -50)]
    ways = [(one.lean, one.fits) for one in found if not one.is_bound]
    assert list(dict.fromkeys(ways)) == [(False, True), (True, True), (True, False)]
    lean = next(one for one in found if one.lean)
    assert "to save memory, it is given back" in describe_plan(lean, "auto")
    assert "may not suffice" in describe_plan(found[-1], "auto")


def test_what_is_set_by_hand_is_followed(counts):
    assert planned(100_000, lean="on").lean
    assert describe_plan(planned(100_000, lean="on"), "on") == ""
    found = planned(100, lean="off")
    assert not found.lean
    assert "may not suffice" in describe_plan(found, "off")


def test_outputs_and_planes_are_counted():
    def taken(**settings):
        return planned(100_000, (50, 256, 256), **settings).n_bytes

    n_voxels, mask = 50 * 256**2, taken()
    assert taken(entropy=True) - mask > 4 * n_voxels
    assert taken(probabilities=True) - mask > 2 * 2 * n_voxels
    assert taken(fill_holes=True) > mask
    assert taken(smooth=True) > mask


def test_of_a_large_image_in_tiles_a_row_is_held():
    canvas = Canvas(long_side=3000, multiple=4, tile=128, scale=1.0)
    work = work_on((1, 3000, 3000), canvas)
    in_tiles = plan_segmentation(work, "fp32", CPU, 10**12)
    smoothed = work_on((1, 3000, 3000), canvas, smooth=True)
    held_whole = plan_segmentation(smoothed, "fp32", CPU, 10**12)
    assert in_tiles.n_bytes < held_whole.n_bytes
    whole = work_on((1, 3000, 3000), Canvas(long_side=3000, multiple=4))
    at_once = plan_segmentation(whole, "fp32", CPU, 10**14)
    assert in_tiles.n_bytes < 0.1 * at_once.n_bytes


@pytest.mark.parametrize(("backbone", "side"), [("lite_medsam", 64), ("vit_h", 256)])
def test_a_bound_is_no_less_than_what_is_counted(backbone, side):
    with torch.device("meta"):
        network = MedSAGa(build_backbone(backbone), 3)
    for precision in ("fp32", "bf16"):
        counted = count_look(network, (side, side), precision)
        bound = plan._most_of_a_look(network, (side, side), precision)
        assert 0.02 * bound < counted < bound


def test_counting_leaves_the_network_able_to_look():
    network = MedSAGa(build_backbone("lite_medsam"), 2).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(image)
        count_look(network, (64, 64))
        assert torch.equal(network(image), before)
    assert not network.training


def test_a_segmentation_says_that_it_is_lean_and_is_so(image, monkeypatch):
    for module in (process, frugality):
        monkeypatch.setattr(module, "allocates_leanly", lambda _: True)
    asked = []
    monkeypatch.setattr(frugality, "allocate_leanly", asked.append)
    model = make_model()
    usual = drain(segment(model, image))
    assert asked == []
    monkeypatch.setattr(plan, "free_memory", lambda _: MB)
    events = []
    found = drain(segment(model, image), events.append)
    np.testing.assert_array_equal(found.mask.array, usual.mask.array)
    told = [event.message for event in events if isinstance(event, Notice)]
    assert sum("(lean)" in message for message in told) == 1
    assert asked == [True, False]


@pytest.mark.parametrize("can_be_lean", [True, False])
def test_what_is_said_is_what_is_done(image, monkeypatch, can_be_lean):
    monkeypatch.setattr(frugality, "allocates_leanly", lambda _: can_be_lean)
    keeper = Frugality(CPU)
    n_calls = iter(range(2))

    def work():
        if next(n_calls) == 0:
            raise MemoryError
        return 1

    assert keeper.do(work) == 1
    assert keeper.is_lean == can_be_lean
    found = predictor.Predictor(make_model(), image, "fp32")
    found.frugality = keeper
    with found:
        (said,) = found.tell()
        assert tuple(found.tell()) == ()
    assert ("as soon as it is free" in said.message) == can_be_lean
    assert ("was given back" in said.message) != can_be_lean

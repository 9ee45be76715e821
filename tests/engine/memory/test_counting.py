"""Steps that are counted without being computed."""

from __future__ import annotations

import pytest
import torch

from medsaga.memory.counting import _LiveBytes, _loss, count_step
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa


@pytest.fixture(scope="module")
def network() -> MedSAGa:
    """LiteMedSAM without contents."""
    with torch.device("meta"):
        return MedSAGa(build_backbone("lite_medsam"), 3)


def test_it_is_what_the_tensors_of_a_real_step_take():
    network = MedSAGa(build_backbone("lite_medsam"), 3).train()
    live = _LiveBytes()
    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda parameter: setattr(parameter, "grad", None)
        )
    with live:
        for tensor in (*network.parameters(), *network.buffers()):
            live._add(tensor.untyped_storage())
        _loss(network(torch.rand(2, 3, 64, 64))).backward()
    counted = count_step(network, 2, (64, 64), checkpointing=False)
    assert counted == pytest.approx(live.peak, rel=0.03)


def test_more_slices_take_more_and_blocks_computed_twice_less(network):
    one = count_step(network, 1, (64, 64), checkpointing=False)
    two = count_step(network, 2, (64, 64), checkpointing=False)
    twice = count_step(network, 2, (64, 64), checkpointing=True)
    weights = sum(p.nbytes for p in network.parameters())
    assert 1.6 < (two - weights) / (one - weights) < 2.1
    assert weights < twice < 0.7 * two


def test_frozen_parameters_keep_no_activations(network):
    whole = count_step(network, 2, (64, 64), checkpointing=False)
    network.backbone.requires_grad_(False)
    try:
        assert count_step(network, 2, (64, 64), checkpointing=False) < 0.8 * whole
    finally:
        network.backbone.requires_grad_(True)


def test_half_precision_takes_less(network):
    whole = count_step(network, 2, (64, 64), "fp32", checkpointing=False)
    assert count_step(network, 2, (64, 64), "bf16", checkpointing=False) < 0.9 * whole


def test_the_network_is_left_as_it_is():
    network = MedSAGa(build_backbone("tiny"), 3).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    count_step(network, 1, (16, 16), checkpointing=True)
    assert not network.training
    assert not network.backbone.checkpointing
    assert all(parameter.grad is None for parameter in network.parameters())
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)

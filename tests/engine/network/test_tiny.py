from __future__ import annotations

import torch
from torch import nn

from medsaga.network.backbones.tiny import build_tiny


def test_gives_the_pyramid_it_promises():
    backbone = build_tiny()
    maps = backbone(torch.rand(2, 3, 64, 48))
    assert [tuple(m.shape) for m in maps] == [
        (2, level.channels, 64 // level.stride, 48 // level.stride)
        for level in backbone.levels
    ]
    assert backbone.embedding.channels == 256
    assert all(m.std() > 0.05 for m in maps)


def test_weights_are_always_the_same_and_the_global_state_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_tiny()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = build_tiny()
    other = build_tiny(seed=1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.neck[0].weight, other.neck[0].weight)


def test_has_each_kind_of_layer_that_training_treats_differently():
    convolutions = [m for m in build_tiny().modules() if isinstance(m, nn.Conv2d)]
    assert any(isinstance(m, nn.BatchNorm2d) for m in build_tiny().modules())
    assert any(m.groups == m.in_channels > 1 for m in convolutions)
    assert any(m.kernel_size == (1, 1) for m in convolutions)
    assert any(m.kernel_size == (3, 3) and m.groups == 1 for m in convolutions)


def test_every_parameter_gets_a_gradient_and_batch_norm_keeps_its_statistics():
    backbone = build_tiny().train()
    before = {n: b.clone() for n, b in backbone.named_buffers()}
    maps = backbone(torch.rand(1, 3, 16, 16))
    (maps[-1] * torch.randn_like(maps[-1])).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in backbone.parameters())
    assert all(torch.equal(b, before[n]) for n, b in backbone.named_buffers())

from __future__ import annotations

import torch
from torch.nn import functional as F

from medsaga.network.backbones.base import Level
from medsaga.network.backbones.tiny import build_tiny
from medsaga.network.backbones.vit import ViTBackbone
from medsaga.network.backbones.vit_size import ViTSize
from medsaga.network.detail_head import DetailHead, sample_pyramid
from medsaga.network.medsaga import MedSAGa


def test_sampled_features_are_those_of_the_enlarged_maps():
    maps = [torch.randn(1, 3, 16, 12), torch.randn(1, 5, 8, 6), torch.randn(1, 2, 4, 3)]
    points = torch.cartesian_prod(torch.arange(16), torch.arange(12))
    enlarged = torch.cat(
        [
            F.interpolate(m, size=(16, 12), mode="bilinear", align_corners=False)
            for m in maps
        ],
        dim=1,
    )
    sampled = sample_pyramid(maps, points, (16, 12))
    torch.testing.assert_close(sampled, enlarged[0].flatten(1).T, atol=1e-5, rtol=1e-5)


def test_levels_of_one_stride_are_summed_before_they_are_enlarged():
    levels = (Level(4, 1), Level(6, 4), Level(8, 4))
    head = DetailHead(levels, 3).eval()
    pyramid = [
        torch.randn(2, level.channels, 16 // level.stride, 16 // level.stride)
        for level in levels
    ]
    expected = sum(
        F.interpolate(r(m), size=(16, 16), mode="bilinear", align_corners=False)
        for r, m in zip(head.reduce, pyramid, strict=True)
    )
    expected = head.classify(F.relu(expected + head.bias))
    torch.testing.assert_close(head(pyramid, torch.empty(0)), expected)


class TestStem:
    def test_only_a_backbone_without_fine_maps_gets_one(self):
        assert DetailHead(build_tiny().levels, 3).stem is None
        head = DetailHead(_small_vit().levels, 3)
        assert [level.stride for level in head.levels] == [4, 8, 16, 16, 16]

    def test_it_learns(self):
        network = MedSAGa(_small_vit(), 2)
        network(torch.rand(2, 3, 64, 32)).square().mean().backward()
        for name, parameter in network.detail_head.stem.named_parameters():
            assert parameter.grad.abs().max() > 0, name


def _small_vit():
    return ViTBackbone("small", ViTSize(width=32, depth=2, heads=2, global_blocks=(0,)))

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from medsaga.network.backbones import attending
from medsaga.network.backbones.attention import LinearMemoryAttention
from medsaga.network.backbones.base import Level
from medsaga.network.backbones.catalogue import BACKBONES
from medsaga.network.backbones.vit import ViTBackbone
from medsaga.network.backbones.vit_size import ViTSize

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def _small(**changes) -> ViTBackbone:
    size = ViTSize(
        width=32, depth=3, heads=2, global_blocks=(1, 2), window=3, image_size=128
    )
    torch.manual_seed(0)
    backbone = ViTBackbone("small", replace(size, **changes))
    _fill_position_tables(backbone.encoder)
    return backbone


def _fill_position_tables(encoder: nn.Module) -> None:
    """Make them random: SAM's start at zero, which would hide a missing bias."""
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name or name == "pos_embed":
            nn.init.normal_(parameter, std=0.5)


def _sam_twin(backbone: ViTBackbone, **settings) -> ImageEncoderViT:
    """``segment_anything``'s own encoder with the backbone's weights."""
    twin = ImageEncoderViT(
        norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, **settings
    )
    twin.load_state_dict(backbone.encoder.state_dict())
    return twin


def _as_sam_sees(images: torch.Tensor) -> torch.Tensor:
    """SAM's own normalisation, which is for intensities of 0 to 255."""
    mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images * 255 - mean) / std


def _gradients(loss: torch.Tensor, **tensors: torch.Tensor) -> dict:
    return dict(
        zip(tensors, torch.autograd.grad(loss, list(tensors.values())), strict=True)
    )


def test_equals_sams_encoder_at_its_size_and_width():
    backbone = ViTBackbone(
        "two", ViTSize(width=768, depth=2, heads=12, global_blocks=(1,))
    )
    torch.manual_seed(0)
    _fill_position_tables(backbone.encoder)
    twin = _sam_twin(
        backbone,
        embed_dim=768,
        depth=2,
        num_heads=12,
        window_size=14,
        global_attn_indexes=(1,),
    )
    images = torch.rand(1, 3, 1024, 1024)
    with torch.no_grad():
        result = backbone(images)[-1]
        expected = twin(_as_sam_sees(images))
    assert result.shape == (1, 256, 64, 64)
    assert expected.std() > 0.5
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_gradients_equal_sams_in_double_precision():
    # 8 x 8 tokens in windows of 3: the windows are padded too.
    backbone = _small().double()
    twin = _sam_twin(
        backbone,
        img_size=128,
        embed_dim=32,
        depth=3,
        num_heads=2,
        window_size=3,
        global_attn_indexes=(1, 2),
    ).double()
    images = torch.rand(2, 3, 128, 128, dtype=torch.float64, requires_grad=True)
    result = backbone(images)[-1]
    expected = twin(_as_sam_sees(images))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)
    direction = torch.randn_like(result)
    ours = _gradients(
        (result * direction).sum(),
        images=images,
        **dict(backbone.encoder.named_parameters()),
    )
    sams = _gradients(
        (expected * direction).sum(), images=images, **dict(twin.named_parameters())
    )
    assert ours.keys() == sams.keys()
    for name, gradient in sams.items():
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(128, 128), (64, 96), (16, 176), (256, 128)])
def test_any_size_gives_the_pyramid_it_promises(size):
    backbone = _small()
    maps = backbone(torch.rand(2, 3, *size))
    assert backbone.levels == (Level(32, 16), Level(32, 16), Level(256, 16))
    assert backbone.embedding == Level(256, 16)
    assert [tuple(m.shape) for m in maps] == [
        (2, level.channels, size[0] // level.stride, size[1] // level.stride)
        for level in backbone.levels
    ]
    assert all(m.isfinite().all() and m.std() > 0.01 for m in maps)


def test_rows_and_columns_are_not_mixed_up():
    """A transposed image with transposed tables gives the transposed maps."""
    backbone, other = _small(), _small()
    swapped = {}
    for name, tensor in backbone.encoder.state_dict().items():
        if "rel_pos_h" in name:
            name = name.replace("rel_pos_h", "rel_pos_w")
        elif "rel_pos_w" in name:
            name = name.replace("rel_pos_w", "rel_pos_h")
        elif name == "pos_embed":
            tensor = tensor.transpose(1, 2)
        elif tensor.dim() == 4:
            tensor = tensor.transpose(2, 3)
        swapped[name] = tensor
    other.encoder.load_state_dict(swapped)
    images = torch.rand(1, 3, 64, 176)
    with torch.no_grad():
        for a, b in zip(backbone(images), other(images.mT), strict=True):
            torch.testing.assert_close(a, b.mT, rtol=0, atol=1e-4)


def test_last_block_is_in_the_pyramid_once():
    assert len(_small(global_blocks=(1,)).levels) == 3
    assert len(_small(global_blocks=(1, 2)).levels) == 3
    assert len(_small(global_blocks=(2,)).levels) == 2


def test_pyramid_holds_the_outputs_of_its_blocks():
    backbone = _small(global_blocks=(0,))
    outputs = []
    for block in backbone.encoder.blocks:
        block.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    maps = backbone(torch.rand(1, 3, 64, 96))
    torch.testing.assert_close(maps[0], outputs[0].permute(0, 3, 1, 2))
    torch.testing.assert_close(maps[1], outputs[2].permute(0, 3, 1, 2))


def test_refuses_a_size_that_the_patch_does_not_divide():
    with pytest.raises(ValueError, match="multiples of 16, not 64 x 72"):
        _small()(torch.rand(1, 3, 64, 72))


def test_checkpointing_changes_no_result():
    backbone = _small()
    images = torch.rand(1, 3, 96, 128)
    runs, n_calls = {}, {}
    for checkpointing in (False, True):
        backbone.checkpointing = checkpointing
        calls = []
        hook = backbone.encoder.blocks[0].mlp.register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        maps = backbone(images)
        loss = sum(m.square().sum() for m in maps)
        runs[checkpointing] = (
            maps,
            _gradients(loss, **dict(backbone.named_parameters())),
        )
        hook.remove()
        n_calls[checkpointing] = len(calls)
    assert n_calls == {False: 1, True: 2}
    for plain, again in zip(runs[False][0], runs[True][0], strict=True):
        torch.testing.assert_close(again, plain, rtol=0, atol=0)
    assert runs[False][1].keys() == runs[True][1].keys()
    for name, gradient in runs[False][1].items():
        torch.testing.assert_close(runs[True][1][name], gradient, rtol=0, atol=0)


def test_checkpointing_attends_globally_but_once(monkeypatch):
    n_tokens = []

    class Parts(attending._Parts):
        def __init__(self, query, key):
            n_tokens.append(query.shape[1])
            super().__init__(query, key)

    monkeypatch.setattr(attending, "_Parts", Parts)
    backbone = _small(global_blocks=(1, 2))
    backbone.checkpointing = True
    sum(m.sum() for m in backbone(torch.rand(1, 3, 64, 96))).backward()
    # Forward and backward; the window block's is computed twice before it.
    assert Counter(n_tokens) == {4 * 6: 4, 3 * 3: 3}


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_parameters_are_those_of_sams_own_models(name):
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        sam = sam_model_registry[name]()
        backbone = BACKBONES[name].build()
    assert backbone.name == name
    ours = {n: t.shape for n, t in backbone.encoder.state_dict().items()}
    assert ours == {n: t.shape for n, t in sam.image_encoder.state_dict().items()}
    assert [block.window_size for block in backbone.encoder.blocks] == [
        block.window_size for block in sam.image_encoder.blocks
    ]
    assert [block.attn.num_heads for block in backbone.encoder.blocks] == [
        block.attn.num_heads for block in sam.image_encoder.blocks
    ]
    assert [block.norm1.eps for block in backbone.encoder.blocks] == [
        block.norm1.eps for block in sam.image_encoder.blocks
    ]
    assert all(
        isinstance(block.attn, LinearMemoryAttention)
        for block in backbone.encoder.blocks
    )
    width = backbone.encoder.patch_embed.proj.out_channels
    assert backbone.levels == (Level(width, 16),) * 4 + (Level(256, 16),)


def test_normalises_as_sam_does():
    backbone = _small()
    seen = []
    backbone.encoder.patch_embed.register_forward_pre_hook(
        lambda _module, args: seen.append(args[0])
    )
    images = torch.rand(1, 3, 32, 48)
    backbone(images)
    torch.testing.assert_close(seen[0], _as_sam_sees(images))

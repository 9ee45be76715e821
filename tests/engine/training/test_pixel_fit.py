"""The detail head and the decoder's map, fitted to features of pixels."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from medsaga.network.backbones.tiny import build_tiny
from medsaga.network.backbones.vit import ViTBackbone
from medsaga.network.backbones.vit_size import ViTSize
from medsaga.network.detail_head import sample_pyramid
from medsaga.network.medsaga import MedSAGa
from medsaga.training.pixel_fit import PixelFit


def _fit_on_image(network, image, target):
    """Fit head and decoder map on all pixels of one image."""
    pyramid = network.backbone(image)
    _, upscaled = network.decoder.decode(pyramid[-1])
    points = torch.cartesian_prod(*(torch.arange(n) for n in target.shape))
    size = tuple(target.shape)
    maps = network.detail_head.features(pyramid, image)
    features = sample_pyramid([*maps, upscaled], points, size).detach()
    fit = PixelFit(
        features,
        target.flatten(),
        channels=[m.shape[1] for m in (*maps, upscaled)],
        n_classes=network.n_classes,
        learning_rate=1e-2,
        seed=0,
    )
    losses = [fit.step(256) for _ in range(150)]
    return fit, losses, features  # as the fit has standardised them


def test_the_fit_learns_and_the_network_computes_what_was_fitted():
    torch.manual_seed(0)
    network = MedSAGa(build_tiny(), 3).eval()
    image = torch.rand(1, 3, 32, 32)
    target = torch.zeros(32, 32, dtype=torch.long)
    target[4:14, 6:20], target[20:28, 12:30] = 1, 2
    image[0, :, target == 1] += 0.5
    image[0, :, target == 2] -= 0.5
    fit, losses, features = _fit_on_image(network, image, target)
    smoothed = torch.full((3,), 0.1 / 3) + torch.tensor([0.9, 0.0, 0.0])
    least = -(smoothed * smoothed.log()).sum()  # what the surest of answers loses
    assert sum(losses[-10:]) - 10 * least < 0.3 * (sum(losses[:10]) - 10 * least)

    network.decoder.start_from_linear_map(fit.write_to(network.detail_head))
    with torch.no_grad():
        logits = network(image)[0].flatten(1).T
        layers = fit.layers
        reduce, classify, linear = layers.reduce, layers.classify, layers.linear
        seen, of_decoder = features.split([reduce.in_features, linear.in_features], 1)
        expected = classify(F.relu(reduce(seen))) + linear(of_decoder)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
    assert (logits.argmax(1) == target.flatten()).float().mean() > 0.95


def test_a_channel_that_hardly_varies_gets_no_huge_weights():
    torch.manual_seed(0)
    network = MedSAGa(build_tiny(), 2)
    head, n_decoder = network.detail_head, network.decoder.feature_channels
    channels = [*(level.channels for level in head.levels), n_decoder]
    features = torch.randn(400, sum(channels))
    features[:, 0] *= 1e-5  # as a dead channel in bf16
    fit = PixelFit(
        features,
        (features[:, 1] > 0).long(),
        channels=channels,
        n_classes=2,
        learning_rate=1e-2,
        seed=0,
    )
    for _ in range(50):
        fit.step(256)
    fit.write_to(head)
    of_dead, of_live = head.reduce[0].weight[:, :2].abs().amax((0, 2, 3))
    assert of_dead < 10 * of_live


def test_both_the_decoder_and_the_head_say_something_after_the_fit():
    torch.manual_seed(0)
    network = MedSAGa(build_tiny(), 2).eval()
    image = torch.rand(1, 3, 32, 32)
    target = (torch.arange(32)[:, None] > 12).expand(32, 32).long()
    image[0, :, target == 1] += 0.5
    fit, *_ = _fit_on_image(network, image, target)
    network.decoder.start_from_linear_map(fit.write_to(network.detail_head))
    with torch.no_grad():
        pyramid = network.backbone(image)
        parts = network.decoder(pyramid[-1]), network.detail_head(pyramid, image)
    assert all(logits.std() > 0.01 for logits in parts)


def test_the_stem_tells_apart_what_lies_within_one_token():
    """Blocks of 4 pixels, four by four of them in each token of a ViT."""
    torch.manual_seed(0)
    small = ViTBackbone(
        "small", ViTSize(width=32, depth=2, heads=2, global_blocks=(0,))
    )
    network = MedSAGa(small, 2).eval()
    blocks = torch.randint(2, (1, 1, 16, 16))
    target = F.interpolate(blocks.float(), scale_factor=4)[0, 0].long()
    image = 0.3 + 0.4 * target.expand(1, 3, -1, -1).float()
    fit, *_ = _fit_on_image(network, image, target)
    network.decoder.start_from_linear_map(fit.write_to(network.detail_head))
    assert _accuracy(network, image, target) > 0.85
    with torch.no_grad():
        for weight in network.detail_head.reduce[:2].parameters():
            weight.zero_()
    assert _accuracy(network, image, target) < 0.7


def _accuracy(network, image, target):
    with torch.no_grad():
        logits = network(image)
    enlarged = F.interpolate(logits, size=target.shape, mode="bilinear")[0]
    return (enlarged.argmax(0) == target).float().mean()

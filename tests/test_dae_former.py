"""DAE-Former, which the benchmark trains from scratch."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.phantom import TINY, VALUES, keep_slices, make_phantom

import medsaga

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WIDTHS = (8, 16, 24)


@pytest.fixture(scope="module")
def dae_former():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import dae_former

        yield dae_former
    for name in ("dae_former", "methods", "tasks"):
        sys.modules.pop(name, None)


@pytest.fixture
def tiny(dae_former):
    torch.manual_seed(0)
    return partial(dae_former.DAEFormer, widths=WIDTHS, depth=1, heads=2)


def some(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-2]))


def test_logits_have_the_size_of_an_image_that_is_not_square(tiny):
    network, images = tiny(5), some(2, 3, 32, 96)
    logits = network(images)
    assert logits.shape == (2, 5, 32, 96)
    with torch.autocast("cpu", torch.bfloat16):  # which keeps 8 bits
        rounded = network(images)
    torch.testing.assert_close(rounded.float(), logits, atol=0.1, rtol=0.1)


def test_efficient_attention_is_its_formula(dae_former):
    queries, keys, values = some(2, 2, 6, 4), some(2, 2, 7, 4), some(2, 2, 7, 5)
    of_channels = queries.exp() / queries.exp().sum(3, keepdim=True)
    of_positions = keys.exp() / keys.exp().sum(2, keepdim=True)
    weights = torch.einsum("bhqc,bhkc->bhqk", of_channels, of_positions)
    expected = torch.einsum("bhqk,bhkd->bhqd", weights, values)
    attended = dae_former.efficient_attention(queries, keys, values)
    torch.testing.assert_close(attended, expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 6))


def test_channel_attention_is_its_formula(dae_former):
    queries, keys, values = (
        some(1, 2, 9, 4),
        some(1, 2, 10, 4)[..., :9, :],
        some(1, 2, 9, 4),
    )
    temperature = torch.tensor([0.5, 2.0]).reshape(2, 1, 1)
    attended = dae_former.channel_attention(queries, keys, values, temperature)
    for head in range(2):
        q = queries[0, head] / queries[0, head].norm(dim=0)
        k = keys[0, head] / keys[0, head].norm(dim=0)
        scores = torch.exp(k.T @ q / temperature[head])
        expected = values[0, head] @ (scores / scores.sum(0))
        torch.testing.assert_close(attended[0, head], expected)


def test_channel_attention_mixes_every_position_by_the_same_small_map(dae_former):
    queries, keys = some(1, 1, 12, 4), some(1, 1, 12, 4).flip(2)
    attend = partial(
        dae_former.channel_attention, queries, keys, temperature=torch.ones(1, 1, 1)
    )
    mixture = attend(torch.eye(12, 4)[None, None])[0, 0, :4]  # (4, 4)
    values = some(1, 1, 12, 4)
    torch.testing.assert_close(attend(values)[0, 0], values[0, 0] @ mixture)
    torch.testing.assert_close(mixture.sum(0), torch.ones(4))


def test_the_skip_connection_tells_where_things_are(dae_former):
    fuse = dae_former.SkipCrossAttention(6, 8)
    deep, skip = some(1, 4, 6, 6).requires_grad_(), some(1, 4, 6, 8).requires_grad_()
    fused = fuse(deep, skip)
    assert fused.shape == skip.shape
    fused[0, 0, 0].square().sum().backward()
    # Keys and values reach each position from all over the decoder's map.
    assert (deep.grad.abs().sum(-1) > 0).all()
    assert (skip.grad.abs().sum(-1) > 0)[0, :2, :2].all()
    assert not skip.grad[0, 3, 5].any()  # beyond the mix-FFN's convolution


def test_every_parameter_learns_and_the_loss_falls(tiny):
    network = tiny(2)
    images = some(2, 3, 32, 32)
    targets = (images.mean(1) > 0).long()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(network(images), targets)
        optimizer.zero_grad()
        loss.backward()
        unreached = [n for n, p in network.named_parameters() if not p.grad.any()]
        assert not unreached
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_it_is_trained_as_a_method_of_the_benchmark(dae_former, tiny):
    from methods import METHODS, fit_from_scratch
    from tasks import Task

    assert {"dae-former", "dae-former-slow"} <= METHODS.keys()
    image, labels = make_phantom()
    annotated = keep_slices(labels, [3, 8])
    volumes = [
        medsaga.volume_from_array(array, name="phantom") for array in (image, annotated)
    ]
    task = Task([tuple(volumes)], [])
    settings = replace(TINY, steps=12)
    fitted = fit_from_scratch(tiny, task, settings, learning_rate=3e-3)
    assert fitted.values == VALUES
    assert fitted.facts["steps"] == len(fitted.losses) == 12
    assert np.mean(fitted.losses[-3:]) < np.mean(fitted.losses[:3])
    mask = fitted.predict(volumes[0], medsaga.SegmentSettings())
    assert mask.shape == image.shape
    assert set(np.unique(mask)) <= {0, *VALUES}

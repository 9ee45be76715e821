from __future__ import annotations

import copy

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medsaga.network.backbones import attending, attention
from medsaga.network.backbones.attention import (
    LinearMemoryAttention,
    resize_positions,
    resize_relative_positions,
)


def _pair(
    size: tuple[int, int], width: int = 24, heads: int = 2
) -> tuple[Attention, LinearMemoryAttention]:
    """SAM's attention with all parameters random, and ours with a copy of them.

    SAM starts its tables at zero, which would hide a bias that is left out.
    """
    torch.manual_seed(0)
    sam = Attention(width, heads, use_rel_pos=True, input_size=size).double()
    for parameter in sam.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return sam, LinearMemoryAttention.from_sam(copy.deepcopy(sam))


class _LargestTensor(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.numel())
        return result


@pytest.mark.parametrize(
    ("made_for", "size"),
    [
        ((5, 5), (5, 5)),
        ((5, 3), (5, 3)),
        ((8, 8), (5, 5)),
        ((4, 4), (7, 7)),
        ((8, 8), (3, 9)),
        ((8, 8), (1, 6)),
    ],
)
def test_equals_sams_attention_at_any_size(made_for, size):
    sam, ours = _pair(made_for)
    tokens = torch.randn(3, *size, 24, dtype=torch.float64)
    expected, result = sam(tokens), ours(tokens)
    assert result.shape == tokens.shape
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_the_bias_is_there_for_both_axes():
    for table in ("rel_pos_h", "rel_pos_w"):
        _, ours = _pair((4, 5))
        tokens = torch.randn(1, 4, 5, 24, dtype=torch.float64)
        before = ours(tokens)
        with torch.no_grad():
            getattr(ours, table).zero_()
        assert (ours(tokens) - before).abs().max() > 1e-3


def test_gradients_equal_sams():
    sam, ours = _pair((6, 6))
    tokens = torch.randn(2, 4, 7, 24, dtype=torch.float64)
    direction = torch.randn_like(tokens)
    gradients = []
    for module in (sam, ours):
        leaf = tokens.clone().requires_grad_()
        (module(leaf) * direction).sum().backward()
        gradients.append(
            {"input": leaf.grad, **{n: p.grad for n, p in module.named_parameters()}}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        assert expected.abs().max() > 1e-6, name
        torch.testing.assert_close(gradients[1][name], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("width", [24, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("way", ["attend", "attend_fused"])
def test_never_builds_the_matrix_of_all_pairs(monkeypatch, way, dtype, width):
    monkeypatch.setattr(attention, "attend", getattr(attending, way))
    sam, ours = _pair((20, 20), width=width)
    n_pairs = 400 * 400
    for module, builds_it in ((sam, True), (ours, False)):
        module.to(dtype)
        tokens = torch.randn(1, 20, 20, width, dtype=dtype, requires_grad=True)
        with _LargestTensor() as largest:
            module(tokens).sum().backward()
        assert (largest.numel >= n_pairs) == builds_it
    assert largest.numel < n_pairs / 2


def _heads(
    rows: int, columns: int, *, heads: int = 3, width: int = 6
) -> tuple[torch.Tensor, ...]:
    """Queries, keys, values and the biases of both axes, at random."""
    generator = torch.Generator().manual_seed(0)
    widths = (width, width, width, rows, columns)
    return tuple(
        torch.randn(heads, rows * columns, n, dtype=torch.float64, generator=generator)
        for n in widths
    )


def _gradients(attend, given, direction):
    leaves = [part.clone().requires_grad_() for part in given]
    attended = attend(*leaves)
    (attended * direction).sum().backward()
    return attended.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("at_once", [1, 100, 35 * 35, 2 * 35 * 35 + 1, 10**6])
def test_parts_of_any_size_give_what_the_fused_kernel_gives(monkeypatch, at_once):
    given = _heads(5, 7)
    direction = torch.randn_like(given[2])
    expected = _gradients(attending.attend_fused, given, direction)
    monkeypatch.setattr(attending, "_PAIRS_AT_ONCE", at_once)
    result = _gradients(attending.attend_in_parts, given, direction)
    torch.testing.assert_close(result[0], expected[0])
    for gradient, of_fused in zip(result[1], expected[1], strict=True):
        assert of_fused.abs().max() > 1e-6
        torch.testing.assert_close(gradient, of_fused)


def test_a_part_has_no_more_pairs_than_it_may(monkeypatch):
    given = _heads(5, 7)
    monkeypatch.setattr(attending, "_PAIRS_AT_ONCE", 100)
    attended = attending.attend_in_parts(*given)
    for work, inputs in (
        (attending.attend_in_parts, given),
        (attending._attend_backward, (torch.ones_like(attended), attended, *given)),
    ):
        with _LargestTensor() as largest:
            work._init_fn(*inputs)  # an operation's own work is seen by no mode
        assert largest.numel <= max(part.numel() for part in given) + 3 * 35
    assert largest.numel < 35 * 35


def test_state_dict_is_sams():
    sam, ours = _pair((5, 3))
    assert list(ours.state_dict()) != []
    assert set(ours.state_dict()) == set(sam.state_dict())
    ours.load_state_dict(sam.state_dict())


def test_takes_over_the_parameters_themselves():
    sam, _ = _pair((5, 3))
    shared = LinearMemoryAttention.from_sam(sam)
    own = dict(sam.named_parameters())
    assert all(parameter is own[n] for n, parameter in shared.named_parameters())


def test_runs_in_mixed_precision():
    sam, ours = _pair((6, 6))
    sam.float(), ours.float()
    tokens = torch.randn(2, 6, 6, 24)
    with torch.autocast("cpu", torch.bfloat16):
        result = ours(tokens)
    assert result.dtype == torch.bfloat16
    expected = sam(tokens)
    assert (result - expected).norm() < 0.05 * expected.norm()


def test_resized_tables_keep_a_ramp():
    ramp = torch.linspace(-1, 1, 127).view(-1, 1).repeat(1, 3)
    resized = resize_relative_positions(ramp, 63)
    assert resized.shape == (63, 3)
    torch.testing.assert_close(resized, -resized.flip(0))
    assert (resized.diff(dim=0) > 0).all()
    assert resize_relative_positions(ramp, 127) is ramp


def test_resized_positions_keep_each_axis():
    rows = torch.linspace(0, 1, 16).view(1, 16, 1, 1).expand(1, 16, 12, 2)
    resized = resize_positions(rows, (8, 20))
    assert resized.shape == (1, 8, 20, 2)
    assert (resized.diff(dim=1) > 0).all()
    torch.testing.assert_close(resized, resized[:, :, :1].expand_as(resized))
    assert resize_positions(rows, (16, 12)) is rows

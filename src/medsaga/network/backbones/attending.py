"""Attention with a bias by row and by column of the keys, in little memory, exact.

PyTorch's fused kernels know no such bias, but it is an inner product of the query's
biases with one-hot vectors of the key's row and column. Appended to queries and keys
these give the same result, and values must be as wide: on an image of 1024 x 1024 that
is three times the multiplications, which a GPU has to spare. A CPU takes a part of the
queries after the other, in matrix products of the heads' own width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAIRS_AT_ONCE = 2**21
"""Measured on 196, 1024 and 4096 tokens: half and a quarter of it are slower."""

# Schemas, as not every version of PyTorch infers them from postponed annotations.
_GIVEN = "Tensor query, Tensor key, Tensor value, Tensor row_bias, Tensor column_bias"
_GRADIENTS = "Tensor, Tensor, Tensor, Tensor, Tensor"

_WIDTH_MULTIPLE = 8
"""The fused kernels want head widths that are multiples of it."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor, column_bias: Tensor
) -> Tensor:
    """Give each query the mean of the values by the softmax of its logits.

    The logit of query q and key k is ``q . k + row_bias[q, row(k)] + column_bias[q,
    column(k)]``. The matrix of all pairs is never built.

    Parameters
    ----------
    query, key, value
        (heads of all images, tokens, width of a head); the queries are scaled. Tokens
        go along the columns first.
    row_bias, column_bias
        (heads of all images, tokens, rows) and (..., columns): rows times columns are
        the tokens.

    Returns
    -------
    Tensor
        As `value`. Logits and sums are in single precision at least.
    """
    given = (query, key, value, row_bias, column_bias)
    if not query.is_cpu:
        return attend_fused(*given)
    at_least = torch.promote_types(query.dtype, torch.float32)
    attended: Tensor = attend_in_parts(*(part.to(at_least) for part in given))
    return attended.to(value.dtype)


def attend_fused(
    query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor, column_bias: Tensor
) -> Tensor:
    """Do as :func:`attend` by the fused kernel of the device."""
    width = value.shape[-1]
    places = _one_hot_places(row_bias.shape[-1], column_bias.shape[-1], like=key)
    query = torch.cat([query, row_bias, column_bias], dim=-1)
    key = torch.cat([key, places.expand(len(key), -1, -1)], dim=-1)
    # Flash attention wants one width for all three: without the zeros torch falls back
    # to building the matrix.
    padded = -(-query.shape[-1] // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE
    query, key, value = (
        pad(part, (0, padded - part.shape[-1]))[None] for part in (query, key, value)
    )
    attended = scaled_dot_product_attention(query, key, value, scale=1.0)
    return attended[0, ..., :width]


@torch.library.custom_op(
    "medsaga::attend_in_parts", mutates_args=(), schema=f"({_GIVEN}) -> Tensor"
)
def attend_in_parts(
    query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor, column_bias: Tensor
) -> Tensor:
    """Do as :func:`attend`, some queries at a time.

    It is an operation of PyTorch's, so that checkpointing can keep its result and
    tensors without contents pass in no time.
    """
    attended = torch.empty_like(value, memory_format=torch.contiguous_format)
    parts = _Parts(query, key)
    for heads, some in parts:
        biases = row_bias[heads, some], column_bias[heads, some]
        shares = parts.shares(query[heads, some], key[heads], *biases)
        torch.bmm(shares, value[heads], out=attended[heads, some])
    return attended


@torch.library.custom_op(
    "medsaga::attend_in_parts_backward",
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor attended, {_GIVEN}) -> ({_GRADIENTS})",
)
def _attend_backward(
    gradient: Tensor,
    attended: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_bias: Tensor,
    column_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give the gradients of queries, keys, values and biases.

    With P the shares and O what was attended, the logits' gradient is
    ``P * (dO V^T - rowsum(dO * O))`` (FlashAttention, arXiv 2205.14135, appendix B.4);
    the second term is one more column of the matrix product.
    """
    given = (query, key, value, row_bias, column_bias)
    grads = tuple(torch.zeros_like(part) for part in given)
    of_query, of_key, of_value, of_rows, of_columns = grads
    less = -(gradient * attended).sum(-1, keepdim=True)
    gradient_and_less = torch.cat([gradient, less], -1)
    value_and_one = torch.cat([value, torch.ones_like(value[..., :1])], -1)
    parts = _Parts(query, key)
    for heads, some in parts:
        biases = row_bias[heads, some], column_bias[heads, some]
        shares = parts.shares(query[heads, some], key[heads], *biases)
        of_value[heads].baddbmm_(shares.mT, gradient[heads, some])
        of_logits = shares.mul_(
            parts.product(gradient_and_less[heads, some], value_and_one[heads])
        )
        torch.bmm(of_logits, key[heads], out=of_query[heads, some])
        of_key[heads].baddbmm_(of_logits.mT, query[heads, some])
        by_place = of_logits.view(*of_rows[heads, some].shape, -1)
        of_rows[heads, some] = by_place.sum(3)
        of_columns[heads, some] = by_place.sum(2)
    return of_query, of_key, of_value, of_rows, of_columns


class _Parts:
    """Goes through the queries in parts, and has the room for the pairs of one.

    Parameters
    ----------
    query, key
        (heads of all images, tokens, width).
    """

    def __init__(self, query: Tensor, key: Tensor) -> None:
        self._n_heads, self._n_queries = query.shape[:2]
        self._n_keys = key.shape[1]
        self._queries = min(self._n_queries, max(1, _PAIRS_AT_ONCE // self._n_keys))
        n_pairs = self._queries * self._n_keys
        self._heads = min(self._n_heads, max(1, _PAIRS_AT_ONCE // n_pairs))
        self._room = [query.new_empty(self._heads * n_pairs) for _ in range(2)]

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        for head in range(0, self._n_heads, self._heads):
            for start in range(0, self._n_queries, self._queries):
                yield (
                    slice(head, head + self._heads),
                    slice(start, start + self._queries),
                )

    def shares(
        self, query: Tensor, key: Tensor, row_bias: Tensor, column_bias: Tensor
    ) -> Tensor:
        """Give the softmax of a part's logits, until the next part is asked for."""
        logits = self.product(query, key)
        by_place = logits.view(*row_bias.shape, -1)
        by_place.add_(row_bias[..., :, None]).add_(column_bias[..., None, :])
        shares = self._view(1, logits.shape)
        # `torch.softmax` has no `out`: new memory for each part would be cleared.
        torch.ops.aten._softmax.out(logits, -1, False, out=shares)
        return shares

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Give the inner products of the vectors of a part with those of all tokens."""
        shape = torch.Size((*left.shape[:2], right.shape[1]))
        return torch.bmm(left, right.mT, out=self._view(0, shape))

    def _view(self, which: int, shape: torch.Size) -> Tensor:
        return self._room[which][: shape.numel()].view(shape)


def _one_hot_places(rows: int, columns: int, like: Tensor) -> Tensor:
    """Row and column of each token as one-hot vectors, (tokens, rows + columns)."""
    row = torch.eye(rows, dtype=like.dtype, device=like.device)
    column = torch.eye(columns, dtype=like.dtype, device=like.device)
    return torch.cat(
        [row.repeat_interleave(columns, dim=0), column.repeat(rows, 1)], dim=1
    )


@attend_in_parts.register_fake
def _like_value(
    query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor, column_bias: Tensor
) -> Tensor:
    del query, key, row_bias, column_bias
    return torch.empty_like(value, memory_format=torch.contiguous_format)


@_attend_backward.register_fake
def _like_given(
    gradient: Tensor, attended: Tensor, *given: Tensor
) -> tuple[Tensor, ...]:
    del gradient, attended
    return tuple(torch.empty_like(part) for part in given)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs)


def _back(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
    grads: tuple[Tensor, ...] = _attend_backward(
        gradient.contiguous(), *ctx.saved_tensors
    )
    return grads


attend_in_parts.register_autograd(_back, setup_context=_keep)

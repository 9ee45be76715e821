"""SAM's attention in memory linear in the number of tokens, exact.

SAM adds to the logit of query q and key k a bias that is a sum over the two axes,
``rel_h[q, row(k)] + rel_w[q, col(k)]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medsaga.network.backbones.attending import attend


class LinearMemoryAttention(nn.Module):
    """Multi-head attention with SAM's decomposed relative-position bias.

    Parameters and their names are those of ``segment_anything``'s ``Attention``, so
    that its checkpoints fit.

    Parameters
    ----------
    num_heads
        Heads of the attention.
    qkv, proj
        The linear layers before (queries, keys and values in one) and after it.
    rel_pos_h, rel_pos_w
        Relative-position tables of rows and columns, (2 * size - 1, width of a head).
    """

    def __init__(
        self,
        num_heads: int,
        qkv: nn.Module,
        proj: nn.Module,
        rel_pos_h: nn.Parameter,
        rel_pos_w: nn.Parameter,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = qkv
        self.proj = proj
        self.rel_pos_h = rel_pos_h
        self.rel_pos_w = rel_pos_w

    @classmethod
    def from_sam(cls, attention: Any) -> LinearMemoryAttention:
        """Take over the layers and tables of one of ``segment_anything``'s modules.

        The parameters are shared with `attention`, not copied.
        """
        return cls(
            num_heads=attention.num_heads,
            qkv=attention.qkv,
            proj=attention.proj,
            rel_pos_h=attention.rel_pos_h,
            rel_pos_w=attention.rel_pos_w,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend among all `tokens` of an image or a window.

        Parameters
        ----------
        tokens
            (batch, rows, columns, channels).

        Returns
        -------
        Tensor
            Of the same shape.
        """
        batch, rows, columns, channels = tokens.shape
        qkv = self.qkv(tokens).view(batch, rows * columns, 3, self.num_heads, -1)
        # Each (heads of all images, tokens, width), and freed by itself.
        query, key, value = (
            part.flatten(0, 1).contiguous() for part in qkv.permute(2, 0, 3, 1, 4)
        )
        biases = self._biases(query, rows, columns)
        attended = attend(query * query.shape[-1] ** -0.5, key, value, *biases)
        attended = attended.view(batch, self.num_heads, rows * columns, -1)
        merged = attended.transpose(1, 2).reshape(batch, rows, columns, channels)
        projected: Tensor = self.proj(merged)
        return projected

    def _biases(self, query: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Each query's bias for every row and for every column of keys."""
        grid = query.view(len(query), rows, columns, -1)
        for_rows = torch.einsum("nhwc,hkc->nhwk", grid, _table(self.rel_pos_h, rows))
        for_columns = torch.einsum(
            "nhwc,wkc->nhwk", grid, _table(self.rel_pos_w, columns)
        )
        return for_rows.flatten(1, 2), for_columns.flatten(1, 2)


def _table(relative: Tensor, size: int) -> Tensor:
    """Vectors of every (query, key) pair along an axis, (size, size, width)."""
    place = torch.arange(size, device=relative.device)
    distance = place[:, None] - place[None, :]
    return resize_relative_positions(relative, 2 * size - 1)[distance + size - 1]


def resize_relative_positions(table: Tensor, length: int) -> Tensor:
    """Interpolate a relative-position table linearly to (length, width), as SAM does.

    Parameters
    ----------
    table
        (any length, width).
    length
        Two times the tokens along the axis, less one.
    """
    if table.shape[0] == length:
        return table
    return interpolate(table.T[None], size=length, mode="linear")[0].T


def resize_positions(embedding: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate position embeddings bicubically to another grid.

    Parameters
    ----------
    embedding
        (1, rows, columns, channels).
    size
        Rows and columns to give.
    """
    if embedding.shape[1:3] == size:
        return embedding
    resized = interpolate(embedding.permute(0, 3, 1, 2), size=size, mode="bicubic")
    return resized.permute(0, 2, 3, 1)

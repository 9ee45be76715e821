"""TinyViT's blocks without computing the padding of their windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timm.models.tiny_vit import TinyVitBlock


class UnpaddedBlock(nn.Module):
    """A block of TinyViT whose windows are no larger than the map, exact.

    TinyViT (arXiv 2207.10666) fills a map up with zeros to whole windows, which are
    seen as any other token: 8 x 8 tokens in windows of 14 x 14 are 196. All of these
    have one key and one value, so that to a query they are one token, whose bias is the
    logarithm of the sum of their exponentiated biases.

    Parameters
    ----------
    plain
        What it stands for; its parameters are taken over, not copied.
    """

    def __init__(self, plain: TinyVitBlock) -> None:
        super().__init__()
        self.window_size = plain.window_size
        self.attn, self.mlp, self.local_conv = plain.attn, plain.mlp, plain.local_conv

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the block's output for (batch, rows, columns, channels)."""
        tokens = tokens + self._attend(tokens)
        local: Tensor = self.local_conv(tokens.permute(0, 3, 1, 2))
        tokens = local.flatten(2).transpose(1, 2)
        tokens = tokens + self.mlp(tokens)
        return tokens.view(len(tokens), *local.shape[2:], -1)

    def _attend(self, tokens: Tensor) -> Tensor:
        """Attend within each window."""
        attention = self.attn
        qkv: Tensor = attention.qkv(attention.norm(tokens))
        of_zeros = attention.qkv(attention.norm(tokens.new_zeros(1, tokens.shape[-1])))
        rows, columns = tokens.shape[1:3]
        strips = []
        for height, span in self._spans(rows):
            parts = []
            for width, across in self._spans(columns):
                windows = _to_windows(qkv[:, span, across], height, width)
                attended = self._attend_in_windows(windows, of_zeros, height, width)
                size = (span.stop - span.start, across.stop - across.start)
                parts.append(_from_windows(attended, size, height))
            strips.append(torch.cat(parts, 2))
        projected: Tensor = attention.proj(torch.cat(strips, 1))
        return projected

    def _spans(self, length: int) -> Iterator[tuple[int, slice]]:
        """Give the side of the windows along a part of an axis, and that part."""
        whole = length - length % self.window_size
        if whole:
            yield self.window_size, slice(0, whole)
        if whole < length:
            yield length - whole, slice(whole, length)

    def _attend_in_windows(
        self, qkv: Tensor, of_zeros: Tensor, height: int, width: int
    ) -> Tensor:
        """Attend among the tokens of windows, and the zeros that fill them up.

        Parameters
        ----------
        qkv
            (windows, tokens, channels of queries, keys and values of all heads).
        of_zeros
            (1, channels): the same of a token of zeros.
        height, width
            Of the windows.

        Returns
        -------
        Tensor
            (windows, tokens, channels).
        """
        attention = self.attn
        query, key, value = self._split(qkv)
        bias, of_filling = self._biases(height, width)
        if of_filling.shape[-1]:
            bias = torch.cat([bias, of_filling.logsumexp(-1, keepdim=True)], -1)
            _, key_of_zeros, value_of_zeros = self._split(of_zeros[None])
            key = torch.cat([key, key_of_zeros.expand(len(key), -1, -1, -1)], 2)
            value = torch.cat([value, value_of_zeros.expand(len(key), -1, -1, -1)], 2)
        # Not torch's fused attention, which on a CPU is slower with a learned bias.
        logits = (query * attention.scale) @ key.mT + bias
        attended: Tensor = logits.softmax(-1) @ value
        return attended.transpose(1, 2).flatten(2)

    def _biases(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Give each token's bias for those of its window, and for what fills it up.

        Returns
        -------
        tuple[Tensor, Tensor]
            (heads, tokens, tokens) and (heads, tokens, zeros).
        """
        side = self.window_size
        by_place = self.attn.attention_bias_idxs.view(4 * (side,))[:height, :width]
        of_tokens = by_place[..., :height, :width].reshape(height * width, -1)
        beside = by_place[..., :height, width:].reshape(height * width, -1)
        below = by_place[..., height:, :].reshape(height * width, -1)
        biases: Tensor = self.attn.attention_biases
        return biases[:, of_tokens], biases[:, torch.cat([beside, below], 1)]

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Give queries, keys and values, (windows, heads, tokens, width)."""
        attention = self.attn
        by_head: Tensor = qkv.view(*qkv.shape[:2], attention.num_heads, -1).transpose(
            1, 2
        )
        widths = [attention.key_dim, attention.key_dim, attention.val_dim]
        return torch.split(by_head, widths, dim=-1)


def _to_windows(tokens: Tensor, height: int, width: int) -> Tensor:
    """Bring (batch, rows, columns, channels) into (windows, tokens, channels)."""
    batch, rows, columns, channels = tokens.shape
    grid = tokens.view(batch, rows // height, height, columns // width, width, channels)
    return grid.transpose(2, 3).reshape(-1, height * width, channels)


def _from_windows(windows: Tensor, size: tuple[int, int], height: int) -> Tensor:
    """Bring (windows, tokens, channels) into (batch, rows, columns, channels)."""
    _, n_tokens, channels = windows.shape
    (rows, columns), width = size, n_tokens // height
    shape = (-1, rows // height, columns // width, height, width, channels)
    return windows.view(shape).transpose(2, 3).reshape(-1, rows, columns, channels)

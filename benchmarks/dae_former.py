"""DAE-Former, a transformer for medical image segmentation, trained from scratch.

Written from the description in its paper, which MedSAGa's paper compares with: Azad,
Arimond, Aghdam, Kazerouni and Merhof, "DAE-Former: Dual Attention-guided Efficient
Transformer for Medical Image Segmentation", arXiv 2212.13504. Where that takes over a
part from elsewhere, the docstring names the source; where it leaves a choice open, the
docstring names what is chosen here.

Feature maps are (batch, rows, columns, channels): a token is a position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence


def efficient_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend over all positions at a cost that is linear in their number.

    E(Q, K, V) = softmax(Q) (softmax(K)^T V): each query is normalised over its
    channels, each channel of the keys over the positions (the paper's section on
    efficient attention, after Shen et al., arXiv 1812.01243). K^T V comes first, so
    that no map of positions by positions is built.

    Parameters
    ----------
    queries, keys, values
        (batch, heads, positions, channels); keys and values may have other positions
        than the queries.

    Returns
    -------
    Tensor
        (batch, heads, positions of the queries, channels of the values).
    """
    context = keys.softmax(-2).mT @ values  # (B, heads, channels, channels)
    return queries.softmax(-1) @ context


def channel_attention(
    queries: Tensor, keys: Tensor, values: Tensor, temperature: Tensor
) -> Tensor:
    """Attend over the channels: the same mixture of them at every position.

    T(Q, K, V) = V softmax(K^T Q / t), where each channel of Q and K has length 1 over
    the positions (the paper's section on transpose attention, after El-Nouby et al.,
    XCiT, arXiv 2106.09681). Each channel that comes out is a weighted mean of the
    values' channels.

    Parameters
    ----------
    queries, keys, values
        (batch, heads, positions, channels).
    temperature
        t, broadcast against (batch, heads, channels, channels).
    """
    # In fp32: bf16 sums over many positions are too coarse for a length.
    queries, keys = (F.normalize(x.float(), dim=-2) for x in (queries, keys))
    weights = (keys.mT @ queries / temperature).softmax(-2)
    return values @ weights


def _split(x: Tensor, heads: int) -> Tensor:
    """Bring (B, H, W, C) to (B, heads, H * W, C / heads)."""
    return x.reshape(x.shape[0], -1, heads, x.shape[-1] // heads).transpose(1, 2)


def _join(x: Tensor, like: Tensor) -> Tensor:
    """Bring heads back to the (B, H, W, C) of `like`."""
    return x.transpose(1, 2).reshape(like.shape)


class EfficientAttention(nn.Module):
    """Efficient attention; keys and values may come from a second map.

    One head, as nothing else is said. There are no biases: one on the keys would
    cancel in their softmax.
    """

    def __init__(self, width: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        keys, values = self.keys_values(x if source is None else source).chunk(2, -1)
        parts = (_split(y, self.heads) for y in (self.queries(x), keys, values))
        attended: Tensor = self.out(_join(efficient_attention(*parts), x))
        return attended


class ChannelAttention(nn.Module):
    """Transpose attention in eight heads, as in XCiT, with a learned temperature."""

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.queries_keys_values(x).chunk(3, -1)
        queries, keys, values = (_split(y, self.heads) for y in parts)
        mixed = channel_attention(queries, keys, values, self.temperature)
        attended: Tensor = self.out(_join(mixed, x))
        return attended


class _Convolution(nn.Conv2d):
    """A convolution of (B, H, W, C) maps, which are channels-last to torch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MixFFN(nn.Sequential):
    """FC, 3 x 3 depthwise convolution, GELU, FC.

    From SegFormer (Xie et al., arXiv 2105.15203, section 3.1), with its expansion of
    four. The convolution's zero padding is what tells positions apart.
    """

    def __init__(self, width: int, expansion: int = 4) -> None:
        inner = expansion * width
        super().__init__(
            nn.Linear(width, inner),
            _Convolution(inner, inner, 3, padding=1, groups=inner),
            nn.GELU(),
            nn.Linear(inner, width),
        )


class DualBlock(nn.Module):
    """Efficient attention, mix-FFN, channel attention, mix-FFN.

    The sequential form that the paper's section on efficient dual attention settles
    on. Each part sees a layer-normalised map and is added to it.
    """

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        parts = (
            EfficientAttention(width),
            MixFFN(width),
            ChannelAttention(width, heads),
            MixFFN(width),
        )
        self.parts = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), part) for part in parts
        )

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = x + part(x)
        return x


class PatchEmbedding(nn.Sequential):
    """Overlapping patches to tokens, as in SegFormer: convolution, layer norm."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int) -> None:
        super().__init__(
            _Convolution(width_in, width, kernel, stride, padding=kernel // 2),
            nn.LayerNorm(width),
        )


class PatchExpanding(nn.Module):
    """Each token becomes `factor` x `factor` of `width` channels.

    As in Swin-Unet (Cao et al., arXiv 2105.05537): a linear layer whose channels are
    rearranged into space, then layer norm.
    """

    def __init__(self, width_in: int, width: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(width_in, width * factor**2, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        channels = self.expand(x).permute(0, 3, 1, 2)
        spread = F.pixel_shuffle(channels, self.factor).permute(0, 2, 3, 1)
        expanded: Tensor = self.norm(spread)
        return expanded


class SkipCrossAttention(nn.Module):
    """Fuse a map of the decoder with the encoder's: SCCA.

    The decoder's map is brought to the encoder's width by a linear layer and gives
    keys and values; the encoder's gives the queries of efficient attention (the
    paper's section on skip connection cross-attention). That alone would keep nothing
    of where the decoder saw what, so it is added to a linear mixture of both maps
    here, and a mix-FFN follows as in every block.
    """

    def __init__(self, width_deep: int, width: int) -> None:
        super().__init__()
        self.match = nn.Linear(width_deep, width)
        self.norm_deep, self.norm_skip = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = EfficientAttention(width)
        self.mixture = nn.Linear(2 * width, width)
        self.feed = nn.Sequential(nn.LayerNorm(width), MixFFN(width))

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        deep = self.match(deep)
        attended = self.attention(self.norm_skip(skip), self.norm_deep(deep))
        fused = self.mixture(torch.cat([deep, skip], -1)) + attended
        fed: Tensor = fused + self.feed(fused)
        return fed


class DAEFormer(nn.Module):
    """Images to class logits at their own size, (batch, classes, rows, columns).

    The encoder has maps at 1/4, 1/8 and 1/16, of two dual blocks each; the decoder
    expands, fuses and has two dual blocks again at 1/8 and 1/4, and a last expansion
    by 4 before the linear layer to the classes (the paper's section on the network).

    Parameters
    ----------
    n_classes
        Classes, background included.
    widths
        Channels at the three levels, even multiples of `heads`.
    depth
        Dual blocks of a level.
    heads
        Of channel attention.
    """

    def __init__(
        self,
        n_classes: int,
        widths: Sequence[int] = (128, 320, 512),
        depth: int = 2,
        heads: int = 8,
    ) -> None:
        super().__init__()
        patches = [(3, 7, 4), (widths[0], 3, 2), (widths[1], 3, 2)]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                PatchEmbedding(width_in, width, kernel, stride),
                *(DualBlock(width, heads) for _ in range(depth)),
                nn.LayerNorm(width),
            )
            for (width_in, kernel, stride), width in zip(patches, widths, strict=True)
        )
        self.expanding, self.fusing, self.decoder = (nn.ModuleList() for _ in range(3))
        for deep, width in ((widths[2], widths[1]), (widths[1], widths[0])):
            self.expanding.append(PatchExpanding(deep, deep // 2))
            self.fusing.append(SkipCrossAttention(deep // 2, width))
            blocks = (DualBlock(width, heads) for _ in range(depth))
            self.decoder.append(nn.Sequential(*blocks))
        self.head = nn.Sequential(
            nn.LayerNorm(widths[0]),
            PatchExpanding(widths[0], widths[0] // 2, factor=4),
            nn.Linear(widths[0] // 2, n_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of (batch, 3, rows, columns), sides multiples of 16."""
        x = images.permute(0, 2, 3, 1)
        maps = []
        for level in self.encoder:
            x = level(x)
            maps.append(x)
        maps.pop()
        for expand, fuse, blocks in zip(
            self.expanding, self.fusing, self.decoder, strict=True
        ):
            x = blocks(fuse(expand(x), maps.pop()))
        logits: Tensor = self.head(x).permute(0, 3, 1, 2)
        return logits

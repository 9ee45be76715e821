"""SAM's own image encoders (ViT-B, ViT-L, ViT-H) as backbones, at any size."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medsaga.network.backbones.attention import LinearMemoryAttention, resize_positions
from medsaga.network.backbones.base import (
    AttentionLayer,
    Backbone,
    Level,
    check_size,
    normalise,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PATCH = 16
_EMBEDDING = 256
# SAM's pixel means and deviations are for 0..255, our images are in [0, 1].
_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)


class _Architecture(NamedTuple):
    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


_ARCHITECTURES: dict[str, _Architecture] = {
    "vit_b": _Architecture(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": _Architecture(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": _Architecture(1280, 32, 16, (7, 15, 23, 31)),
}


def build_vit(name: str, *, checkpointing: bool = False) -> Backbone:
    """Build one of SAM's encoders with random weights.

    Parameters
    ----------
    name
        ``vit_b``, ``vit_l`` or ``vit_h``.
    checkpointing
        Compute each block twice to keep its activations out of memory.
    """
    architecture = _ARCHITECTURES[name]._asdict()
    return ViTBackbone(name, **architecture, checkpointing=checkpointing)


def translate_vit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the encoder's weights of a checkpoint of SAM by this module's names."""
    return {
        name.replace("image_encoder.", "encoder.", 1): tensor
        for name, tensor in state.items()
        if name.startswith("image_encoder.")
    }


class ViTBackbone(Backbone):
    """``segment_anything``'s image encoder with memory-linear attention.

    The pyramid holds the outputs of the blocks with global attention and of the last
    block, and at the end SAM's embedding, all at 1/16 of the image's size. The encoder
    is the attribute `encoder`, with the parameter names of SAM's checkpoints.

    Parameters
    ----------
    name
        What the user calls it.
    width, depth, heads
        Channels of a token, number of blocks, attention heads in each.
    global_blocks
        Indices of the blocks that attend over the whole image.
    window
        Tokens along a side of the windows that the other blocks attend in.
    image_size
        Pixels along a side that the position tables are made for. Images of other
        sizes, rectangular ones too, get interpolated tables.
    checkpointing
        Compute each block twice to keep its activations out of memory. It can be
        switched at any time and changes no result.
    """

    def __init__(
        self,
        name: str,
        *,
        width: int,
        depth: int,
        heads: int,
        global_blocks: Sequence[int],
        window: int = 14,
        image_size: int = 1024,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.size_multiple = _PATCH
        self.checkpointing = checkpointing
        self.encoder = ImageEncoderViT(
            img_size=image_size,
            patch_size=_PATCH,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            out_chans=_EMBEDDING,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=window,
            global_attn_indexes=tuple(global_blocks),
        )
        for block in self.encoder.blocks:
            block.attn = LinearMemoryAttention.from_sam(block.attn)
        self._tapped = frozenset(global_blocks) | {depth - 1}
        self.levels = (
            *(Level(width, _PATCH) for _ in self._tapped),
            Level(_EMBEDDING, _PATCH),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of `images`; see :class:`Backbone`.

        Raises
        ------
        ValueError
            If the height or the width is no multiple of 16.
        """
        check_size(self, images)
        tokens: Tensor = self.encoder.patch_embed(normalise(images, _MEAN, _STD))
        rows, columns = tokens.shape[1:3]  # tokens: (B, rows, columns, channels)
        tokens = tokens + resize_positions(self.encoder.pos_embed, (rows, columns))
        maps = []
        for index, block in enumerate(self.encoder.blocks):
            tokens = self._run(block, tokens)
            if index in self._tapped:
                maps.append(tokens.permute(0, 3, 1, 2))
        maps.append(self.encoder.neck(maps[-1]))
        return maps

    def attention_layers(self) -> Iterator[AttentionLayer]:
        """Give the layers of queries, keys and values, which stand in this order."""
        for module in self.modules():
            if isinstance(module, LinearMemoryAttention):
                yield AttentionLayer.of(module.qkv, n_heads=1)

    def _run(self, block: Any, tokens: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            result: Tensor = checkpoint(block, tokens, use_reentrant=False)
        else:
            result = block(tokens)
        return result

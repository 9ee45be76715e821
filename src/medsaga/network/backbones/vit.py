"""SAM's own image encoders (ViT-B, ViT-L, ViT-H) as backbones, at any size."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.utils.checkpoint import (
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from medsaga.network.backbones.attending import attend_in_parts
from medsaga.network.backbones.attention import LinearMemoryAttention, resize_positions
from medsaga.network.backbones.base import (
    AttentionLayer,
    Backbone,
    Level,
    check_size,
    normalise,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medsaga.network.backbones.vit_size import ViTSize

_PATCH = 16
_EMBEDDING = 256
# SAM's pixel means and deviations are for 0..255, our images are in [0, 1].
_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)


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
    size
        How large it is.
    checkpointing
        Compute each block twice to keep its activations out of memory. It can be
        switched at any time and changes no result.
    """

    def __init__(
        self,
        name: str,
        size: ViTSize,
        *,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.size_multiple = _PATCH
        self.checkpointing = checkpointing
        self.encoder = ImageEncoderViT(
            img_size=size.image_size,
            patch_size=_PATCH,
            embed_dim=size.width,
            depth=size.depth,
            num_heads=size.heads,
            out_chans=_EMBEDDING,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=size.window,
            global_attn_indexes=size.global_blocks,
        )
        for block in self.encoder.blocks:
            block.attn = LinearMemoryAttention.from_sam(block.attn)
        self._tapped = frozenset(size.global_blocks) | {size.depth - 1}
        self.levels = (
            *(Level(size.width, _PATCH) for _ in self._tapped),
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
            keeps_attended = tokens.is_cpu and not block.window_size
            result: Tensor = checkpoint(
                block,
                tokens,
                use_reentrant=False,
                context_fn=_keep_attended if keeps_attended else noop_context_fn,
            )
        else:
            result = block(tokens)
        return result


def _keep_attended() -> Any:
    """Keep what is small and dear: what was attended among all tokens of an image."""
    create: Any = create_selective_checkpoint_contexts  # torch leaves it untyped
    return create([attend_in_parts._opoverload])

"""LiteMedSAM's image encoder: a TinyViT that keeps a quarter of the resolution.

The weights come from the bowang-lab MedSAM project; the encoder is timm's TinyViT
(Wu et al. 2022, arXiv 2207.10666) with three changes: a patch embedding that keeps the
full resolution, a last stage that is not downsampled, and SAM's neck.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import Attention, ConvNorm, TinyVit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medsaga.network.backbones.base import (
    AttentionLayer,
    Backbone,
    Level,
    check_size,
)
from medsaga.network.backbones.folded_norm import fold_batch_norms
from medsaga.network.backbones.unpadded_windows import UnpaddedBlock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_WIDTHS = (64, 128, 160, 320)
_EMBEDDING_CHANNELS = 256
# The full resolution is computed in strips of about so many pixels, whose activations
# (1 KB each) stay in a processor's cache: half the time of a whole image of 256 x 256.
_STRIP_PIXELS, _LEAST_STRIP = 8192, 16
_BORDER = 2  # rows beside a strip that its result depends on: two 3 x 3 convolutions


def build_lite_medsam(
    name: str = "lite_medsam", *, checkpointing: bool = False
) -> Backbone:
    """Build LiteMedSAM's image encoder with random weights."""
    return LiteMedSAM(name, checkpointing=checkpointing)


class LiteMedSAM(Backbone):
    """TinyViT as in LiteMedSAM, with its pyramid.

    Levels: the patch embedding at full resolution, each of the first three stages
    before and after the next stage's downsampling, the last stage, and the neck's
    embedding. Takes any size that 4 divides; it was trained at 256 x 256.
    """

    def __init__(self, name: str, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.name = name
        self.size_multiple = 4
        self.levels = (
            Level(64, 1),
            Level(64, 1),
            Level(128, 2),
            Level(128, 2),
            Level(160, 4),
            Level(160, 4),
            Level(320, 4),
            Level(320, 4),
            Level(_EMBEDDING_CHANNELS, 4),
        )
        self.checkpointing = checkpointing
        self.encoder = _build_tiny_vit()
        self.neck = nn.Sequential(
            nn.Conv2d(_WIDTHS[-1], _EMBEDDING_CHANNELS, 1, bias=False),
            LayerNorm2d(_EMBEDDING_CHANNELS),
            nn.Conv2d(
                _EMBEDDING_CHANNELS, _EMBEDDING_CHANNELS, 3, padding=1, bias=False
            ),
            LayerNorm2d(_EMBEDDING_CHANNELS),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the nine maps of the pyramid, finest first."""
        check_size(self, images)
        # Strips would be kept for the gradient beside the whole.
        finest = self._finest if torch.is_grad_enabled() else self._finest_in_strips
        pyramid = finest(images)
        x = pyramid[-1]
        for stage in self.encoder.stages[1:]:
            x = stage.downsample(x)
            pyramid.append(x)
            x = x.permute(0, 2, 3, 1)  # the blocks take (B, H, W, C)
            for block in stage.blocks:
                x = self._run(block, x)
            x = x.permute(0, 3, 1, 2)
            pyramid.append(x)
        return [*pyramid, self.neck(x)]

    def _finest(self, images: Tensor) -> list[Tensor]:
        """Give the patch embedding and the first stage, (batch, 64, height, width)."""
        embedded = self.encoder.patch_embed(images)
        return [embedded, self._run(self.encoder.stages[0], embedded)]

    def _finest_in_strips(self, images: Tensor) -> list[Tensor]:
        """Do as :meth:`_finest`, a few rows at a time."""
        batch, _, height, width = images.shape
        rows = max(_LEAST_STRIP, _STRIP_PIXELS // (batch * width))
        strips = []
        for start in range(0, height, rows):
            first, end = max(0, start - _BORDER), min(height, start + rows)
            maps = self._finest(images[:, :, first : end + _BORDER])
            own = slice(start - first, end - first)
            strips.append([a_map[:, :, own] for a_map in maps])
        return [torch.cat(parts, 2) for parts in zip(*strips, strict=True)]

    def attention_layers(self) -> Iterator[AttentionLayer]:
        """Give the layers of queries, keys and values, those of a head together."""
        for module in self.modules():
            if isinstance(module, Attention):
                yield AttentionLayer.of(
                    module.qkv, n_heads=module.num_heads, key_width=module.key_dim
                )

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            checkpointed: Tensor = checkpoint(block, x, use_reentrant=False)
            return checkpointed
        result: Tensor = block(x)
        return result


def _build_tiny_vit() -> TinyVit:
    encoder = TinyVit(
        embed_dims=_WIDTHS,
        depths=(2, 2, 6, 2),
        num_heads=(2, 4, 5, 10),
        window_sizes=(7, 7, 14, 7),
        drop_path_rate=0.0,  # timm's default of 0.1 drops blocks at random
        num_classes=0,
    )
    encoder.patch_embed.conv1 = ConvNorm(3, _WIDTHS[0] // 2)
    encoder.patch_embed.conv2 = ConvNorm(_WIDTHS[0] // 2, _WIDTHS[0])
    encoder.stages[-1].downsample.conv2.conv.stride = (1, 1)
    for stage in encoder.stages[1:]:
        stage.blocks = nn.Sequential(*map(UnpaddedBlock, stage.blocks))
    fold_batch_norms(encoder)
    encoder.head = nn.Identity()  # its norm would be a parameter that never trains
    return encoder


_LAYER = re.compile(r"layers\.(\d{1,2})\.(\w+)\.(.*)")


def translate_lite_medsam(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of LiteMedSAM's `image_encoder` to this module's names.

    Tensors that this encoder has no use for (the classification head's) are left out.
    """
    return {
        renamed: tensor
        for name, tensor in state.items()
        if (renamed := _rename(name)) is not None
    }


def _rename(name: str) -> str | None:
    prefix, _, name = name.partition(".")
    if prefix != "image_encoder" or name.startswith(("head.", "norm_head.")):
        return None
    if name.endswith("attention_bias_idxs"):
        return None  # rebuilt from the window size
    if name.startswith("neck."):
        return name
    name = name.replace("patch_embed.seq.0.", "patch_embed.conv1.")
    name = name.replace("patch_embed.seq.2.", "patch_embed.conv2.")
    name = name.replace(".c.", ".conv.")
    if found := _LAYER.fullmatch(name):
        stage, part, rest = found.groups()
        # LiteMedSAM downsamples at a stage's end, timm at the next one's beginning.
        stage = str(int(stage) + 1) if part == "downsample" else stage
        name = f"stages.{stage}.{part}.{rest}"
    return f"encoder.{name}"

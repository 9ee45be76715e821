"""Segment Anything as it was pretrained: an image, and where to look, to a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from medsaga.errors import MedsagaError
from medsaga.network.filling import fill, unfilled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medsaga.network.backbones.pretrained import Pretrained

_GRID = 64  # features along each side of the square image that SAM was trained on
_MASK_CHANNELS = 16
_N_MASKS = 3


class PromptNetwork(nn.Module):
    """Image encoder, prompt encoder and mask decoder with their own weights.

    Parameters
    ----------
    pretrained
        The backbone, and the rest of its checkpoint.

    Attributes
    ----------
    side
        Pixels along each side of the image that it takes.

    Raises
    ------
    MedsagaError
        If the checkpoint has no prompt encoder or mask decoder that fits.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        super().__init__()
        self.backbone = pretrained.backbone
        channels, stride = self.backbone.embedding
        self.side = _GRID * stride
        with unfilled():
            self.prompt_encoder = PromptEncoder(
                embed_dim=channels,
                image_embedding_size=(_GRID, _GRID),
                input_image_size=(self.side, self.side),
                mask_in_chans=_MASK_CHANNELS,
            )
            self.mask_decoder = MaskDecoder(
                num_multimask_outputs=_N_MASKS,
                transformer=TwoWayTransformer(
                    depth=2, embedding_dim=channels, mlp_dim=2048, num_heads=8
                ),
                transformer_dim=channels,
            )
        _load(self.prompt_encoder, pretrained.sam, "prompt_encoder.")
        _load(self.mask_decoder, pretrained.sam, "mask_decoder.")
        self.eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def embed(self, image: Tensor) -> Tensor:
        """Give the embedding of an image.

        Parameters
        ----------
        image
            (3, height, width) in [0, 1], at most `side` along each; what is missing is
            padded at the bottom and the right.
        """
        height, width = image.shape[1:]
        padded = F.pad(image, (0, self.side - width, 0, self.side - height))
        images = padded[None].contiguous(memory_format=torch.channels_last)
        embedding: Tensor = self.backbone(images)[-1]
        return embedding

    @torch.no_grad()
    def decode(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Give the masks of boxes.

        Parameters
        ----------
        embedding
            What :meth:`embed` gave.
        boxes
            (n, 4): left, top, right and bottom in pixels of the image.

        Returns
        -------
        logits : Tensor
            (n, side, side), above 0 inside.
        qualities : Tensor
            (n,): the overlap (IoU) that the network expects of each.
        """
        # One at a time stays in a processor's cache: nine together take half as long
        # again.
        decoded = [self._decode(embedding, box) for box in torch.split(boxes, 1)]
        logits, qualities = (torch.cat(parts) for parts in zip(*decoded, strict=True))
        size = (self.side, self.side)
        return F.interpolate(logits, size=size, mode="bilinear")[:, 0], qualities[:, 0]

    def _decode(self, embedding: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        sparse, dense = self.prompt_encoder(points=None, boxes=box, masks=None)
        logits, qualities = self.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return logits, qualities


def _load(module: nn.Module, sam: Mapping[str, Tensor], prefix: str) -> None:
    own = {n.removeprefix(prefix): t for n, t in sam.items() if n.startswith(prefix)}
    try:
        fill(module, own)
    except RuntimeError as error:
        raise MedsagaError(
            "The weights have no prompt encoder and mask decoder, which boxes and "
            "clicks need: choose lite_medsam, or a file with the weights of a whole "
            "Segment Anything model."
        ) from error

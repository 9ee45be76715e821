"""MedSAGa: a backbone, SAM's class mask decoder and the detail head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from medsaga.network.decoder import ClassMaskDecoder
from medsaga.network.detail_head import DetailHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsaga.network.backbones.base import Backbone


class MedSAGa(nn.Module):
    """Images to class logits: SAM's decoder plus, if there is one, the detail head.

    Parameters
    ----------
    backbone
        The image encoder.
    n_classes
        Number of classes k, background included.
    detail_head
        Whether to add the detail head's logits. The paper's model (arXiv 2407.15042)
        has none.
    decoder
        For so many classes; None builds one with random weights.
    """

    def __init__(
        self,
        backbone: Backbone,
        n_classes: int,
        *,
        detail_head: bool = True,
        decoder: ClassMaskDecoder | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder or ClassMaskDecoder(
            n_classes, backbone.embedding.channels
        )
        self.detail_head = (
            DetailHead(backbone.levels, n_classes) if detail_head else None
        )
        self.n_classes = n_classes

    @property
    def output_stride(self) -> int:
        """Input pixels per pixel of the logits."""
        return max(1, self.backbone.embedding.stride // 4)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits.

        Parameters
        ----------
        images
            (batch, 3, height, width) in [0, 1]; sides are multiples of
            `backbone.size_multiple`.

        Returns
        -------
        Tensor
            (batch, k, height / output_stride, width / output_stride).
        """
        return self.logits(self.backbone(images), images)

    def logits(self, pyramid: Sequence[Tensor], images: Tensor) -> Tensor:
        """Return the logits of images and of the pyramid that the backbone gave."""
        logits: Tensor = self.decoder(pyramid[-1])
        if self.detail_head is None:
            return logits
        return add_logits(logits, self.detail_head(pyramid, images))

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the maps that the detail head looks at, and the decoder's as the last.

        From these the logits are read; a network without a detail head has none.
        """
        assert self.detail_head is not None
        pyramid = self.backbone(images)
        _, upscaled = self.decoder.decode(pyramid[-1])
        return [*self.detail_head.features(pyramid, images), upscaled]


def add_logits(of_decoder: Tensor, of_head: Tensor) -> Tensor:
    """Add up (B, k, h, w) logits, at the resolution of the decoder's."""
    size = of_decoder.shape[-2:]
    if of_head.shape[-2:] != size:
        of_head = F.interpolate(
            of_head, size=size, mode="bilinear", align_corners=False
        )
    return of_decoder + of_head

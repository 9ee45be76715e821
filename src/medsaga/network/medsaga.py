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
    """

    def __init__(
        self, backbone: Backbone, n_classes: int, *, detail_head: bool = True
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = ClassMaskDecoder(n_classes, backbone.embedding.channels)
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
        head: Tensor = self.detail_head(pyramid, images)
        if head.shape[-2:] != logits.shape[-2:]:
            head = F.interpolate(
                head, size=logits.shape[-2:], mode="bilinear", align_corners=False
            )
        return logits + head

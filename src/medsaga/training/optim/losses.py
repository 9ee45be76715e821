"""The loss of MedSAGa: cross-entropy and Dice at the decoder's resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medsaga.data.sizing import IGNORE, scale_targets


class SegmentationLoss(nn.Module):
    """(1 - w) * cross-entropy + w * Dice (arXiv 2407.15042, eq. 4: w = 0.8).

    Dice runs over all classes, background included, and over the whole batch at once,
    so that a slice without a class does not count as a failure. Pixels whose target is
    -1 are unknown and count in neither part.

    Parameters
    ----------
    dice_weight
        w, from 0 to 1.
    keep_strokes
        Whether thin strokes among unknown pixels survive where targets shrink.
    """

    def __init__(self, dice_weight: float, *, keep_strokes: bool = False) -> None:
        # Seconds: not before the GaLore stage, so that the first preview stands sooner.
        from monai.losses import DiceLoss

        super().__init__()
        self.dice_weight = dice_weight
        self.keep_strokes = keep_strokes
        # MONAI's DiceCELoss has no ignore index, and its masked losses mask before the
        # softmax; so the probabilities are masked here and Dice gets plain numbers.
        self.dice = DiceLoss(include_background=True, batch=True)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss.

        Parameters
        ----------
        logits
            (batch, k, h, w).
        target
            (batch, height, width) class indices, -1 where unknown; brought to (h, w)
            by the nearest pixel.
        """
        logits = logits.float()
        if target.shape[-2:] != logits.shape[-2:]:
            height, width = logits.shape[-2:]
            target = scale_targets(
                target, (height, width), keep_strokes=self.keep_strokes
            )
        known = (target != IGNORE)[:, None]
        cross_entropy = F.cross_entropy(
            logits, target, ignore_index=IGNORE, reduction="sum"
        ) / known.sum().clamp_min(1)
        one_hot = F.one_hot(target.clamp_min(0), logits.shape[1]).movedim(-1, 1)
        dice: Tensor = self.dice(torch.softmax(logits, 1) * known, one_hot * known)
        return (1 - self.dice_weight) * cross_entropy + self.dice_weight * dice

"""The loss of MedSAGa: cross-entropy and Dice at the decoder's resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medsaga.data.sizing import IGNORE, scale_targets
from medsaga.training.ranks import ALONE, Ranks

_SMOOTH = 1e-5  # MONAI's, without which a class that is nowhere would be NaN


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
    ranks
        The processes that the batch is spread over, if not this one alone.
    """

    def __init__(
        self, dice_weight: float, *, keep_strokes: bool = False, ranks: Ranks = ALONE
    ) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.keep_strokes = keep_strokes
        self.ranks = ranks

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss: that of the whole batch, also where ranks share it.

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
        cross_entropy = self._cross_entropy(logits, target)
        dice = self._dice(logits, target)
        return (1 - self.dice_weight) * cross_entropy + self.dice_weight * dice

    # Both are fractions of sums over the batch, of which a rank knows its own part. The
    # mean of the ranks' losses would be another loss: what is known of their slices,
    # and how much of a class is on them, differs.

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        summed = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
        n_known = (target != IGNORE).sum()
        sums: Tensor = self.ranks.total(torch.stack([summed, n_known]))
        return sums[0] / sums[1].clamp_min(1)

    def _dice(self, logits: Tensor, target: Tensor) -> Tensor:
        known = (target != IGNORE)[:, None]
        predicted = torch.softmax(logits, 1) * known
        one_hot = F.one_hot(target.clamp_min(0), logits.shape[1]).movedim(-1, 1)
        painted = one_hot * known
        overlap = predicted * painted
        by_class = [one.sum((0, 2, 3)) for one in (overlap, predicted, painted)]
        sums: Tensor = self.ranks.total(torch.stack(by_class))  # (3, k)
        dice = (2 * sums[0] + _SMOOTH) / (sums[1] + sums[2] + _SMOOTH)
        return 1 - dice.mean()

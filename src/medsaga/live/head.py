"""A detail head and the decoder's linear map, fitted to what is painted so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medsaga.computing import seeded
from medsaga.network.detail_head import DetailHead
from medsaga.network.medsaga import add_logits
from medsaga.training.pixel_fit import PixelFit

if TYPE_CHECKING:
    from medsaga.live.slice_features import FeatureMaps, SliceFeatures
    from medsaga.settings.fine_tune import FineTuneSettings

# Twice as many of either are worth nothing on five tasks, and a stroke is to be
# answered within a second.
_STEPS, _BATCH = 100, 256


@dataclass(frozen=True, eq=False)
class LiveHead:
    """Class logits from the features of a slice.

    Attributes
    ----------
    head
        Of the pyramid's features.
    linear
        (k, channels) of the decoder's.
    """

    head: DetailHead
    linear: Tensor

    @torch.no_grad()
    def logits(self, seen: FeatureMaps) -> Tensor:
        """Give the (k, h, w) logits of a slice."""
        *pyramid, upscaled = (one.float() for one in seen.maps)
        of_decoder = torch.einsum("kc,bchw->bkhw", self.linear, upscaled)
        return add_logits(of_decoder, self.head(pyramid, upscaled))[0]


def fit_live_head(
    sampled: Tensor,
    targets: Tensor,
    features: SliceFeatures,
    n_classes: int,
    settings: FineTuneSettings,
) -> LiveHead:
    """Fit a head to the pixels of the painted slices.

    Parameters
    ----------
    sampled, targets
        The (n, features) and (n,) class indices of n pixels; the former are changed.
    features
        Where they come from.
    n_classes
        Number of classes k, background included.
    settings
        Learning rate and seed.
    """
    fit = PixelFit(
        sampled,
        targets,
        channels=features.channels,
        n_classes=n_classes,
        learning_rate=settings.head_fit_lr,
        seed=settings.seed,
    )
    fit.averages_after = _STEPS / 2
    for _ in range(_STEPS):
        fit.step(_BATCH)
    fit.finish()
    with seeded(torch.device("cpu"), settings.seed):
        head = DetailHead(features.levels, n_classes)
    head = head.to(fit.features.device).eval().requires_grad_(False)
    return LiveHead(head, fit.write_to(head))

"""Pixels sampled from views of the training slices: their features and classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from medsaga.computing import evaluating, spare_mb
from medsaga.data.sizing import IGNORE
from medsaga.network.detail_head import sample_pyramid
from medsaga.training.pixel_fit import PixelFit

if TYPE_CHECKING:
    from medsaga.network.medsaga import MedSAGa
    from medsaga.training.setup import Setup

_PIXELS_PER_CLASS = 400
_BACKGROUND_PIXELS = 1200
# Half of a class's pixels lie within so many pixels of another class: there the mask is
# decided. Drawn evenly, three times as many were needed for the same Dice.
_NEAR = 4
_FEATURE_BYTES = 2  # bf16


class SampledPixels:
    """The features and classes of the pixels sampled from a number of views.

    Parameters
    ----------
    setup, network
        The training, and its network.
    n_views
        How many there will be.
    budget_mb
        Memory that they may take; never more than a quarter of what is free.

    Attributes
    ----------
    quota
        How many pixels a view gives.
    budget_mb
        The memory that they may really take.
    """

    def __init__(
        self, setup: Setup, network: MedSAGa, n_views: int, budget_mb: int
    ) -> None:
        n_features, device = sum(feature_channels(network)), setup.device
        self.budget_mb = max(16, min(budget_mb, spare_mb(device)))
        affordable = self.budget_mb * 2**20 // (n_views * n_features * _FEATURE_BYTES)
        self.quota = PixelQuota.within(
            affordable, network.n_classes, setup.settings.seed
        )
        size = n_views * self.quota.total
        self._features = torch.empty(
            size, n_features, dtype=torch.bfloat16, device=device
        )
        self._targets = torch.empty(size, dtype=torch.long, device=device)
        self._slices = torch.empty(size, dtype=torch.int32, device=device)
        self._n = 0

    def add(self, features: Tensor, targets: Tensor, slice_number: int) -> None:
        """Take the pixels of one more view, of the training slice of that number."""
        end = self._n + len(targets)
        self._features[self._n : end] = features
        self._targets[self._n : end] = targets
        self._slices[self._n : end] = slice_number
        self._n = end

    @property
    def slices(self) -> Tensor:
        """(n,) number of the training slice that each pixel comes from."""
        return self._slices[: self._n]

    def sampled(self) -> tuple[Tensor, Tensor]:
        """Give the (n, features) and the (n,) classes sampled so far."""
        return self._features[: self._n], self._targets[: self._n]


def features_at(
    setup: Setup, network: MedSAGa, image: Tensor, points: Tensor
) -> Tensor:
    """Return the frozen pyramid's and the decoder's features at pixels of one image."""
    images = setup.to_device(image[None])
    with evaluating(network), setup.autocast():
        maps = network.features(images)
    size = (image.shape[-2], image.shape[-1])
    return sample_pyramid(maps, points.to(setup.device), size)


def feature_channels(network: MedSAGa) -> list[int]:
    """Channels of each map that features are sampled from, the decoder's last."""
    head = network.detail_head
    assert head is not None
    seen_by_head = [level.channels for level in head.levels]
    return [*seen_by_head, network.decoder.feature_channels]


def start_fit(
    setup: Setup, network: MedSAGa, features: Tensor, targets: Tensor
) -> PixelFit:
    """Begin a fit of the detail head and the decoder's linear map to sampled pixels."""
    return PixelFit(
        features,
        targets,
        channels=feature_channels(network),
        n_classes=network.n_classes,
        learning_rate=setup.settings.head_fit_lr,
        seed=setup.settings.seed,
    )


@dataclass(frozen=True)
class PixelQuota:
    """How many pixels of each class one view may give."""

    per_class: int
    background: int
    n_classes: int
    seed: int

    @classmethod
    def within(cls, affordable: int, n_classes: int, seed: int) -> PixelQuota:
        """Take the usual quota, or less where only so many a view are `affordable`."""
        usual = _BACKGROUND_PIXELS + _PIXELS_PER_CLASS * (n_classes - 1)
        part = min(1.0, affordable / usual)
        return cls(
            per_class=max(1, int(part * _PIXELS_PER_CLASS)),
            background=max(1, int(part * _BACKGROUND_PIXELS)),
            n_classes=n_classes,
            seed=seed,
        )

    @property
    def total(self) -> int:
        """Most pixels that one view can give."""
        return self.background + self.per_class * (self.n_classes - 1)

    def draw(self, target: Tensor, view: int) -> Tensor:
        """Draw pixels of one view, half of them near a boundary of classes.

        Gives (n, 2) rows and columns.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + view)
        near, drawn = _near_boundary(target), []
        for index in range(self.n_classes):
            is_class = target == index
            at_edge = shuffled_pixels(is_class & near, generator)
            inside = shuffled_pixels(is_class & ~near, generator)
            quota = self.per_class if index else self.background
            n_at_edge = max(quota // 2, quota - len(inside))
            drawn += [at_edge[:n_at_edge], inside[: quota - n_at_edge]]
        return torch.cat(drawn)


def _near_boundary(target: Tensor) -> Tensor:
    """Mark the pixels of a (H, W) target that have another class near them."""
    classes = target[None, None].float()
    known = classes.masked_fill(classes == IGNORE, torch.inf)
    highest, lowest = (
        F.max_pool2d(signed, 2 * _NEAR + 1, stride=1, padding=_NEAR)
        for signed in (classes, -known)
    )
    return (highest != -lowest)[0, 0]


def shuffled_pixels(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Give the pixels of a (H, W) mask in random order: (n, 2) rows and columns."""
    pixels = mask.nonzero()
    return pixels[torch.randperm(len(pixels), generator=generator)]

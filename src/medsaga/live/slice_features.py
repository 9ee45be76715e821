"""What a frozen network sees of the slices of one image, kept for later."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medsaga.computing import pick_device, spare_mb
from medsaga.data.canvas import choose_canvas
from medsaga.data.samples import working_image
from medsaga.network.detail_head import sample_pyramid
from medsaga.training.features.sampled_pixels import feature_channels
from medsaga.training.origin import load_backbone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsaga.data.canvas import Canvas
    from medsaga.data.volume import Volume
    from medsaga.network.backbones.base import Level
    from medsaga.settings.fine_tune import FineTuneSettings
    from medsaga.windows import Size

# The decoder's features hardly depend on how many classes it is made for.
_N_CLASSES = 2


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """The features of one slice.

    Attributes
    ----------
    maps
        (1, channels, h, w) bf16 each: the pyramid that the detail head looks at, finest
        first, and the decoder's last.
    content, padded
        Height and width of the working image, without and with its padding.
    """

    maps: Sequence[Tensor]
    content: Size
    padded: Size

    @property
    def n_bytes(self) -> int:
        """Memory that they take."""
        return sum(one.nbytes for one in self.maps)

    def at(self, points: Tensor) -> Tensor:
        """Give the (n, features) of (n, 2) rows and columns of the working image."""
        return sample_pyramid(self.maps, points.to(self.maps[0].device), self.padded)


class SliceFeatures:
    """Computes the features of slices when they are first asked for.

    Those that were used longest ago are forgotten.

    Parameters
    ----------
    image, axis
        The slices are cut across this axis of (z, y, x).
    limits
        Intensities that become black and white.
    settings
        Backbone and working size.
    cache_mb
        Memory for what is kept; never more than a quarter of what is free.

    Attributes
    ----------
    channels
        How many features each map gives.
    levels
        Channels and strides of the pyramid.

    Raises
    ------
    MedsagaError
        If the weights are not there.
    """

    def __init__(
        self,
        image: Volume,
        axis: int,
        limits: tuple[float, float],
        settings: FineTuneSettings,
        cache_mb: int,
    ) -> None:
        self._image, self._axis, self._limits = image, axis, limits
        self._settings = replace(settings, tiles=False)
        self._device = pick_device()
        self._cache_bytes = min(cache_mb, spare_mb(self._device)) * 2**20
        self._kept: OrderedDict[int, FeatureMaps] = OrderedDict()
        network, _ = load_backbone(settings, _N_CLASSES)
        network = network.to(self._device).to(memory_format=torch.channels_last)
        self._network = network
        self._network.eval().requires_grad_(False)
        assert network.detail_head is not None
        self.levels: Sequence[Level] = network.detail_head.levels
        self.channels = feature_channels(network)
        self._canvas = self._choose_canvas(None)

    def see_as_fine(self, finest: float | None) -> bool:
        """Work at a size at which what is so wide can be seen, if it is not yet large.

        Parameters
        ----------
        finest
            What :func:`~medsaga.data.survey.width_of_finest` gives.

        Returns
        -------
        bool
            Whether all that was seen before is outdated.
        """
        canvas = self._choose_canvas(finest)
        if canvas.long_side <= self._canvas.long_side:
            return False
        self._canvas = canvas
        self._kept.clear()
        return True

    def of(self, index: int) -> FeatureMaps:
        """Give those of a slice."""
        if index not in self._kept:
            found = self._compute(index)
            self._kept[index] = found
            while len(self._kept) > max(1, self._cache_bytes // found.n_bytes):
                self._kept.popitem(last=False)
        self._kept.move_to_end(index)
        return self._kept[index]

    def _choose_canvas(self, finest: float | None) -> Canvas:
        image, axis, backbone = self._image, self._axis, self._network.backbone
        return choose_canvas(
            [(image.slice_shape(axis), image.slice_spacing(axis))],
            self._settings,
            backbone.size_multiple,
            backbone.embedding.stride,
            finest,
        )

    @torch.no_grad()
    def _compute(self, index: int) -> FeatureMaps:
        seen = working_image(self._image, self._axis, index, self._limits, self._canvas)
        images = seen.image[None].to(self._device, memory_format=torch.channels_last)
        maps = [one.to(torch.bfloat16) for one in self._network.features(images)]
        return FeatureMaps(maps, seen.content, seen.padded)

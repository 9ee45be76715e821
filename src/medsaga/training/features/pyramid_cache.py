"""The feature maps of a frozen encoder, computed once for each view."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medsaga.computing import spare_mb
from medsaga.data.sizing import pad_image, pad_target
from medsaga.training.plan.steps import Filling
from medsaga.windows import view_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsaga.network.medsaga import MedSAGa
    from medsaga.training.setup import Setup

_MIB = 2**20


class PyramidCache:
    """Keeps the pyramids of as many augmented views as the memory budget holds.

    While the encoder learns nothing, a view's pyramid is the same in every step, so
    that a training that comes back to the same views pays for each only once.

    Parameters
    ----------
    setup, network
        The training, and its network, whose encoder is frozen.
    budget_mb
        Memory that they may take, by which there are so many views. Where less than
        four times that is free now, some of them are not kept.

    Attributes
    ----------
    n_views
        How many there are; view n is the same as view n + `n_views`.
    seconds
        What the last call of :meth:`pyramid` spent on computing what is kept.
    """

    def __init__(self, setup: Setup, network: MedSAGa, budget_mb: int) -> None:
        self._setup, self._network = setup, network
        self._pyramids: dict[int, list[Tensor]] = {}
        largest = (
            max(sample.target.shape[0] for sample in setup.training),
            max(sample.target.shape[1] for sample in setup.training),
        )
        self._size = view_size(largest, setup.canvas.tile)
        image, _ = setup.augmenter().view(setup.training[0], 0)
        image = pad_image(image, self._size)
        size = sum(level.nbytes for level in self._encode(image[None]))
        n_views = budget_mb * _MIB // size
        self._n_kept = min(n_views, spare_mb(setup.device) * _MIB // size)
        self.n_views = max(len(setup.training), n_views)
        self.seconds = 0.0
        self._seconds_per_view: list[float] = []

    @property
    def filling(self) -> Filling:
        """What the next steps take longer until all are kept that can be."""
        batch_size = self._setup.settings.batch_size
        n_missing = self._n_kept - len(self._pyramids)
        # The median: the first view compiles kernels.
        per_view = float(np.median(self._seconds_per_view or [0.0]))
        return Filling(math.ceil(n_missing / batch_size), per_view * batch_size)

    def pad(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Bring a view to the one size that all of them are kept at."""
        return pad_image(image, self._size), pad_target(target, self._size)

    def pyramid(self, views: Sequence[int], images: Tensor) -> list[Tensor]:
        """Return the feature maps of a batch (B, 3, H, W) of the `views` of it."""
        missing = [i for i, view in enumerate(views) if view not in self._pyramids]
        started, computed = time.monotonic(), {}
        if missing:
            levels = self._encode(images[missing])
            computed = {
                views[i]: [level[row] for level in levels]
                for row, i in enumerate(missing)
            }
        found = [(computed.get(v) or self._pyramids[v]) for v in views]
        self.seconds = 0.0
        if missing and len(self._pyramids) + len(computed) <= self._n_kept:
            self.seconds = time.monotonic() - started
            self._seconds_per_view.append(self.seconds / len(missing))
            self._pyramids |= computed
        return [torch.stack(level) for level in zip(*found, strict=True)]

    def _encode(self, images: Tensor) -> list[Tensor]:
        setup = self._setup
        with torch.no_grad(), setup.autocast():
            levels: list[Tensor] = self._network.backbone(setup.to_device(images))
        return levels

"""What the stages of one training share: network, slices, settings and clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from medsaga.computing import FixedPrecision, autocast, evaluating
from medsaga.data.augment import Augmenter
from medsaga.events import Preview, Stage
from medsaga.network.inference import predict_slice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from medsaga.data.canvas import Canvas
    from medsaga.data.classes import ClassTable
    from medsaga.data.intensity import IntensityRule
    from medsaga.data.samples import Sample
    from medsaga.data.volume import Volume
    from medsaga.network.medsaga import MedSAGa
    from medsaga.settings.fine_tune import FineTuneSettings
    from medsaga.training.running_time import RunningTime


PreviewTarget: TypeAlias = tuple[int, int]
"""Image and slice of a preview."""

# The slice that the user turns to is previewed sooner than the interval says.
_SOONEST_PREVIEW = 0.5


@dataclass(eq=False, kw_only=True)
class Session:
    """One training under way.

    `settings` is replaced by a version with more filled in as the stages plan
    themselves; at the end it repeats the training exactly. `is_usable` says whether
    the network has learned anything yet, `galore_steps` counts the steps done, and
    the seconds are what the stages have measured or expect.
    """

    network: MedSAGa
    training: Sequence[Sample]
    held_out: Sequence[Sample]
    images: Sequence[Volume]
    table: ClassTable
    rule: IntensityRule
    canvas: Canvas
    axis: int
    settings: FineTuneSettings
    device: torch.device
    precision: FixedPrecision
    preview_at: Callable[[], PreviewTarget]
    preview_interval: float
    time: RunningTime
    is_usable: bool = False
    galore_steps: int = 0
    seconds_per_view: float = 0.0
    seconds_per_fit_step: float = 0.0
    seconds_to_refit: float = 0.0
    seconds_to_compare: float = 0.0
    measured: dict[str, Any] = field(default_factory=dict)
    _last_preview: float = field(default=0.0, init=False)
    _last_target: PreviewTarget | None = field(default=None, init=False)
    _limits: dict[int, tuple[float, float]] = field(default_factory=dict, init=False)

    def plan(self, **planned: Any) -> None:
        """Fill in settings that were left to be planned."""
        self.settings = replace(self.settings, **planned)

    @property
    def seconds(self) -> float:
        """Seconds since the call of `fine_tune`, without pauses."""
        return self.time.seconds

    @property
    def seconds_left(self) -> float:
        """Seconds of `settings.minutes` that are left; may be negative."""
        return self.settings.minutes * 60 - self.seconds

    def augmenter(self) -> Augmenter:
        """Make the augmentation of this training."""
        return Augmenter(self.settings, self.settings.seed)

    def to_device(self, images: Tensor) -> Tensor:
        """Move an image batch to the network, in the fastest memory format."""
        return images.to(self.device, memory_format=torch.channels_last)

    def autocast(self) -> Any:
        """Compute in this training's number format."""
        return autocast(self.device, self.precision)

    def predict(self, volume: Volume, index: int) -> Tensor:
        """Return the (k, rows, columns) logits of a slice; network in eval mode."""
        return predict_slice(
            self.network,
            volume,
            self.axis,
            index,
            limits=self._limits_of(volume),
            canvas=self.canvas,
            precision=self.precision,
        )

    def _limits_of(self, volume: Volume) -> tuple[float, float]:
        """Take the percentiles of a volume once, not for each of its slices."""
        key = id(volume)
        if key not in self._limits:
            self._limits[key] = self.rule.limits(volume)
        return self._limits[key]

    def predict_mask(self, volume: Volume, index: int) -> np.ndarray[Any, Any]:
        """Return the (rows, columns) label values of a slice, as predicted now."""
        with evaluating(self.network):
            indices = self.predict(volume, index).argmax(0)
        return self.table.to_values(indices.cpu().numpy())

    def preview(self, stage: Stage) -> Preview:
        """Predict the previewed slice as the network stands."""
        image, index = self._last_target = self.preview_at()
        volume = self.images[image]
        mask = self.predict_mask(volume, index)
        self._last_preview = time.monotonic()
        return Preview(
            stage=stage,
            image_name=volume.name,
            axis=self.axis,
            slice_index=index,
            mask=mask,
            seconds=self.seconds,
        )

    @property
    def is_preview_due(self) -> bool:
        """Whether the last one is old, or shows another slice than is wanted."""
        has_moved = self.preview_at() != self._last_target
        interval = _SOONEST_PREVIEW if has_moved else self.preview_interval
        age = time.monotonic() - self._last_preview
        return age >= min(interval, self.preview_interval)

    def preview_if_due(self, stage: Stage) -> Iterator[Preview]:
        """Preview if it is time to."""
        if self.is_preview_due:
            yield self.preview(stage)

"""What a trained model says of single slices of an image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self

import torch

from medsaga.computing import (
    FixedPrecision,
    computes_natively,
    evaluating,
    pick_device,
    pick_precision,
)
from medsaga.data.samples import working_image
from medsaga.events import Notice
from medsaga.memory.frugality import LEAN, RELEASED, Frugality
from medsaga.network.inference import look_at, predict_in_bands
from medsaga.segmentation.plan import describe_plan, plan_segmentation
from medsaga.segmentation.smoothing import smooth_slices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from medsaga.data.volume import Volume
    from medsaga.models.folder import TrainedModel
    from medsaga.network.bands import Band
    from medsaga.network.inference import SliceLogits
    from medsaga.segmentation.plan import Work
    from medsaga.settings.fields import Precision
    from medsaga.windows import WorkingImage


class Predictor:
    """Gives a model's logits of any slice of a volume.

    Parameters
    ----------
    model
        The model; its network is moved to the device that computes.
    volume
        The image.
    precision
        The number format that is asked for.

    Attributes
    ----------
    limits
        Intensities of the volume that become black and white.
    frugality
        Whether the memory ran out. Use the predictor as a context: after it the
        allocator is as it was.
    """

    def __init__(
        self, model: TrainedModel, volume: Volume, precision: Precision
    ) -> None:
        self._device = device = pick_device()
        self._network = model.network.to(device)
        self._volume, self._canvas = volume, model.card.canvas
        self._precision = _pick_precision(model, precision, device)
        self.limits = model.card.intensity.limits(volume)
        self.frugality, self._has_told = Frugality(device), False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.frugality.end()

    def prepare(self, work: Work) -> Iterator[Notice]:
        """Choose how to take the memory for some work, and say what is unusual."""
        plan = plan_segmentation(work, self._precision, self._device)
        if plan.lean:
            self.frugality.begin_leanly()
        if text := describe_plan(plan, work.settings.lean):
            yield Notice(message=text)

    def predict_all(self, axis: int, *, smooth: bool) -> Iterator[Iterable[Band]]:
        """Give the logits of all slices across `axis`, in order.

        Those of each slice come band by band of its rows. Unless they are smoothed, no
        more of them is held at a time, so that the largest image can be looked at.

        Raises
        ------
        MedsagaError
            If the image has colours and the model looks at neighbouring slices.
        OutOfMemory
            If the memory does not suffice.
        """
        indices = range(self._volume.shape[axis])
        if not smooth:
            return (
                self.frugality.iterate(partial(self._bands, axis, i)) for i in indices
            )
        looks = (partial(self._look, axis, index) for index in indices)
        stack = smooth_slices(map(self.frugality.do, looks))
        return (self.frugality.iterate(logits.bands) for logits in stack)

    def tell(self) -> Iterator[Notice]:
        """Say, once, that the memory ran out."""
        if self.frugality.ran_out and not self._has_told:
            self._has_told = True
            how = f"from now on {LEAN}" if self.frugality.is_lean else RELEASED
            yield Notice(message=f"The memory ran out: {how}.")

    def _look(self, axis: int, index: int) -> SliceLogits:
        with evaluating(self._network):
            return look_at(self._network, self._seen(axis, index), *self._how)

    def _bands(self, axis: int, index: int) -> Iterator[Band]:
        with evaluating(self._network):
            seen = self._seen(axis, index)
            yield from predict_in_bands(self._network, seen, *self._how)

    def _seen(self, axis: int, index: int) -> WorkingImage:
        return working_image(self._volume, axis, index, self.limits, self._canvas)

    @property
    def _how(self) -> tuple[FixedPrecision, int]:
        return self._precision, self._canvas.tile


def _pick_precision(
    model: TrainedModel, wanted: Precision, device: torch.device
) -> FixedPrecision:
    """Take the format that the card names; on another kind of device, the faster."""
    trained_in: FixedPrecision = model.card.settings["precision"]
    same_kind = torch.device(model.card.measured["device"]).type == device.type
    if wanted == "auto" and same_kind:
        return trained_in if computes_natively(trained_in, device) else "fp32"
    canvas = model.card.canvas
    side = canvas.tile or canvas.long_side
    return pick_precision(wanted, model.network, device, side)

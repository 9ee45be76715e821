"""What a trained model says of single slices of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from medsaga.computing import (
    FixedPrecision,
    computes_natively,
    evaluating,
    pick_device,
    pick_precision,
)
from medsaga.data.samples import working_image
from medsaga.network.inference import predict_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from medsaga.data.volume import Volume
    from medsaga.models.folder import TrainedModel
    from medsaga.settings.fields import Precision


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
    """

    def __init__(
        self, model: TrainedModel, volume: Volume, precision: Precision
    ) -> None:
        device = pick_device()
        self._network = model.network.to(device)
        self._volume, self._canvas = volume, model.card.canvas
        self._precision = _pick_precision(model, precision, device)
        self.limits = model.card.intensity.limits(volume)

    def predict(self, axis: int, index: int) -> Tensor:
        """Give the logits (k, rows, columns) of slice `index` across `axis`.

        Raises
        ------
        MedsagaError
            If the image has colours and the model looks at neighbouring slices.
        """
        with evaluating(self._network):
            image, content = working_image(
                self._volume, axis, index, self.limits, self._canvas
            )
            return predict_image(
                self._network,
                image,
                content,
                self._volume.slice_shape(axis),
                self._precision,
                self._canvas.tile,
            )

    def predict_all(self, axis: int) -> Iterator[Tensor]:
        """Give those of all slices across `axis`, in order."""
        return (self.predict(axis, i) for i in range(self._volume.shape[axis]))


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

"""A trained model as it travels to other processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save

from medsaga.models.folder import TrainedModel
from medsaga.models.loading import build_network
from medsaga.network.filling import fill, unfilled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medsaga.data.identity import SliceId
    from medsaga.models.card import ModelCard


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedModel:
    """What a model predicts by, and nothing else; it can be pickled.

    Attributes
    ----------
    weights
        As a safetensors file has them: to the last bit, in fp16 where that holds them.
    card
        The model's.
    paint
        See :attr:`TrainedModel.paint`.
    """

    weights: bytes
    card: ModelCard
    paint: Mapping[SliceId, NDArray[Any]]

    @classmethod
    def of(cls, model: TrainedModel) -> PackedModel:
        """Pack a model, wherever its network is."""
        state = model.network.state_dict()
        weights = save({name: _exact(tensor) for name, tensor in state.items()})
        return cls(weights=weights, card=model.card, paint=dict(model.paint))

    def unpack(self) -> TrainedModel:
        """Give the model, as :func:`medsaga.load_model` would."""
        with unfilled():
            network = build_network(self.card, "that was sent")
        fill(network, load(self.weights))
        network.eval()
        network.to(memory_format=torch.channels_last)
        return TrainedModel(network, self.card, kept_paint=self.paint)


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    """Give a tensor in half the bytes where nothing of it is lost, else as it is."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if torch.equal(half.float(), tensor) else tensor

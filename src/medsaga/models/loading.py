"""A trained model is read from its folder, and its weights are checked."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from medsaga.errors import MedsagaError, memory_explained
from medsaga.models.card import FORMAT_VERSION, WEIGHTS, ModelCard, load_card
from medsaga.models.folder import TrainedModel
from medsaga.models.kept_slices import kept_labels
from medsaga.network.backbones.catalogue import BACKBONES
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.backbones.sam_format import check_is_finite
from medsaga.network.filling import fill, read_safetensors, unfilled
from medsaga.network.medsaga import MedSAGa
from medsaga.wording import shown

if TYPE_CHECKING:
    from collections.abc import Mapping


_CARD_BYTES = 2**20


# Of the numbers that weights are written in, by safetensors' names.
_TYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
_REDUCE = "detail_head.reduce.{}.weight"


def load_model(folder: Path | str) -> TrainedModel:
    """Read a model folder, also of an earlier format. No code is run.

    Raises
    ------
    MedsagaError
        If it is no model folder, or its weights are not those of its card.
    """
    folder = Path(folder)
    card = load_card(folder)
    called = folder.absolute().name
    with unfilled():
        network = build_network(card, called)
    _check_tensors(folder, card, network, called)
    try:
        with memory_explained(
            f"The memory is not enough for the model {called}: close other "
            "programs, then try again."
        ):
            weights = {
                name: _in_memory(tensor)
                for name, tensor in read_safetensors(folder / WEIGHTS)
            }
        check_is_finite(weights, folder)
        if card.format_version == 1:
            weights = _from_version_1(weights, card.backbone)
        fill(network, weights)
    except (RuntimeError, SafetensorError, OSError) as error:
        raise MedsagaError(
            f"The weights in {folder} are damaged or do not belong to their card: "
            "copy the model folder again from where it was made."
        ) from error
    network.eval()
    card = replace(card, format_version=FORMAT_VERSION)
    return TrainedModel(
        network.to(memory_format=torch.channels_last),
        card,
        kept_paint=kept_labels(folder, are_whole=True),
    )


def _in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor of a file that is mapped into memory."""
    is_real = tensor.is_floating_point()
    return tensor.to(torch.float32 if is_real else tensor.dtype, copy=True)


def check_weights(folder: Path, card: ModelCard, called: str) -> None:
    """Check that a folder's weights are those of its card, and finite.

    `called` is what a sentence calls the model. Each tensor is read by itself.

    Raises
    ------
    MedsagaError
        If they are missing or damaged, or a tensor is of another name, shape or type,
        or not finite.
    """
    try:
        with torch.device("meta"):  # takes no memory
            network = build_network(card, called)
    except RuntimeError:  # timm before 1.0.21 reads a number while it builds
        network = build_network(card, called)
    _check_tensors(folder, card, network, called)
    for name, tensor in read_safetensors(folder / WEIGHTS):
        check_is_finite({name: tensor}, Path(called))


def _check_tensors(
    folder: Path, card: ModelCard, network: MedSAGa, called: str
) -> None:
    """Compare the names, shapes and types that a file says it has with a network's."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {
                name: torch.empty(
                    part.get_shape(), dtype=_TYPES[part.get_dtype()], device="meta"
                )
                for name, part in parts.items()
            }
        if card.format_version == 1:
            found = _from_version_1(found, card.backbone)
    except (SafetensorError, OSError, RuntimeError, KeyError, IndexError) as error:
        raise MedsagaError(
            f"The weights of {called} are missing or damaged: copy the model again "
            "from where it was made."
        ) from error
    if what := _first_difference(found, network.state_dict()):
        raise MedsagaError(
            f"The weights of {called} do not belong to its card ({what}): copy the "
            "model again from where it was made."
        )


def _first_difference(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> str | None:
    """Say of the first tensor that differs from the wanted ones in what it does."""
    for name, own in wanted.items():
        if name not in found:
            return f"{name} is missing"
        shape, type_ = found[name].shape, found[name].dtype
        if shape != own.shape:
            return f"{name} is {tuple(shape)}, not {tuple(own.shape)}"
        if type_.is_floating_point != own.dtype.is_floating_point:
            return f"{name} is of the type {type_}"
    other = next((name for name in found if name not in wanted), None)
    return None if other is None else f"{shown(other)} is none of its network's"


def build_network(card: ModelCard, called: str) -> MedSAGa:
    """Build the network of a card, with random weights; `called` is the model's name.

    Raises
    ------
    MedsagaError
        If the card asks for a size that its backbone does not take.
    """
    backbone = build_backbone(card.backbone)
    if card.canvas.multiple % backbone.size_multiple:
        raise MedsagaError(
            f"The card of {called} is damaged (canvas.multiple is "
            f"{card.canvas.multiple}, it should be a multiple of "
            f"{backbone.size_multiple}): copy the model again from where it was made."
        )
    return MedSAGa(backbone, len(card.classes), detail_head=card.detail_head)


def _from_version_1(
    weights: dict[str, torch.Tensor], backbone: str
) -> dict[str, torch.Tensor]:
    """Add the levels that the detail head did not see, at no weight."""
    names = map(_REDUCE.format, count())
    seen = [weights[name] for name in takewhile(weights.__contains__, names)]
    if not seen:
        return weights  # it has no detail head
    for index, channels in BACKBONES[backbone].levels_since_2.items():
        seen.insert(index, seen[0].new_zeros(len(seen[0]), channels, 1, 1))
    return weights | {_REDUCE.format(i): level for i, level in enumerate(seen)}

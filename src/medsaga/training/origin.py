"""What a training starts from: pretrained weights, or a model that was trained."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medsaga.computing import seeded
from medsaga.models.card import WEIGHTS
from medsaga.models.folder import TrainedModel
from medsaga.models.loading import load_model
from medsaga.network.backbones.checkpoints import sha256
from medsaga.network.backbones.pretrained import load_pretrained
from medsaga.network.decoder import ClassMaskDecoder
from medsaga.network.filling import unfilled
from medsaga.network.medsaga import MedSAGa

if TYPE_CHECKING:
    from medsaga.data.classes import ClassTable
    from medsaga.models.card import ModelCard
    from medsaga.settings.fine_tune import FineTuneSettings

_TOKENS = "decoder.mask_tokens.weight"
_HYPERNETWORKS = "decoder.output_hypernetworks_mlps."


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a network was before a training.

    Attributes
    ----------
    base_weights, base_sha256
        Name and SHA-256 of the file that the weights come from; None without a file.
    report
        What did not fit, in words for the user; empty if all did.
    knows_classes
        Whether the network tells the classes apart already, so that there is no head
        to be fitted first.
    """

    base_weights: str
    base_sha256: str | None
    report: str
    knows_classes: bool


def load_network(
    start: TrainedModel | Path | str | None,
    settings: FineTuneSettings,
    table: ClassTable,
) -> tuple[MedSAGa, Origin]:
    """Load the network that a training starts from, ready to be trained, on the CPU.

    Raises
    ------
    MedsagaError
        If the weights or the model are not there, or not what they should be.
    """
    if start is None:
        return load_backbone(settings, len(table))
    return _load_model(start, settings, table)


def load_backbone(settings: FineTuneSettings, n_classes: int) -> tuple[MedSAGa, Origin]:
    """Load a backbone's pretrained weights, and SAM's decoder beside them.

    Raises
    ------
    MedsagaError
        If the weights are not there, are not what they should be, or do not load.
    """
    pretrained = load_pretrained(
        settings.backbone, checkpointing=settings.checkpointing == "on"
    )
    backbone, decoder = pretrained.backbone, None
    with seeded(torch.device("cpu"), settings.seed):
        if pretrained.sam:
            with unfilled():
                decoder = ClassMaskDecoder(n_classes, backbone.embedding.channels)
            decoder.load_sam(pretrained.sam, settings.seed)
        network = MedSAGa(
            backbone, n_classes, detail_head=settings.detail_head, decoder=decoder
        )
    return network, Origin(
        base_weights=settings.backbone,
        base_sha256=pretrained.sha256,
        report=pretrained.report,
        knows_classes=False,
    )


def _load_model(
    model: TrainedModel | Path | str, settings: FineTuneSettings, table: ClassTable
) -> tuple[MedSAGa, Origin]:
    """Continue from a trained model, which is left as it is.

    With other classes than the model's, backbone and decoder go on and the detail head
    is fitted anew.
    """
    folder = None if isinstance(model, TrainedModel) else Path(model)
    if isinstance(model, TrainedModel):
        card, network = model.card, deepcopy(model.network).cpu()
    else:
        trained = load_model(model)
        card, network = trained.card, trained.network
    is_same = card.classes.values == table.values
    if not is_same:
        network = _with_classes(network, card, table, settings)
    network.backbone.checkpointing = settings.checkpointing == "on"
    return network, Origin(
        base_weights="a trained model" if folder is None else folder.name,
        base_sha256=None if folder is None else sha256(folder / WEIGHTS),
        report="" if is_same else _describe_classes(card.classes, table),
        knows_classes=is_same,
    )


def _describe_classes(before: ClassTable, now: ClassTable) -> str:
    """Say that the classes are others, and which are not there any more."""
    gone = [
        name
        for value, name in zip(before.values, before.names, strict=True)
        if value not in now.values
    ]
    text = "The classes are others than the model's: the detail head is fitted anew."
    if not gone:
        return text
    return (
        f"{text} {', '.join(gone)} will be forgotten, as no slice that trains shows it."
    )


def _with_classes(
    old: MedSAGa, card: ModelCard, table: ClassTable, settings: FineTuneSettings
) -> MedSAGa:
    """Give the network outputs for other classes; new ones begin as background."""
    has_head = old.detail_head is not None
    with seeded(torch.device("cpu"), settings.seed):
        network = MedSAGa(old.backbone, len(table), detail_head=has_head)
    before = old.state_dict()
    known = {value: i for i, value in enumerate(card.classes.values)}
    sources = [known.get(value, 0) for value in table.values]
    state = {}
    for name, own in network.state_dict().items():
        if name == _TOKENS:
            state[name] = before[name][sources]
            continue
        if name.startswith(_HYPERNETWORKS):
            index, rest = name.removeprefix(_HYPERNETWORKS).split(".", 1)
            name_before = f"{_HYPERNETWORKS}{sources[int(index)]}.{rest}"
        else:
            name_before = name
        fits = before[name_before].shape == own.shape
        state[name] = before[name_before] if fits else own
    network.load_state_dict(state)
    return network

"""What a training starts from: pretrained weights, or a model that was trained."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medsaga.computing import seeded
from medsaga.data.canvas import Canvas, choose_long_side
from medsaga.data.intensity import IntensityRule, choose_intensity
from medsaga.data.structures import finest_width
from medsaga.models.card import WEIGHTS, ModelCard, load_card
from medsaga.models.folder import TrainedModel, load_model
from medsaga.network.backbones.checkpoints import sha256
from medsaga.network.backbones.pretrained import load_pretrained
from medsaga.network.medsaga import MedSAGa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsaga.data.annotation import Annotation
    from medsaga.data.classes import ClassTable
    from medsaga.data.volume import Volume
    from medsaga.network.backbones.pretrained import Backbone
    from medsaga.settings.fine_tune import FineTuneSettings

_TOKENS = "decoder.mask_tokens.weight"
_HYPERNETWORKS = "decoder.output_hypernetworks_mlps."


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """A network to train, and where its weights come from.

    Attributes
    ----------
    network
        Ready to be trained, on the CPU.
    base_weights, base_sha256
        Name and SHA-256 of the file that the weights come from; None without a file.
    report
        What did not fit, in words for the user; empty if all did.
    knows_classes
        Whether the network tells the classes apart already, so that there is no head
        to be fitted first.
    """

    network: MedSAGa
    base_weights: str
    base_sha256: str | None
    report: str
    knows_classes: bool


def start_from_backbone(settings: FineTuneSettings, n_classes: int) -> Start:
    """Start from a backbone's pretrained weights, and SAM's decoder beside them.

    Raises
    ------
    MedsagaError
        If the weights are not there, are not what they should be, or do not load.
    """
    pretrained = load_pretrained(
        settings.backbone, checkpointing=settings.checkpointing
    )
    with seeded(torch.device("cpu"), settings.seed):
        network = MedSAGa(
            pretrained.backbone, n_classes, detail_head=settings.detail_head
        )
    if pretrained.sam:
        network.decoder.load_sam(pretrained.sam, settings.seed)
    return Start(
        network=network,
        base_weights=settings.backbone,
        base_sha256=pretrained.sha256,
        report=pretrained.report,
        knows_classes=False,
    )


def start_from_model(
    model: TrainedModel | Path | str, settings: FineTuneSettings, table: ClassTable
) -> Start:
    """Continue from a trained model, which is left as it is.

    With other classes than the model's, backbone and decoder go on and the detail head
    is fitted anew.

    Raises
    ------
    MedsagaError
        If it is no model folder, or its weights are damaged.
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
    network.backbone.checkpointing = settings.checkpointing
    return Start(
        network=network,
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


def card_of(start: TrainedModel | Path | str | None) -> ModelCard | None:
    """Give the card of the model that a training starts from, if it starts from one.

    Raises
    ------
    MedsagaError
        If it is no model folder.
    """
    if start is None or isinstance(start, TrainedModel):
        return None if start is None else start.card
    return load_card(start)


def choose_canvas(
    card: ModelCard | None,
    settings: FineTuneSettings,
    backbone: Backbone,
    volumes: Sequence[Volume],
    labels: Sequence[Volume],
    annotation: Annotation,
) -> Canvas:
    """Choose the working size: as asked for, as before, or from images and labels.

    A model that was trained keeps to what it saw: neighbours or none.
    """
    if card is not None and not settings.long_side:
        return card.canvas
    axis = annotation.axis
    neighbours = settings.neighbours and _have_neighbours(volumes, axis)
    if card is not None:
        neighbours = card.canvas.neighbours
    sizes = [
        (volumes[v].slice_shape(axis), volumes[v].slice_spacing(axis))
        for v, _ in annotation.slices
    ]
    long_side = choose_long_side(
        sizes,
        settings,
        backbone.size_multiple,
        backbone.embedding.stride,
        finest_width(volumes, labels, annotation),
    )
    return Canvas(
        long_side=long_side, multiple=backbone.size_multiple, neighbours=neighbours
    )


def _have_neighbours(volumes: Sequence[Volume], axis: int) -> bool:
    is_deep = any(volume.shape[axis] > 1 for volume in volumes)
    return is_deep and not any(volume.is_rgb for volume in volumes)


def why_no_neighbours(card: ModelCard | None) -> str:
    """Say why the slices below and above are not looked at, though asked for."""
    if card is not None:
        return "The model was trained without neighbours, and trains on without them."
    return (
        "There are no neighbours to look at: they need grey images of several slices, "
        "and neighbours is off."
    )


def choose_rule(
    card: ModelCard | None,
    settings: FineTuneSettings,
    volumes: Sequence[Volume],
    labels: Sequence[Volume],
    window: tuple[float, float] | None,
) -> tuple[IntensityRule, str]:
    """Choose the intensities: as asked for, as before, or from the images."""
    if card is not None and window is None and settings.intensity == "auto":
        return card.intensity, "Intensities are scaled as the model was trained with."
    return choose_intensity(
        settings.intensity, volumes, labels, window, settings.painted_background
    )

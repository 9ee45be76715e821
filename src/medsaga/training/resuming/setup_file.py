"""A training's setup as files, its data too: with the state, all that it needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from medsaga.computing import pick_device
from medsaga.data.canvas import Canvas
from medsaga.data.identity import SliceId
from medsaga.data.intensity import IntensityRule
from medsaga.models.kept_slices import load_slices, save_slices
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa
from medsaga.training.optim.strategy import apply_strategy
from medsaga.training.origin import Origin
from medsaga.training.paint_context.agreed import Neighbour
from medsaga.training.resuming.outline import SETUP, read_document, read_outline
from medsaga.training.setup import Setup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from medsaga.data.volume import Volume

_NEIGHBOURS = "neighbours.safetensors"


def write_setup(setup: Setup, network: MedSAGa, folder: Path) -> None:
    """Write a setup, its slices to the last bit, into a folder."""
    slices = [*setup.training, *setup.held_out]
    save_slices(slices, folder, is_exact=True)
    content = {
        "origin": asdict(setup.origin),
        "backbone": network.backbone.name,
        "classes": asdict(setup.table),
        "intensity": asdict(setup.rule),
        "canvas": asdict(setup.canvas),
        "axis": setup.axis,
        "settings": asdict(setup.settings),
        "precision": setup.precision,
        "record": asdict(setup.record),
        "slices": [asdict(sample.id) for sample in slices],
        "n_training": len(setup.training),
        "images": [
            {"fingerprint": v.fingerprint, "name": v.name, "shape": v.shape}
            for v in setup.images
        ],
    }
    content["neighbours"] = [one.notes() for one in setup.neighbours]
    tensors = {
        f"{number}/{name}": tensor
        for number, one in enumerate(setup.neighbours)
        for name, tensor in one.tensors().items()
    }
    save_file(tensors, folder / _NEIGHBOURS)
    (folder / SETUP).write_text(json.dumps(content), encoding="utf-8")


def read_setup(folder: Path, images: Sequence[Volume] = ()) -> tuple[Setup, MedSAGa]:
    """Read a setup, and build its network with random weights.

    Parameters
    ----------
    folder
        Where it was written.
    images
        Those of the training, in its order, for previews; or none.

    Raises
    ------
    Exception
        Of any kind, if it is damaged (see ``reading_journal``).
    """
    content, outline = read_document(folder), read_outline(folder)
    settings, table = outline.settings, outline.classes
    ids = [SliceId(**row) for row in content["slices"]]
    samples = load_slices(folder, ids, table)
    n_training, device = content["n_training"], pick_device()
    checkpointing = settings.checkpointing == "on"
    backbone = build_backbone(content["backbone"], checkpointing=checkpointing)
    network = MedSAGa(backbone, len(table), detail_head=settings.detail_head)
    network = network.to(device).to(memory_format=torch.channels_last)
    apply_strategy(network, settings.strategy, settings.seed)
    setup = Setup(
        origin=Origin(**content["origin"]),
        training=samples[:n_training],
        held_out=samples[n_training:],
        images=images,
        table=table,
        rule=IntensityRule(**content["intensity"]),
        canvas=Canvas(**content["canvas"]),
        axis=outline.axis,
        settings=settings,
        record=outline.record,
        device=device,
        precision=content["precision"],
        kept_neighbours=_read_neighbours(folder, content.get("neighbours")),
    )
    return setup, network


def _read_neighbours(
    folder: Path, notes: Sequence[Mapping[str, Any]] | None
) -> list[Neighbour] | None:
    if notes is None:  # of a training of an earlier version
        return None
    tensors = load_file(folder / _NEIGHBOURS)
    return [
        Neighbour.read(
            {name: tensors[f"{number}/{name}"] for name in ("image", "of_paint")}, one
        )
        for number, one in enumerate(notes)
    ]

"""A model card, and a model, as a training writes them, without a training."""

from __future__ import annotations

from typing import Any

import torch
from tests.phantom import slice_of

from medsaga import ModelCard
from medsaga.data.canvas import Canvas
from medsaga.data.classes import ClassTable
from medsaga.data.intensity import IntensityRule
from medsaga.models.card import FORMAT_VERSION
from medsaga.models.folder import TrainedModel
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa
from medsaga.propagation.trust import PaintTrust
from medsaga.settings.fine_tune import FineTuneSettings


def make_card(**changes: Any) -> ModelCard:
    """A card as a training writes it."""
    fields: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "created": "2026-01-02T03:04:05+00:00",
        "backbone": "tiny",
        "base_weights": "tiny",
        "base_sha256": None,
        "detail_head": True,
        "classes": ClassTable(
            values=(0, 7),
            names=("background", "liver"),
            colours=(None, "#ff0000"),
        ),
        "intensity": IntensityRule(kind="window", low=-160, high=240),
        "canvas": Canvas(long_side=64, multiple=4),
        "axis": 0,
        "settings": vars(FineTuneSettings(precision="fp32", backbone="tiny")).copy(),
        "training_slices": (slice_of("ct", 3), slice_of("ct", 4)),
        "held_out_slices": (),
        "data_fingerprint": "0" * 64,
        "metrics": {
            "step": 6,
            "measured_on": "training slices",
            "dice": {"7": 0.5},
            "hd95": {"7": 3},
        },
        "measured": {
            "seconds": 1.5,
            "peak_memory": 10**9,
            "device": "cpu",
            "threads": 2,
            "of a later version": {"deep": [1, None]},
        },
        "software": {"torch": "2.6"},
        "paint_trust": PaintTrust(growth=0.3, n_pairs=5),
    }
    return ModelCard(**fields | changes)


def make_model(**changes: Any) -> TrainedModel:
    """A model that has learned nothing; `changes` are those of its card."""
    card = make_card(**changes)
    torch.manual_seed(0)
    backbone = build_backbone(card.backbone)
    network = MedSAGa(backbone, len(card.classes), detail_head=card.detail_head)
    return TrainedModel(network.eval(), card)

"""The card of a training: everything that was decided and measured in it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from math import isfinite
from typing import TYPE_CHECKING

from medsaga.computing import peak_memory
from medsaga.models.card import FORMAT_VERSION, ModelCard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medsaga.data.samples import Sample
    from medsaga.events import Validated
    from medsaga.training.setup import Setup
    from medsaga.training.state import TrainingState

_RECORDED_SOFTWARE = ("napari-medsaga", "torch", "timm", "monai", "galore-torch")


def make_card(setup: Setup, state: TrainingState, scores: Validated) -> ModelCard:
    """Make the card of a training as it stands."""
    network, origin = state.network, setup.origin
    return ModelCard(
        format_version=FORMAT_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backbone=network.backbone.name,
        base_weights=origin.base_weights,
        base_sha256=origin.base_sha256,
        detail_head=network.detail_head is not None,
        classes=setup.table,
        intensity=setup.rule,
        canvas=setup.canvas,
        axis=setup.axis,
        settings=asdict(state.plan.complete(setup.settings)),
        training_slices=tuple(sample.id for sample in setup.training),
        held_out_slices=tuple(sample.id for sample in setup.held_out),
        data_fingerprint=fingerprint([*setup.training, *setup.held_out]),
        metrics={
            "step": scores.step,
            "measured_on": scores.measured_on,
            "dice": _finite(scores.dice),
            "hd95": _finite(scores.hd95),
            "expected_dice": _finite(state.expected),
        },
        measured={
            "seconds": round(state.time.seconds, 1),
            "peak_memory": peak_memory(setup.device),
            "device": str(setup.device),
            **state.measured,
        },
        run=setup.record,
        paint_trust=state.trust,
        software={name: version(name) for name in _RECORDED_SOFTWARE},
    )


def _finite(scores: Mapping[int, float]) -> dict[str, float]:
    return {str(value): score for value, score in scores.items() if isfinite(score)}


def fingerprint(samples: Sequence[Sample]) -> str:
    """Give the SHA-256 of what slices show and how they are labelled."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.image.numpy().tobytes())
        digest.update(sample.target.numpy().tobytes())
        digest.update(sample.labels.numpy().tobytes())
    return digest.hexdigest()

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
    from medsaga.training.origin import Start
    from medsaga.training.session import Session

_RECORDED_SOFTWARE = ("napari-medsaga", "torch", "timm", "monai", "galore-torch")


def make_card(session: Session, start: Start, scores: Validated) -> ModelCard:
    """Make the card of a training as it stands."""
    return ModelCard(
        format_version=FORMAT_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backbone=session.network.backbone.name,
        base_weights=start.base_weights,
        base_sha256=start.base_sha256,
        detail_head=session.network.detail_head is not None,
        classes=session.table,
        intensity=session.rule,
        canvas=session.canvas,
        axis=session.axis,
        settings=asdict(session.settings),
        training_slices=[[s.name, s.slice_index] for s in session.training],
        held_out_slices=[[s.name, s.slice_index] for s in session.held_out],
        data_fingerprint=_fingerprint([*session.training, *session.held_out]),
        metrics={
            "step": scores.step,
            "measured_on": scores.measured_on,
            "dice": _finite(scores.dice),
            "hd95": _finite(scores.hd95),
        },
        measured={
            "seconds": round(session.seconds, 1),
            "peak_memory": peak_memory(session.device),
            "device": str(session.device),
            **session.measured,
        },
        software={name: version(name) for name in _RECORDED_SOFTWARE},
    )


def _finite(scores: Mapping[int, float]) -> dict[str, float]:
    return {str(value): score for value, score in scores.items() if isfinite(score)}


def _fingerprint(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.image.numpy().tobytes())
        digest.update(sample.target.numpy().tobytes())
        digest.update(sample.labels.numpy().tobytes())
    return digest.hexdigest()

"""A trained model is kept: where it belongs, or where it can wait. Imports no torch."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from medsaga.models.folder import TrainedModel
    from medsaga.training.resuming.journal import Journal


@dataclass(frozen=True, kw_only=True)
class KeptModel:
    """Where a trained model is now.

    Attributes
    ----------
    path
        Its folder; None if the disk refused everywhere.
    problem
        Why it is not where it belongs, and what to do; None if it is.
    """

    path: Path | None
    problem: str | None = None


def keep_model(
    model: TrainedModel,
    save: Callable[[TrainedModel], Path],
    journal: Journal | None = None,
) -> KeptModel:
    """Save a trained model; its journal, no longer needed, goes.

    If the model cannot be saved where it belongs it goes into the journal, which then
    stays; if not there either, the training's last state does.

    Parameters
    ----------
    model
        What the training gave.
    save
        Saves it where it belongs, and returns the path; may raise MedsagaError.
    journal
        Of the training, if it has one.
    """
    try:
        kept = KeptModel(path=save(model))
    except (MedsagaError, OSError) as error:
        if journal is None:
            return KeptModel(path=None, problem=str(error))
        return _keep_in_journal(model, journal, str(error))
    if journal is not None:
        journal.discard()
    return kept


def _keep_in_journal(model: TrainedModel, journal: Journal, problem: str) -> KeptModel:
    from medsaga.models.folder import save_model
    from medsaga.models.kept_slices import save_slices

    try:
        save_model(model, journal.model)
    except MedsagaError as error:
        return KeptModel(
            path=None,
            problem=f"{problem} Nor can it be kept until then: {error} The "
            "training can go on from its last state once there is room.",
        )
    with suppress(OSError, SafetensorError):  # the model is usable without
        save_slices(model.samples, journal.model)
    return KeptModel(
        path=journal.model,
        problem=f"{problem} Until then the model is kept in {journal.model}, where it "
        "can be used and copied from.",
    )

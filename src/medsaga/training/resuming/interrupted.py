"""The trainings that were interrupted, and those under way. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medsaga.errors import MedsagaError
from medsaga.models.card import CARD
from medsaga.training.resuming.folders import (
    MODEL,
    folders_in,
    is_held,
    is_worth_keeping,
    read_notes,
    read_state_notes,
    read_target,
    state_folder,
)
from medsaga.training.resuming.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from medsaga.models.target import ModelTarget


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """A training that something ended before its model was kept.

    Attributes
    ----------
    folder
        Of its journal.
    name
        What the model was to be called.
    target
        Where the model was to be saved; None for the library.
    asked
        What was asked for, as the one who began it noted it.
    step, total
        Steps of the GaLore stage that are done, and of all; 0 where not known.
    model
        The model, where all that failed was to save it.
    modified
        When its state was written, in seconds since 1970.
    """

    folder: Path
    name: str
    target: ModelTarget | None
    asked: Mapping[str, Any]
    step: int
    total: int
    model: Path | None
    modified: float

    def describe(self) -> str:
        """Say in a sentence, without its stop, how far it came."""
        if self.model is not None:
            return f"The model {self.name} is trained but could not be saved"
        place = f" at step {self.step}" if self.step else " before its first step"
        total = f" of {self.total}" if self.step and self.total else ""
        return f"A training of {self.name} was interrupted{place}{total}"


def interrupted_trainings() -> list[Interrupted]:
    """List the trainings that could go on, the latest first."""
    found = [
        entry
        for folder in folders_in(state_folder())
        if is_worth_keeping(folder) and not is_held(folder)
        if (entry := _read_entry(folder)) is not None
    ]
    return sorted(found, key=lambda entry: entry.modified, reverse=True)


def trainings_under_way(target: ModelTarget) -> int:
    """Count the trainings of this user that are to be saved to a folder."""
    return sum(
        entry.target is not None and entry.target.path == target.path
        for folder in folders_in(state_folder())
        if is_held(folder) and (entry := _read_entry(folder)) is not None
    )


def discard_interrupted(entry: Interrupted) -> None:
    """Remove an interrupted training for good.

    Raises
    ------
    MedsagaError
        If it is under way again.
    """
    with Journal.open(entry.folder) as journal:
        journal.discard()


def _read_entry(folder: Path) -> Interrupted | None:
    """Read what a list shows; None of a folder that goes just now, or is damaged."""
    model = folder / MODEL
    state = read_state_notes(folder)
    try:
        notes = read_notes(folder)
        newest = max(path.stat().st_mtime for path in folder.iterdir())
        return Interrupted(
            folder=folder,
            name=notes["name"],
            target=read_target(notes["target"]),
            asked=notes["asked"],
            step=state["step"],
            total=state["plan"]["steps"],
            model=model if (model / CARD).is_file() else None,
            modified=newest,
        )
    except (MedsagaError, OSError, ValueError, KeyError, TypeError):
        return None

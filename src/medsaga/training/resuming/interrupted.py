"""The trainings that were interrupted, and those under way. Imports no torch."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medsaga.errors import MedsagaError
from medsaga.models.card import CARD
from medsaga.training.resuming.folders import (
    MODEL,
    folders_in,
    in_order,
    is_held,
    is_worth_keeping,
    read_notes,
    read_state_notes,
    read_target,
    state_folder,
)
from medsaga.training.resuming.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
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
    """List the trainings that could go on, the latest first.

    Raises
    ------
    MedsagaError
        If their folder cannot be read.
    """
    entries = [entry for _, entry in _at_rest() if entry is not None]
    return sorted(entries, key=lambda entry: entry.modified, reverse=True)


def unreadable_trainings() -> list[Path]:
    """List what interrupted trainings left that is damaged, or of another version.

    Raises
    ------
    MedsagaError
        If their folder cannot be read.
    """
    return [folder for folder, entry in _at_rest() if entry is None]


def trainings_under_way(target: ModelTarget) -> int:
    """Count the trainings of this user that are to be saved to a folder.

    Raises
    ------
    MedsagaError
        If their folder cannot be read.
    """
    with _asking() as folders:
        entries = [_read_entry(folder) for folder in folders if is_held(folder)]
    return sum(
        entry is not None
        and entry.target is not None
        and entry.target.path == target.path
        for entry in entries
    )


@contextmanager
def _asking() -> Iterator[list[Path]]:
    """Give the folders of all trainings, of which none begins or is taken meanwhile."""
    parent = state_folder()
    if not parent.exists():
        yield []
        return
    with in_order(parent):
        yield folders_in(parent)


def _at_rest() -> list[tuple[Path, Interrupted | None]]:
    """Read the trainings that no process is at; None of one that cannot be read."""
    with _asking() as folders:
        return [
            (folder, _read_entry(folder))
            for folder in folders
            if is_worth_keeping(folder) and not is_held(folder)
        ]


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

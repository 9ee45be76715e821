"""The folder of a training under way, which outlives whatever ends the training.

It lies where no user looks, and goes when the model is kept. Importing this imports no
torch.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from medsaga.errors import MedsagaError
from medsaga.training.resuming.folders import (
    FORMAT_VERSION,
    MODEL,
    NOTES,
    STATE,
    in_order,
    is_worth_keeping,
    lock_of,
    new_folder,
    read_notes,
    read_state_notes,
    read_target,
    remove_folder,
    remove_stillborn,
    state_folder,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from medsaga.models.folder import TrainedModel
    from medsaga.models.target import ModelTarget


class Journal:
    """One training's folder, held by the process that trains.

    Use :meth:`begin` or :meth:`open`. As a context manager it lets the folder go in the
    end, and leaves it there unless it was discarded, or an error ended the training
    before it had learned anything.

    Attributes
    ----------
    folder
        Where it is.
    name
        What the model is to be called.
    target
        Where the model is to be saved; None for the library.
    interval
        Seconds between two states of the training; may be changed before it begins.
    """

    interval = 60.0

    def __init__(self, folder: Path, notes: Mapping[str, Any], lock: FileLock) -> None:
        self.folder = folder
        self.name: str = notes["name"]
        self.target = read_target(notes["target"])
        self._lock, self._is_new = lock, False

    @classmethod
    def begin(
        cls,
        name: str,
        target: ModelTarget | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> Journal:
        """Make the folder of a new training.

        Parameters
        ----------
        name
            What the model is to be called.
        target
            Where it is to be saved; None for the library.
        asked
            Anything that JSON can hold, to know the training again by.

        Raises
        ------
        MedsagaError
            If the disk refuses.
        """
        notes = {
            "format_version": FORMAT_VERSION,
            "name": name,
            "target": None
            if target is None
            else {"path": str(target.path), "before": target.before},
            "asked": dict(asked or {}),
        }
        with in_order(state_folder()) as parent:
            remove_stillborn(parent)
            folder = new_folder(parent)
            lock = lock_of(folder)
            lock.acquire(timeout=0)
            try:
                folder.mkdir(mode=0o700)  # it holds images of patients
                (folder / NOTES).write_text(json.dumps(notes), encoding="utf-8")
            except OSError:
                lock.release()
                raise
        journal = cls(folder, notes, lock)
        journal._is_new = True
        return journal

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """Take over the folder of an interrupted training.

        Raises
        ------
        MedsagaError
            If it is gone, damaged, or its training is still under way.
        """
        with in_order(folder.parent):
            lock = lock_of(folder)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise MedsagaError(
                    "That training is under way: wait until it has ended."
                ) from error
            try:
                return cls(folder, read_notes(folder), lock)
            except BaseException:
                lock.release()
                raise

    @property
    def state(self) -> Path:
        """The file with the training's state, there or not."""
        return self.folder / STATE

    @property
    def model(self) -> Path:
        """The folder for a model that cannot be saved elsewhere, there or not."""
        return self.folder / MODEL

    @property
    def has_learned(self) -> bool:
        """Whether the last state is one that the head stage has left behind."""
        return bool(read_state_notes(self.folder)["phase"] != "head")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A training that has learned anything says so, and raises nothing.
        has_failed = self._is_new and isinstance(error, Exception)
        if has_failed and not self.model.exists() and not self.has_learned:
            self.discard()
        self.close()

    def close(self) -> None:
        """Let the folder go; one without a state, of which nothing is left, is removed.

        Closing twice does no harm.
        """
        if self._lock.is_locked:
            if not is_worth_keeping(self.folder):
                remove_folder(self.folder)
            self._lock.release()
            if not self.folder.exists():
                with suppress(OSError):
                    os.unlink(self._lock.lock_file)

    def read_model(self) -> TrainedModel:
        """Read the model that could not be saved elsewhere.

        Raises
        ------
        MedsagaError
            If there is none, or it cannot be read.
        """
        from medsaga.models.kept_slices import kept_labels, load_slices
        from medsaga.models.loading import load_model

        model = load_model(self.model)
        wanted = list(kept_labels(self.model))
        if not wanted:  # there was no room for them either
            return model
        return replace(
            model, samples=load_slices(self.model, wanted, model.card.classes)
        )

    def discard(self) -> None:
        """Remove the folder: the model is kept, or not wanted."""
        remove_folder(self.folder)
        self.close()

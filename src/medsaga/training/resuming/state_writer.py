"""Writes the state of a training into its journal, now and then."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from medsaga.data.formats.atomic import check_room, flush, temporary_folder
from medsaga.errors import OutOfMemory, memory_explained
from medsaga.events import Notice
from medsaga.models.folder import stored_bytes
from medsaga.models.library import ModelLibrary
from medsaga.training.resuming.folders import state_folder
from medsaga.training.resuming.setup_file import write_setup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medsaga.training.resuming.journal import Journal
    from medsaga.training.setup import Setup
    from medsaga.training.state import TrainingState

# Times what the last state took to write.
_LEAST_PAUSE = 20


class StateWriter:
    """Writes the state of one training; what the disk refuses is told once.

    Parameters
    ----------
    journal
        Where to; None writes nothing.
    """

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._last, self._seconds = time.monotonic(), 0.0
        self._has_told = False

    def begin(self, setup: Setup, state: TrainingState) -> Iterator[Notice]:
        """Write all that the training can go on from, as it begins.

        Raises
        ------
        MedsagaError
            If there is no room for the model that is to come.
        """
        journal = self._journal
        if journal is None:
            return
        target = journal.target
        place = ModelLibrary().folder if target is None else target.path.parent
        check_room(place, stored_bytes(state.network), "The model")
        try:
            write_setup(setup, state.network, journal.folder)
        except (OSError, SafetensorError) as error:
            yield from self._tell(error)
            self._journal = None
        yield from self.at_once(state)

    def if_due(self, state: TrainingState) -> Iterator[Notice]:
        """Write the state if the last one is old."""
        journal = self._journal
        if journal is None:
            return
        # Large states, or a slow disk, take no more than a twentieth of the training.
        pause = max(journal.interval, _LEAST_PAUSE * self._seconds)
        if not journal.interval or time.monotonic() - self._last >= pause:
            yield from self.at_once(state)

    def at_once(self, state: TrainingState) -> Iterator[Notice]:
        """Write the state."""
        if self._journal is None:
            return
        path, started = self._journal.state, time.monotonic()
        try:
            # In a folder, where safetensors puts temporary files of its own too.
            with (
                memory_explained("the memory is short"),
                temporary_folder(path.parent) as staging,
            ):
                state.write(staging / path.name)
                flush(staging / path.name)
                os.replace(staging / path.name, path)
        except (OSError, SafetensorError, OutOfMemory) as error:
            yield from self._tell(error)
        self._last = time.monotonic()
        self._seconds = self._last - started

    def _tell(self, error: Exception) -> Iterator[Notice]:
        if not self._has_told:
            self._has_told = True
            reason = getattr(error, "strerror", None) or error
            yield Notice(
                message="The state of the training cannot be written to "
                f"{state_folder()} ({reason}), so that it could not go on after an "
                "interruption: make room there."
            )

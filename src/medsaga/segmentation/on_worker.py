"""What the workers of a cluster do with a batch's items."""

from __future__ import annotations

import pickle
import signal
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin

from medsaga.computing import allotted_cores, keep_freed_blocks
from medsaga.errors import MedsagaError
from medsaga.events import ItemEvent, Notice, drain
from medsaga.segmentation.batch import Batch
from medsaga.segmentation.items import BatchItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distributed import Worker

    from medsaga.data.volume import Volume
    from medsaga.events import Event
    from medsaga.models.packing import PackedModel
    from medsaga.segmentation.batch import ItemResult
    from medsaga.segmentation.outputs import Outputs
    from medsaga.segmentation.result import Segmentation
    from medsaga.settings.segment import SegmentSettings

# Of a worker that takes several tasks at a time, all threads are one item's.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, eq=False)
class Task:
    """One item: what it is made of, its files, and those that are to be written."""

    number: int
    image: Volume | Path
    labels: Volume | Path | None
    outputs: Outputs | None
    wanted: Sequence[Path]


@dataclass(frozen=True, eq=False)
class Answer:
    """What became of an item, an open volume's segmentation, and what was told."""

    result: ItemResult
    found: Segmentation | None
    said: Sequence[ItemEvent]


class OnWorker(WorkerPlugin):  # type: ignore[misc] # dask is not looked into
    """The model in a worker, and which items are to end."""

    def __init__(
        self, model: PackedModel, settings: SegmentSettings, *, replaces: bool
    ) -> None:
        self._model: PackedModel | None = model
        self._settings, self._replaces = settings, replaces

    def setup(self, worker: Worker) -> None:
        """Unpack the model, of which then one copy is kept."""
        keep_freed_blocks()
        assert self._model is not None
        self.batch = Batch(self._model.unpack(), self._settings, self._replaces)
        self._model = None
        self.skips: defaultdict[int, threading.Event] = defaultdict(threading.Event)
        self._n_cores = worker.state.nthreads

    def segment(self, pickled: bytes) -> Answer:
        """Segment a :class:`Task`; errors are part of the answer."""
        task: Task = pickle.loads(pickled)
        skip = self.skips[task.number]
        item = BatchItem(image=task.image, labels=task.labels, skip=skip)
        said: list[Event] = []
        with _one_at_a_time, allotted_cores(self._n_cores):
            result, found = drain(
                self.batch.attempt(task.number, item, task.outputs, task.wanted),
                said.append,
                should_stop=skip.is_set,
            )
        # An open volume need not travel back.
        result = replace(result, image=Path(), error=_portable(result.error))
        notices = [
            event
            for event in said
            if isinstance(event, ItemEvent) and isinstance(event.event, Notice)
        ]
        return Answer(result, found, notices)


class IgnoresCtrlC(WorkerPlugin):  # type: ignore[misc] # dask is not looked into
    """Leaves Ctrl-C, which a terminal sends to all of its processes, to the client."""

    def setup(self, worker: Worker) -> None:
        """Ignore it, and the end of the terminal too."""
        for name in ("SIGINT", "SIGHUP"):
            with suppress(AttributeError):  # SIGHUP on Windows
                signal.signal(getattr(signal, name), signal.SIG_IGN)


def end_items(name: str, numbers: Sequence[int], dask_worker: Worker) -> None:
    """Have items end after the slice under way, also those that have not come yet."""
    plugin: Any = dask_worker.plugins.get(name)
    for number in () if plugin is None else numbers:
        plugin.skips[number].set()


def _portable(error: Exception | None) -> Exception | None:
    """Give an error that arrives, with its traceback if nobody expected it."""
    if error is None or isinstance(error, MedsagaError):
        return error
    told = "".join(format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - there are errors that cannot be made again
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(told)
    return error

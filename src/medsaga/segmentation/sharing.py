"""One batch among the workers of a dask cluster. Imported only where there is one."""

from __future__ import annotations

import pickle
import warnings
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dask
import numpy as np
from distributed import CancelledError, KilledWorker

from medsaga.errors import MedsagaError
from medsaga.events import ItemsDone, ItemStarted, Stop
from medsaga.models.packing import PackedModel
from medsaga.segmentation.batch import ItemEnded, ItemResult
from medsaga.segmentation.on_worker import OnWorker, Task, end_items
from medsaga.segmentation.tasks import segment_item

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from distributed import Client, Future
    from numpy.typing import NDArray

    from medsaga.data.volume import Volume
    from medsaga.events import Event, Relay, Stream
    from medsaga.segmentation.batch import Batch, Status
    from medsaga.segmentation.items import BatchItem
    from medsaga.segmentation.on_worker import Answer
    from medsaga.segmentation.outputs import Outputs
    from medsaga.segmentation.result import Segmentation

_SECONDS_BETWEEN_LOOKS = 1.0
# A result is small, or one volume.
_SECONDS_TO_FETCH = 120
_KILLED = (
    "Each worker that took it died, perhaps for lack of memory: give workers more, or "
    "segment it by itself."
)


class SharedBatch:
    """Hands items out to idle workers, and gives their ends in the order they come.

    Each item is bound to a worker, which has no other, and is handed out again if that
    dies. By itself dask counts a worker's death against all that waits for it too, so
    that good items fail with a bad one, and gives several tasks to one worker of
    several threads while others have none.

    Parameters
    ----------
    batch
        What is done with each item.
    work
        The items, with the files that they write; of absolute names.
    client
        Of the cluster.
    relay
        Knows whether the batch is stopped.
    """

    def __init__(
        self,
        batch: Batch,
        work: Sequence[tuple[BatchItem, Outputs | None]],
        client: Client,
        relay: Relay,
    ) -> None:
        self._batch, self._work = batch, work
        self._client, self._relay = client, relay
        self._name = f"medsaga-{uuid4().hex}"
        self._waiting = deque(range(len(work)))
        self._under_way: dict[int, tuple[Future, str]] = {}
        self._deaths = [0] * len(work)
        self._n_workers = 0
        self._ended: SimpleQueue[tuple[int, Future]] = SimpleQueue()
        self._results: dict[int, ItemResult] = {}

    def process_all(self) -> Stream[list[ItemResult]]:
        """Segment all items, and say of each in order what became of it."""
        self._send_model()
        try:
            while len(self._results) < len(self._work):
                with self._reaching():
                    processing: dict[str, Sequence[str]] = self._client.processing()
                self._n_workers = len(processing)
                yield from self._mourn(processing)
                yield from self._hand_out(processing)
                self._pass_stops_on()
                yield from self._take_in()
        finally:
            self._leave()
        return [self._results[number] for number in range(len(self._work))]

    def _send_model(self) -> None:
        """Give it to each worker that there is, and to each that will come."""
        batch = self._batch
        plugin = OnWorker(
            PackedModel.of(batch.model), batch.settings, replaces=batch.replaces
        )
        try:
            self._client.register_plugin(plugin, name=self._name)
        except Exception as error:
            raise MedsagaError(
                f"A worker cannot take the model ({error}): install the same version "
                "of napari-medsaga, and of torch, for all of them."
            ) from error

    def _mourn(self, processing: Mapping[str, Sequence[str]]) -> Stream[None]:
        """Put back what workers had that are gone."""
        for number, (future, worker) in list(self._under_way.items()):
            if worker not in processing and not future.done():
                yield from self._put_back(number)

    def _put_back(self, number: int) -> Stream[None]:
        future, _ = self._under_way.pop(number)
        with self._reaching():
            self._client.cancel([future])
        self._deaths[number] += 1
        allowed: int = dask.config.get("distributed.scheduler.allowed-failures")
        if self._is_unwanted(number):
            yield from self._end(number, status="stopped")
        elif self._deaths[number] > allowed:
            yield from self._end(number, status="failed", error=MedsagaError(_KILLED))
        else:
            self._waiting.appendleft(number)

    def _hand_out(self, processing: Mapping[str, Sequence[str]]) -> Stream[None]:
        taken = {worker for _, worker in self._under_way.values()}
        idle = deque(w for w, keys in processing.items() if not keys and w not in taken)
        while self._waiting:
            number = self._waiting[0]
            item, outputs = self._work[number]
            wanted = self._batch.wanted(outputs)
            is_due = outputs is None or bool(wanted)
            if not is_due or self._is_unwanted(number):
                self._results[number] = yield from self._batch.process(
                    number, item, outputs, is_stopped=True
                )
            elif idle:
                self._submit(number, wanted, idle.popleft())
                if not self._deaths[number]:
                    yield from _say(ItemStarted(number=number))
            else:
                return
            self._waiting.popleft()

    def _is_unwanted(self, number: int) -> bool:
        return self._relay.is_stopped or self._work[number][0].skip.is_set()

    def _submit(self, number: int, wanted: list[Path], worker: str) -> None:
        item, outputs = self._work[number]
        task = Task(number, _in_memory(item.image), item.labels, outputs, wanted)
        with self._reaching(), warnings.catch_warnings():
            # An open volume is part of the task, to be sent again if its worker dies.
            warnings.filterwarnings("ignore", "Sending large graph")
            future = self._client.submit(
                segment_item,
                self._name,
                pickle.dumps(task),
                key=f"{self._name}-{number}-{self._deaths[number]}",
                workers=worker,
            )
        self._under_way[number] = future, worker
        future.add_done_callback(lambda ended: self._ended.put((number, ended)))

    def _pass_stops_on(self) -> None:
        """Have items end that are not wanted any more: after the slice under way."""
        unwanted = [number for number in self._under_way if self._is_unwanted(number)]
        if unwanted:
            with self._reaching():
                self._tell_workers(unwanted)

    def _tell_workers(self, unwanted: Sequence[int]) -> None:
        self._client.run(end_items, self._name, unwanted, on_error="ignore")

    def _take_in(self) -> Stream[None]:
        """Wait for an item to end, if one is to, and tell what became of it."""
        is_all = len(self._results) == len(self._work)
        with suppress(Empty):
            wait = 0.0 if is_all else _SECONDS_BETWEEN_LOOKS
            number, future = self._ended.get(timeout=wait)
            # One that was put back may end all the same.
            if self._under_way.get(number, (None, ""))[0] is future:
                yield from self._read(number, future)
        done, total = len(self._results), len(self._work)
        yield from _say(ItemsDone(done=done, total=total, n_workers=self._n_workers))

    def _read(self, number: int, future: Future) -> Stream[None]:
        """Give what a worker said of an item, and what became of it."""
        try:
            answer: Answer = future.result(timeout=_SECONDS_TO_FETCH)
        except TimeoutError:  # gone with its worker in the very last moment
            yield from self._put_back(number)
        except CancelledError as error:
            raise _unreachable("the scheduler has lost what was going on") from error
        except KilledWorker:
            yield from self._end(number, status="failed", error=MedsagaError(_KILLED))
        except Exception as error:  # noqa: BLE001 - the others go on
            yield from self._end(number, status="failed", error=error)
        else:
            for event in answer.said:
                yield from _say(event)
            image = self._work[number][0].image
            result = replace(answer.result, image=image)
            yield from self._keep(number, result, answer.found)

    def _end(
        self, number: int, *, status: Status, error: Exception | None = None
    ) -> Stream[None]:
        item, outputs = self._work[number]
        result = ItemResult(
            image=item.image, status=status, outputs=outputs, error=error
        )
        yield from self._keep(number, result)

    def _keep(
        self, number: int, result: ItemResult, found: Segmentation | None = None
    ) -> Stream[None]:
        self._under_way.pop(number, None)
        self._results[number] = result
        yield from _say(ItemEnded(number=number, result=result, segmentation=found))

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        if self._client.status != "running":  # it has no scheduler to ask
            raise _unreachable(f"its client is {self._client.status}")
        try:
            yield
        except OSError as error:
            raise _unreachable(str(error)) from error

    def _leave(self) -> None:
        """Have the workers forget the batch, also where it ended in the middle."""
        with suppress(MedsagaError), self._reaching():
            if self._under_way:
                self._tell_workers(list(self._under_way))
                self._client.cancel([future for future, _ in self._under_way.values()])
            self._client.unregister_worker_plugin(self._name)


def _say(event: Event) -> Stream[None]:
    with suppress(Stop):  # which the relay knows of
        yield event


def _in_memory(image: Volume | Path) -> Volume | Path:
    """Compute an array of another kind here, which a worker could only wait for."""
    return image if isinstance(image, Path) else replace(image, array=_own(image.array))


def _own(array: Any) -> NDArray[Any]:
    return array if isinstance(array, np.ndarray) else np.asarray(array)


def _unreachable(why: str) -> MedsagaError:
    return MedsagaError(
        f"The cluster cannot be reached any more ({why}): start the same again, which "
        "goes on where this ended."
    )

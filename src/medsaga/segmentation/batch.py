"""Many images segmented one after the other, as one stream."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsaga.data.files import read_volume, write_volume
from medsaga.data.volume import Volume
from medsaga.errors import MedsagaError, memory_explained
from medsaga.events import Event, ItemEvent, ItemStarted, Notice, Relay, Stop
from medsaga.models.loading import load_model
from medsaga.segmentation.items import BatchItem, batch_items, left_out
from medsaga.segmentation.outputs import OutputNames, actual_path
from medsaga.segmentation.segment import NOT_ENOUGH_MEMORY, segment
from medsaga.settings.segment import SegmentSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from distributed import Client

    from medsaga.data.inputs import ImageLike
    from medsaga.events import Stream
    from medsaga.models.folder import TrainedModel
    from medsaga.segmentation.outputs import Outputs
    from medsaga.segmentation.result import Segmentation

Status = Literal["done", "kept", "failed", "stopped"]
"""What became of an image: `kept` is one whose files were all there already."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ItemResult:
    """What became of one image of a batch.

    Attributes
    ----------
    image
        The volume or the file.
    status
        Done, kept as it was, failed, or stopped before its last slice.
    outputs
        Its files, by the names that they have; None for an open volume.
    written
        Those of them that were written now.
    error
        Why it failed: a `MedsagaError`, or what nobody expected.
    seconds
        What it took.
    """

    image: Volume | Path
    status: Status
    outputs: Outputs | None = None
    written: tuple[Path, ...] = ()
    error: Exception | None = None
    seconds: float = 0.0

    @property
    def message(self) -> str:
        """Why it failed, in a sentence; empty if it did not."""
        if self.error is None or isinstance(self.error, MedsagaError):
            return str(self.error or "")
        return f"Unexpected error: {self.error or type(self.error).__name__}"

    @property
    def unexpected(self) -> Exception | None:
        """The error, if it is one that nobody expected."""
        return None if isinstance(self.error, MedsagaError) else self.error

    @property
    def keeps_some(self) -> bool:
        """Whether some files were there already, and are as they were."""
        n_files = 0 if self.outputs is None else len(self.outputs.paths)
        return 0 < len(self.written) < n_files


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemEnded(Event):
    """Item `number` is over.

    `segmentation` is that of an open volume that is done, else None.
    """

    number: int
    result: ItemResult
    segmentation: Segmentation | None = field(default=None, repr=False)


def segment_batch(
    model: TrainedModel | Path | str,
    images: ImageLike | BatchItem | Sequence[ImageLike | BatchItem],
    settings: SegmentSettings | None = None,
    *,
    out: Path | str | None = None,
    replaces: bool = False,
    client: Client | None = None,
) -> Stream[tuple[ItemResult, ...]]:
    """Segment images one after the other; one that fails does not stop the others.

    What is there already is kept, so that the same call goes on where one was stopped.
    Of a file that is stopped nothing is written.

    With a `client` the workers of its cluster share the images, one a worker at a time
    (docs/cluster.md). They are sent the model once, and read and write the files
    themselves, by their absolute names. An image whose worker died is done again by
    another one, as often as the scheduler allows.

    Parameters
    ----------
    model
        A trained model, or its folder; it is loaded once.
    images
        Files, folders of files, arrays, volumes, or items made by :func:`batch_items`.
    settings
        What to do to the masks, and what to give beside them.
    out
        Folder for the results of files, which get the images' names, and keep the
        images' folders where images of several have one name; not needed for open
        volumes, whose results come with :class:`ItemEnded`.
    replaces
        Whether results that are there already are written again.
    client
        Of a dask cluster, as :func:`medsaga.frontend.connect_cluster` gives it; None
        segments here.

    Yields
    ------
    ItemStarted, ItemEvent, ItemEnded
        An item that a stop kept from beginning has none of them. With a client items
        end in any order, and of their events only notices come.
    ItemsDone
        With a client.

    Returns
    -------
    tuple of ItemResult
        One an item, in order; without the segmentations.

    Raises
    ------
    MedsagaError
        Before anything is segmented: if the model cannot be read, an image is not
        there, `out` is missing, or a result would replace an image or another result.
        Later, if the cluster cannot be reached any more.
    """
    settings = settings or SegmentSettings()
    items = batch_items(images)
    model = load_model(model) if isinstance(model, (Path, str)) else model
    if client is not None:  # whose workers may run in other folders
        items = [item.with_absolute_paths() for item in items]
        out = None if out is None else Path(out).expanduser().absolute()
    planned = _name_outputs(items, out, model, settings)
    work = list(zip(items, planned, strict=True))
    batch = Batch(model, settings, replaces)
    relay = Relay()
    yield from relay(_tell(left_out(images, out)))
    if client is not None:
        from medsaga.segmentation.sharing import SharedBatch

        shared = SharedBatch(batch, work, client, relay)
        return tuple((yield from relay(shared.process_all())))
    results = []
    for number, (item, outputs) in enumerate(work):
        stream = batch.process(number, item, outputs, is_stopped=relay.is_stopped)
        results.append((yield from relay(stream)))
    return tuple(results)


def _tell(sentences: Iterable[str]) -> Stream[None]:
    with suppress(Stop):  # which the relay knows of
        for sentence in sentences:
            yield Notice(message=sentence)


def _name_outputs(
    items: Sequence[BatchItem],
    out: Path | str | None,
    model: TrainedModel,
    settings: SegmentSettings,
) -> list[Outputs | None]:
    """Plan the files of all items before any is written."""
    files = [item.image for item in items if isinstance(item.image, Path)]
    if not files:
        return [None] * len(items)
    if out is None:
        raise MedsagaError("There is no folder for the results: give one.")
    names = OutputNames(
        folder=Path(out).expanduser(),
        images=files,
        card=model.card,
        settings=settings,
    )
    return [
        names.outputs(item.image) if isinstance(item.image, Path) else None
        for item in items
    ]


@dataclass(frozen=True)
class Batch:
    """A model, and what it does with each item."""

    model: TrainedModel
    settings: SegmentSettings
    replaces: bool

    def process(
        self,
        number: int,
        item: BatchItem,
        outputs: Outputs | None,
        *,
        is_stopped: bool,
    ) -> Stream[ItemResult]:
        """Segment one item and say what became of it."""
        wanted = self.wanted(outputs)
        found: Segmentation | None = None
        if outputs is not None and not wanted:
            result = ItemResult(
                image=item.image, status="kept", outputs=outputs.actual()
            )
        elif is_stopped or item.skip.is_set():
            return ItemResult(image=item.image, status="stopped", outputs=outputs)
        else:
            result, found = yield from self.attempt(number, item, outputs, wanted)
        with suppress(Stop):  # it is over
            yield ItemEnded(number=number, result=result, segmentation=found)
        return result

    def wanted(self, outputs: Outputs | None) -> list[Path]:
        """Give the files that are to be written; of an open volume there are none."""
        if outputs is None:
            return []
        return outputs.paths if self.replaces else outputs.missing

    def attempt(
        self,
        number: int,
        item: BatchItem,
        outputs: Outputs | None,
        wanted: Sequence[Path],
    ) -> Stream[tuple[ItemResult, Segmentation | None]]:
        """Segment, and write `wanted`; whatever fails is kept in the result."""
        started = time.monotonic()
        status: Status = "stopped"
        error: Exception | None = None
        found: Segmentation | None = None
        try:
            yield ItemStarted(number=number)
            with memory_explained(NOT_ENOUGH_MEMORY):
                found = yield from self._segment(number, item)
                if found.is_complete:
                    if outputs is not None:
                        _write(found, outputs, wanted)
                    status = "done"
        except Stop:
            pass
        except Exception as problem:  # noqa: BLE001 - whatever it is, the others go on
            status, error = "failed", problem
        is_done = status == "done"
        result = ItemResult(
            image=item.image,
            status=status,
            outputs=outputs.actual() if outputs is not None and is_done else outputs,
            written=tuple(map(actual_path, wanted)) if is_done else (),
            error=error,
            seconds=time.monotonic() - started,
        )
        return result, found if is_done and outputs is None else None

    def _segment(self, number: int, item: BatchItem) -> Stream[Segmentation]:
        """Pass the engine's events on with the item's number.

        A stop, or a skip, makes it return what it has. After a stop in the very last
        slice that is all of it.
        """
        image = (
            item.image if isinstance(item.image, Volume) else read_volume(item.image)
        )
        relay = Relay(item.skip.is_set, mark=partial(_numbered, number))
        stream = segment(self.model, image, self.settings, labels=item.labels)
        return (yield from relay(stream))


def _numbered(number: int, event: Event) -> ItemEvent:
    return ItemEvent(number=number, event=event)


def _write(found: Segmentation, outputs: Outputs, wanted: Sequence[Path]) -> None:
    for path, volume in zip(outputs.paths, found.volumes(), strict=True):
        if path in wanted:
            write_volume(volume, path, is_labels=volume is found.mask)

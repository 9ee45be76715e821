"""Fine-tuning: a few annotated slices in, a trained model out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from medsaga.computing import computing_threads, memory_held, thread_count
from medsaga.errors import memory_explained
from medsaga.events import Notice, Stop, Stream
from medsaga.propagation.trust import GROWTH_OF_ONE, PaintTrust
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training.course import run_course
from medsaga.training.paint_context.first_preview import preview_paint
from medsaga.training.plan.memory import OUT_OF_MEMORY
from medsaga.training.plan.running_time import RunningTime
from medsaga.training.preview import Previewer
from medsaga.training.ranks import ALONE, Ranks
from medsaga.training.request import Request
from medsaga.training.resuming.outline import reading_journal
from medsaga.training.resuming.setup_file import read_setup
from medsaga.training.resuming.state_writer import StateWriter
from medsaga.training.setup import set_up
from medsaga.training.sharing import check_shareable
from medsaga.training.state import Plan, TrainingState
from medsaga.wording import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from medsaga.data.annotation import Annotation
    from medsaga.data.inputs import TrainingData
    from medsaga.data.volume import Volume
    from medsaga.models.folder import TrainedModel
    from medsaga.training.preview import PreviewTarget
    from medsaga.training.resuming.journal import Journal
    from medsaga.training.setup import Setup


def fine_tune(
    data: TrainingData,
    settings: FineTuneSettings | None = None,
    *,
    start: TrainedModel | Path | str | None = None,
    preview_at: PreviewTarget | Callable[[], PreviewTarget] | None = None,
    preview_interval: float = 10.0,
    journal: Journal | None = None,
    ranks: Ranks = ALONE,
) -> Stream[TrainedModel | None]:
    """Fine-tune a Segment Anything model on a few annotated slices.

    Two stages: the head stage fits a small classifier on the frozen encoder's features
    in seconds and gives the first preview; the GaLore stage trains all of the model
    (MedSAGa, arXiv 2407.15042), and then fits the classifier anew to what the encoder
    has learned. The preset ``quick`` has the first alone, ``paper`` the second.

    Parameters
    ----------
    data
        The images, their labels, and which of their slices train.
    settings
        How to train; by default the preset ``balanced``.
    start
        A trained model, or its folder, to continue from in place of
        `settings.backbone`. It keeps its working size and intensity window unless the
        settings name others, and sees neighbouring slices if it did before. If it knows
        the very classes that are painted, the head stage is left out. The model itself
        is not changed.
    preview_at
        (image, slice) indices to preview, or a function that gives them whenever a
        preview is due, such as one that follows what the user looks at; None takes an
        unannotated slice in the middle.
    preview_interval
        Seconds between previews in the GaLore stage.
    journal
        Where the state is written at the beginning, every minute and after each stage,
        for :func:`resume`; None writes nothing. Discard it once the model is saved.
    ranks
        The processes that share each step's slices, of which this has to be the first
        (:func:`medsaga.frontend.join_ranks`).

    Yields
    ------
    Event
        Notices, progress, previews and validations. The network is usable at each.

    Returns
    -------
    TrainedModel or None
        None if it was stopped before anything was learned.

    Raises
    ------
    MedsagaError
        If there is nothing to learn from, images and labels do not fit, a slice that is
        said to be empty carries a label, or earlier slices are not kept, at another
        working size or in other intensities. If the ranks cannot share the training. If
        the memory runs out before anything is
        learned; later, what was learned is returned.
    """
    time = RunningTime()
    settings = settings or FineTuneSettings()
    check_shareable(settings, ranks)
    request = Request.read(data, settings, start)
    wanted = _preview_function(preview_at, request)
    stream = _train(request, time, wanted, preview_interval, journal, ranks)
    return (yield from time.of(stream))


def resume(
    journal: Journal,
    images: Sequence[Volume] = (),
    *,
    preview_at: PreviewTarget | Callable[[], PreviewTarget] | None = None,
    preview_interval: float = 10.0,
    ranks: Ranks = ALONE,
) -> Stream[TrainedModel | None]:
    """Go on with a training that was interrupted, from its last state.

    With as many threads on the same CPU it ends in the very weights of one that nothing
    interrupts. The minutes that it has run count.

    Parameters
    ----------
    journal
        Of the training, opened.
    images
        The images that it learns from, in their order, to be previewed. The slices that
        train are in the journal.
    preview_at, preview_interval
        As in :func:`fine_tune`; without `preview_at` or without `images` nothing is
        previewed.
    ranks
        As in :func:`fine_tune`; they need not be as many as before.

    Yields
    ------
    Event
        As :func:`fine_tune` does.

    Returns
    -------
    TrainedModel or None
        As :func:`fine_tune` does.

    Raises
    ------
    MedsagaError
        If the journal cannot be read, the ranks cannot share the training, or the
        memory runs out.
    """
    time = RunningTime()
    wanted = preview_at if callable(preview_at) else lambda: preview_at
    previewed = wanted if images else lambda: None
    stream = _go_on(journal, images, time, previewed, preview_interval, ranks)
    return (yield from time.of(stream))


def _train(
    request: Request,
    time: RunningTime,
    wanted: Callable[[], PreviewTarget],
    preview_interval: float,
    journal: Journal | None,
    ranks: Ranks,
) -> Stream[TrainedModel | None]:
    held = memory_held()
    with computing_threads(request.settings.threads) as threads:
        try:
            for message in (*request.notices, *_fewer_threads(request.settings)):
                yield Notice(message=message)
            if ranks.size > 1:
                yield Notice(message=_describe_sharing(ranks, request.settings))
            yield from preview_paint(request, wanted(), time)
            with memory_explained(OUT_OF_MEMORY):
                setup, network = yield from set_up(request, ranks)
            state = TrainingState(
                network=network,
                plan=Plan.of(setup.settings),
                time=time,
                is_usable=setup.origin.knows_classes,
                measured={"threads": threads, "memory_before": held},
                trust=_trust_before(request, setup),
            )
            writer = StateWriter(journal)
            yield from writer.begin(setup, state)
        except Stop:
            return None
        previewer = Previewer(setup, state, wanted, preview_interval)
        return (yield from run_course(setup, state, previewer, writer))


def _trust_before(request: Request, setup: Setup) -> PaintTrust | None:
    """Give what paint is worth before slices that are left out tell it, if known."""
    if request.card is not None:
        return request.card.paint_trust
    return PaintTrust(growth=GROWTH_OF_ONE) if len(setup.training) == 1 else None


def _go_on(
    journal: Journal,
    images: Sequence[Volume],
    time: RunningTime,
    wanted: Callable[[], PreviewTarget | None],
    preview_interval: float,
    ranks: Ranks,
) -> Stream[TrainedModel | None]:
    with reading_journal(journal.folder), memory_explained(OUT_OF_MEMORY):
        setup, network = read_setup(journal.folder, images)
        state = TrainingState(network=network, plan=Plan.of(setup.settings), time=time)
        state.read(journal.state, setup.settings)
    setup = replace(setup, ranks=ranks)
    check_shareable(state.plan.complete(setup.settings), ranks)
    with computing_threads(setup.settings.threads):
        try:
            for message in _fewer_threads(setup.settings):
                yield Notice(message=message)
        except Stop:
            return None
        previewer = Previewer(setup, state, wanted, preview_interval)
        return (yield from run_course(setup, state, previewer, StateWriter(journal)))


def _fewer_threads(settings: FineTuneSettings) -> Iterator[str]:
    """Say that a repeated training will differ in its last digits."""
    if settings.threads > thread_count():
        yield (
            f"Of the {settings.threads} threads that are asked for, this computer has "
            f"{thread_count()} to spare: weights will differ in the last digits from "
            "those that were trained with all."
        )


def _describe_sharing(ranks: Ranks, settings: FineTuneSettings) -> str:
    each = count(settings.batch_size // ranks.size, "slice")
    return (
        f"{ranks.size} processes share the steps of {settings.batch_size} slices: each "
        f"takes {each}. All else is done by one."
    )


def _preview_function(
    preview_at: PreviewTarget | Callable[[], PreviewTarget] | None, request: Request
) -> Callable[[], PreviewTarget]:
    if callable(preview_at):
        return preview_at
    target = preview_at or _pick_preview(request.volumes, request.annotation)
    return lambda: target


def _pick_preview(volumes: Sequence[Volume], annotation: Annotation) -> tuple[int, int]:
    """Pick the unannotated slice nearest to the middle of the deepest volume."""
    depths = [volume.shape[annotation.axis] for volume in volumes]
    image = depths.index(max(depths))
    annotated = {index for volume, index in annotation.slices if volume == image}
    by_distance = sorted(
        range(depths[image]),
        key=lambda index: (index in annotated, abs(index - depths[image] // 2)),
    )
    return image, by_distance[0]

"""Fine-tuning: a few annotated slices in, a trained model out."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from medsaga.computing import computing_threads
from medsaga.data.samples import classes_of
from medsaga.errors import OutOfMemory, memory_explained
from medsaga.events import Event, Notice, Stop, Stream, Validated
from medsaga.models.folder import TrainedModel
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training.card import make_card
from medsaga.training.head_stage import rerun_head_stage, run_head_stage
from medsaga.training.lost_classes import lost_classes
from medsaga.training.optim.low_rank import merge_low_rank_updates
from medsaga.training.plan.running_time import RunningTime
from medsaga.training.preview import Previewer
from medsaga.training.request import Request
from medsaga.training.setup import set_up
from medsaga.training.state import Plan, TrainingState
from medsaga.training.steps import run_galore_stage
from medsaga.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from medsaga.data.annotation import Annotation
    from medsaga.data.inputs import TrainingData
    from medsaga.data.volume import Volume
    from medsaga.training.preview import PreviewTarget
    from medsaga.training.setup import Setup

_SAVE_MEMORY = "choose a smaller batch or long side, or close other programs"
_OUT_OF_MEMORY = f"The memory ran out: {_SAVE_MEMORY}."


def fine_tune(
    data: TrainingData,
    settings: FineTuneSettings | None = None,
    *,
    start: TrainedModel | Path | str | None = None,
    preview_at: PreviewTarget | Callable[[], PreviewTarget] | None = None,
    preview_interval: float = 10.0,
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
        working size or in other intensities. If the memory runs out before anything is
        learned; later, what was learned is returned.
    """
    time = RunningTime()
    request = Request.read(data, settings or FineTuneSettings(), start)
    wanted = _preview_function(preview_at, request)
    stream = _train(request, time, wanted, preview_interval)
    return (yield from time.of(stream))


def _train(
    request: Request,
    time: RunningTime,
    wanted: Callable[[], PreviewTarget],
    preview_interval: float,
) -> Stream[TrainedModel | None]:
    with computing_threads() as threads:
        try:
            for message in request.notices:
                yield Notice(message=message)
            with memory_explained(_OUT_OF_MEMORY):
                setup, network = yield from set_up(request)
        except Stop:
            return None
        state = TrainingState(
            network=network,
            plan=Plan.of(setup.settings),
            time=time,
            is_usable=setup.origin.knows_classes,
            measured={"threads": threads},
        )
        previewer = Previewer(setup, state, wanted, preview_interval)
        scores = yield from _run_stages(setup, state, previewer)
        if not state.is_usable:
            return None
        model, scores = _finish(setup, state, scores)
        with suppress(Stop):  # there is nothing left to stop
            yield from _tell_unlearned(setup, state, scores)
            yield scores
    return model


def _run_stages(
    setup: Setup, state: TrainingState, previewer: Previewer
) -> Generator[Event, None, Validated | None]:
    """Run the stages; gives no scores where they were stopped or ran out of memory."""
    try:
        with memory_explained(_OUT_OF_MEMORY):
            return (yield from _stages(setup, state, previewer))
    except Stop:
        pass
    except OutOfMemory:
        if not state.is_usable:
            raise
        yield Notice(
            message="The memory ran out, so the training ended early; what it had "
            f"learned is kept. For more, {_SAVE_MEMORY}."
        )
    return None


def _stages(
    setup: Setup, state: TrainingState, previewer: Previewer
) -> Generator[Event, None, Validated | None]:
    stages, knows_classes = setup.settings.stages, setup.origin.knows_classes
    if state.is_usable:
        yield previewer.show("galore")
    if stages == "head" and knows_classes:
        return (yield from rerun_head_stage(setup, state, previewer))
    if stages == "head" or (stages == "both" and not knows_classes):
        yield from run_head_stage(setup, state, previewer)
    if stages != "head":
        return (yield from run_galore_stage(setup, state, previewer))
    return None


def _finish(
    setup: Setup, state: TrainingState, scores: Validated | None
) -> tuple[TrainedModel, Validated]:
    """Make the model of what was learned; without `scores` they are measured."""
    state.network.eval()
    merge_low_rank_updates(state.network)
    scores = scores or _last_scores(setup, state)
    model = TrainedModel(
        network=state.network,
        card=make_card(setup, state, scores),
        samples=(*setup.training, *setup.held_out),
    )
    return model, scores


def _last_scores(setup: Setup, state: TrainingState) -> Validated:
    """Score what a stop or a lack of memory has left; for nothing if that lasts."""
    try:
        with memory_explained(_OUT_OF_MEMORY):
            return validate(setup, state.network, state.step)
    except OutOfMemory:
        return Validated(
            step=state.step, dice={}, hd95={}, measured_on="training slices"
        )


def _tell_unlearned(
    setup: Setup, state: TrainingState, scores: Validated
) -> Iterator[Notice]:
    """Say in plain words which classes the model does not find."""
    if not scores.dice:  # for want of memory, which what follows needs too
        return
    table = setup.table
    unlearned: dict[int, str] = dict.fromkeys(
        lost_classes(setup, state.network, scores), "training slices"
    )
    for value, dice in scores.dice.items():
        index = table.values.index(value)
        if dice == 0 and any(index in classes_of(sample) for sample in setup.judged):
            unlearned[index] = scores.measured_on
    for index, slices in unlearned.items():
        yield Notice(
            message=f"{table.names[index]} was not learned: the model finds nothing of "
            f"it on the {slices}. Paint it on more slices, or give the training more "
            "time."
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

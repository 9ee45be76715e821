"""Fine-tuning: a few annotated slices in, a trained model out."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from medsaga.computing import computing_threads
from medsaga.data.annotation import Annotation, annotated_slices
from medsaga.data.inputs import ImageLike, as_volume_pairs
from medsaga.errors import OutOfMemory, memory_explained
from medsaga.events import Event, Notice, Stop, Stream, Validated
from medsaga.models.folder import TrainedModel
from medsaga.models.kept_slices import EarlierSlices
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training.card import make_card
from medsaga.training.head_stage import rerun_head_stage, run_head_stage
from medsaga.training.lost_classes import lost_classes
from medsaga.training.optim.low_rank import merge_low_rank_updates
from medsaga.training.origin import card_of, choose_rule
from medsaga.training.request import Annotated, Job, begin
from medsaga.training.running_time import RunningTime
from medsaga.training.steps import run_galore_stage
from medsaga.training.validation import classes_of, validate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from medsaga.data.annotation import EmptySlice
    from medsaga.data.volume import Volume
    from medsaga.models.kept_slices import SliceName
    from medsaga.training.origin import Start
    from medsaga.training.session import PreviewTarget, Session

_SAVE_MEMORY = "choose a smaller batch or long side, or close other programs"
_OUT_OF_MEMORY = f"The memory ran out: {_SAVE_MEMORY}."


def fine_tune(
    images: ImageLike | Sequence[ImageLike],
    labels: ImageLike | Sequence[ImageLike],
    settings: FineTuneSettings | None = None,
    *,
    start: TrainedModel | Path | str | None = None,
    earlier: Sequence[SliceName] = (),
    axis: int | None = None,
    slices: Sequence[int] | None = None,
    empty_slices: Sequence[EmptySlice] = (),
    window: tuple[float, float] | None = None,
    class_names: Mapping[int, str] | None = None,
    class_colours: Mapping[int, str] | None = None,
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
    images, labels
        A file, a folder, an array (z, y, x) or (y, x), a `Volume`, or a sequence of
        these; images and labels pair up by name (files) or by order (the rest). On an
        annotated slice label 0 is background; with `settings.sparse` it is unknown, and
        `settings.background_value` is background.
    settings
        How to train; by default the preset ``balanced``.
    start
        A trained model, or its folder, to continue from in place of
        `settings.backbone`. It keeps its working size and intensity window unless the
        settings name others, and sees neighbouring slices if it did before. If it knows
        the very classes that are painted, the head stage is left out. The model itself
        is not changed.
    earlier
        Slices that trained `start` and train on beside the new ones, as its card names
        them; `start` is then a folder of a :class:`~medsaga.ModelLibrary`, which keeps
        them.
    axis
        Array axis to slice along: 0 axial, 1 coronal, 2 sagittal for files with an
        affine. None takes the one along which the fewest slices carry a label.
    slices
        Only these slices along the axis train; one without a label counts as empty.
    empty_slices
        Slices beside those that show nothing of any class: an index along the axis, in
        every volume that carries a label and is long enough, or a pair (image, index).
    window
        Intensities that become black and white; overrides `settings.intensity`.
    class_names, class_colours
        Names and hex colours by label value, kept in the model card.
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
        said to be empty carries a label, or `earlier` slices are not kept, at another
        working size or in other intensities. If the memory runs out before anything is
        learned; later, what was learned is returned.
    """
    running_time = RunningTime()
    settings = settings or FineTuneSettings()
    volumes, label_volumes, warnings = as_volume_pairs(images, labels)
    card = card_of(start)
    kept = EarlierSlices(
        None if isinstance(start, TrainedModel) else start,
        card,
        tuple((name, index) for name, index in earlier),
    )
    annotation = annotated_slices(
        label_volumes,
        axis,
        slices,
        empty_slices=empty_slices,
        background_value=settings.painted_background,
        may_be_empty=bool(kept.wanted),
    )
    annotated = Annotated.read(
        label_volumes, annotation, class_names, class_colours, kept
    )
    rule, intensity_notice = choose_rule(card, settings, volumes, label_volumes, window)
    job = Job(
        volumes=volumes,
        annotated=annotated,
        rule=rule,
        settings=settings,
        start=start,
        card=card,
        earlier=kept,
        preview_at=_preview_function(preview_at, volumes, annotated.annotation),
        preview_interval=preview_interval,
        time=running_time,
    )
    notices = [*warnings, *annotated.notices, intensity_notice]
    return (yield from running_time.of(_train(job, notices)))


def _train(job: Job, notices: Sequence[str]) -> Stream[TrainedModel | None]:
    with computing_threads() as threads:
        try:
            for message in notices:
                yield Notice(message=message)
            with memory_explained(_OUT_OF_MEMORY):
                session, begun = yield from begin(job)
        except Stop:
            return None
        scores = yield from _run_stages(session, begun)
        if not session.is_usable:
            return None
        session.network.eval()
        merge_low_rank_updates(session.network)
        session.measured["threads"] = threads
        scores = scores or _last_scores(session)
        model = TrainedModel(
            network=session.network,
            card=make_card(session, begun, scores),
            samples=(*session.training, *session.held_out),
        )
        with suppress(Stop):  # there is nothing left to stop
            yield from _tell_unlearned(session, scores)
            yield scores
    return model


def _run_stages(
    session: Session, begun: Start
) -> Generator[Event, None, Validated | None]:
    """Run the stages; gives no scores where they were stopped or ran out of memory."""
    try:
        with memory_explained(_OUT_OF_MEMORY):
            return (yield from _stages(session, begun))
    except Stop:
        pass
    except OutOfMemory:
        if not session.is_usable:
            raise
        yield Notice(
            message="The memory ran out, so the training ended early; what it had "
            f"learned is kept. For more, {_SAVE_MEMORY}."
        )
    return None


def _stages(session: Session, begun: Start) -> Generator[Event, None, Validated | None]:
    stages = session.settings.stages
    if session.is_usable:
        yield session.preview("galore")
    if stages == "head" and begun.knows_classes:
        return (yield from rerun_head_stage(session))
    if stages == "head" or (stages == "both" and not begun.knows_classes):
        yield from run_head_stage(session)
    if stages != "head":
        return (yield from run_galore_stage(session))
    return None


def _last_scores(session: Session) -> Validated:
    """Score what a stop or a lack of memory has left; for nothing if that lasts."""
    try:
        with memory_explained(_OUT_OF_MEMORY):
            return validate(session, session.galore_steps)
    except OutOfMemory:
        step = session.galore_steps
        return Validated(step=step, dice={}, hd95={}, measured_on="training slices")


def _tell_unlearned(session: Session, scores: Validated) -> Iterator[Notice]:
    """Say in plain words which classes the model does not find."""
    if not scores.dice:  # for want of memory, which what follows needs too
        return
    table, judged = session.table, session.held_out or session.training
    unlearned: dict[int, str] = dict.fromkeys(
        lost_classes(session, scores), "training slices"
    )
    for value, dice in scores.dice.items():
        index = table.values.index(value)
        if dice == 0 and any(index in classes_of(sample) for sample in judged):
            unlearned[index] = scores.measured_on
    for index, slices in unlearned.items():
        yield Notice(
            message=f"{table.names[index]} was not learned: the model finds nothing of "
            f"it on the {slices}. Paint it on more slices, or give the training more "
            "time."
        )


def _preview_function(
    preview_at: PreviewTarget | Callable[[], PreviewTarget] | None,
    volumes: Sequence[Volume],
    annotation: Annotation,
) -> Callable[[], PreviewTarget]:
    if callable(preview_at):
        return preview_at
    target = preview_at or _pick_preview(volumes, annotation)
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

"""Fine-tuning: a few annotated slices in, a trained model out."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from medsaga.computing import computing_threads, pick_device, pick_precision
from medsaga.data.annotation import Annotation, annotated_slices
from medsaga.data.classes import ClassTable, class_table, label_check
from medsaga.data.inputs import ImageLike, as_volume_pairs
from medsaga.data.samples import build_samples
from medsaga.events import Event, Notice, Stop, Stream, Validated
from medsaga.kept_slices import EarlierSlices
from medsaga.model_folder import TrainedModel
from medsaga.settings import FineTuneSettings
from medsaga.training.card import make_card
from medsaga.training.galore_stage import run_galore_stage
from medsaga.training.head_stage import run_head_stage
from medsaga.training.low_rank import merge_low_rank_updates
from medsaga.training.session import PreviewTarget, Session
from medsaga.training.start import (
    Start,
    card_of,
    choose_canvas,
    choose_rule,
    start_from_backbone,
    start_from_model,
    why_no_neighbours,
)
from medsaga.training.strategy import apply_strategy
from medsaga.training.validation import split_held_out, validate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from medsaga.data.annotation import EmptySlice
    from medsaga.data.intensity import IntensityRule
    from medsaga.data.volume import Volume
    from medsaga.kept_slices import SliceName
    from medsaga.model_card import ModelCard


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

    Two stages (one in the preset ``paper``): the head stage fits a small classifier on
    the frozen encoder's features in seconds and gives the first preview; the GaLore
    stage trains all of the model (MedSAGa, arXiv 2407.15042).

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
        said to be empty carries a label, or `earlier` slices are not kept or at another
        working size.
    """
    started = time.monotonic()
    settings = settings or FineTuneSettings()
    volumes, label_volumes, warnings = as_volume_pairs(images, labels)
    card = card_of(start)
    kept = EarlierSlices(
        None if isinstance(start, TrainedModel) else start, card, tuple(earlier)
    )
    annotation = annotated_slices(
        label_volumes,
        axis,
        slices,
        empty_slices=empty_slices,
        background_value=settings.painted_background,
        may_be_empty=bool(kept.wanted),
    )
    annotated = _Annotated.read(
        label_volumes, annotation, class_names, class_colours, kept
    )
    rule, intensity_notice = choose_rule(card, settings, volumes, label_volumes, window)
    job = _Job(
        volumes=volumes,
        annotated=annotated,
        rule=rule,
        settings=settings,
        start=start,
        card=card,
        earlier=kept,
        preview_at=_preview_function(preview_at, volumes, annotated.annotation),
        preview_interval=preview_interval,
        started=started,
    )
    notices = [*warnings, *annotated.notices, intensity_notice]
    with computing_threads() as threads:
        try:
            for message in notices:
                yield Notice(message=message)
            session, begun = yield from _start(job)
        except Stop:
            return None
        with suppress(Stop):
            if session.is_usable:
                yield session.preview("galore")
            if session.settings.stages != "galore":
                yield from run_head_stage(session)
            if session.settings.stages != "head":
                yield from run_galore_stage(session)
        if not session.is_usable:
            return None
        merge_low_rank_updates(session.network)
        session.measured["threads"] = threads
        scores = validate(session, session.galore_steps)
        model = TrainedModel(
            network=session.network,
            card=make_card(session, begun, scores),
            samples=(*session.training, *session.held_out),
        )
        with suppress(Stop):  # there is nothing left to stop
            yield from _tell_unlearned(session, scores)
            yield scores
    return model


def _tell_unlearned(session: Session, scores: Validated) -> Iterator[Notice]:
    """Say in plain words which classes the model does not find."""
    for value, dice in scores.dice.items():
        if dice == 0:
            name = session.table.names[session.table.values.index(value)]
            yield Notice(
                message=f"{name} was not learned: the model finds nothing of it on the "
                f"{scores.measured_on}. Paint it on more slices, or give the training "
                "more time."
            )


@dataclass(frozen=True)
class _Annotated:
    """The slices that train, their classes, and what to say of them."""

    labels: Sequence[Volume]
    annotation: Annotation
    table: ClassTable
    notices: Sequence[str]

    @classmethod
    def read(
        cls,
        labels: Sequence[Volume],
        annotation: Annotation,
        names: Mapping[int, str] | None,
        colours: Mapping[int, str] | None,
        earlier: EarlierSlices,
    ) -> _Annotated:
        table = class_table(
            labels, annotation, names, colours, besides=earlier.classes()
        )
        notices = [
            annotation.sentence,
            *label_check(labels, annotation, table),
        ]
        return cls(labels, annotation, table, notices)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Job:
    """What `fine_tune` was asked for, checked and completed."""

    volumes: Sequence[Volume]
    annotated: _Annotated
    rule: IntensityRule
    settings: FineTuneSettings
    start: TrainedModel | Path | str | None
    card: ModelCard | None
    earlier: EarlierSlices
    preview_at: Callable[[], PreviewTarget]
    preview_interval: float
    started: float

    def load(self) -> Start:
        """Load the network that the training starts from."""
        table = self.annotated.table
        if self.start is None:
            return start_from_backbone(self.settings, len(table))
        return start_from_model(self.start, self.settings, table)


def _start(job: _Job) -> Generator[Event, None, tuple[Session, Start]]:
    """Load the model, choose working size and number format, cut out the slices."""
    device = pick_device()
    begun = job.load()
    if begun.report:
        yield Notice(message=begun.report)
    table, annotation, settings = (
        job.annotated.table,
        job.annotated.annotation,
        job.settings,
    )
    network = begun.network.to(device).to(memory_format=torch.channels_last)
    apply_strategy(network, settings.strategy, settings.seed)
    canvas = choose_canvas(
        job.card, settings, network.backbone, job.volumes, annotation
    )
    if settings.neighbours and not canvas.neighbours:
        yield Notice(message=why_no_neighbours(job.card))
    precision = pick_precision(settings.precision, network, device, canvas.long_side)
    samples = build_samples(
        job.volumes, job.annotated.labels, annotation, table, job.rule, canvas
    )
    samples += job.earlier.load(table, canvas)
    training, held_out = split_held_out(samples, len(table))
    session = Session(
        network=network,
        training=training,
        held_out=held_out,
        images=job.volumes,
        table=table,
        rule=job.rule,
        canvas=canvas,
        axis=annotation.axis,
        settings=settings,
        device=device,
        precision=precision,
        preview_at=job.preview_at,
        preview_interval=job.preview_interval,
        started=job.started,
    )
    session.plan(
        long_side=canvas.long_side, neighbours=canvas.neighbours, precision=precision
    )
    if job.card is not None:
        session.plan(
            backbone=job.card.settings["backbone"],
            detail_head=job.card.detail_head,
            stages="galore" if not job.card.detail_head else settings.stages,
        )
    if begun.knows_classes:
        session.is_usable = True
        if settings.stages == "both":
            session.plan(stages="galore")
    yield Notice(message=_describe_plan(session))
    return session, begun


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


def _describe_plan(session: Session) -> str:
    settings = session.settings
    held_out = (
        f"{len(session.held_out)} held out to measure on"
        if session.held_out
        else "none held out, since there are so few"
    )
    time_or_steps = (
        f"{settings.steps} steps" if settings.steps else f"{settings.minutes:g} minutes"
    )
    neighbours = (
        "seen with the slices below and above, " if session.canvas.neighbours else ""
    )
    return (
        f"{len(session.training)} slices train, {held_out}; {neighbours}long side "
        f"{session.canvas.long_side} pixels, {session.precision} on {session.device}, "
        f"{time_or_steps}."
    )

"""A training as it was asked for, and its beginning: model, slices, working size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medsaga.computing import pick_device, pick_precision
from medsaga.data.augment import choose_negatives
from medsaga.data.classes import ClassTable, class_table, label_check
from medsaga.data.samples import build_samples
from medsaga.events import Event, Notice
from medsaga.models.folder import TrainedModel
from medsaga.models.kept_slices import kept_labels
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.strategy import apply_strategy
from medsaga.training.origin import (
    Start,
    choose_canvas,
    start_from_backbone,
    start_from_model,
    why_no_neighbours,
)
from medsaga.training.session import PreviewTarget, Session
from medsaga.training.validation import split_held_out

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from medsaga.data.annotation import Annotation
    from medsaga.data.intensity import IntensityRule
    from medsaga.data.samples import Sample
    from medsaga.data.volume import Volume
    from medsaga.models.card import ModelCard
    from medsaga.models.kept_slices import EarlierSlices, SliceName
    from medsaga.settings.fine_tune import FineTuneSettings
    from medsaga.training.running_time import RunningTime


@dataclass(frozen=True)
class Annotated:
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
    ) -> Annotated:
        """Make the table of the classes, the `earlier` slices' too, and check it.

        Names and colours that are not given are those of the model that goes on.

        Raises
        ------
        MedsagaError
            If there is nothing to learn from.
        """
        if earlier.card is not None:
            names = earlier.card.classes.names_by_value | dict(names or {})
            colours = earlier.card.classes.colours_by_value | dict(colours or {})
        elsewhere = earlier.classes()
        table = class_table(labels, annotation, names, colours, besides=elsewhere)
        notices = [
            annotation.sentence,
            *label_check(labels, annotation, table, elsewhere),
        ]
        return cls(labels, annotation, table, notices)


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """What `fine_tune` was asked for, checked and completed."""

    volumes: Sequence[Volume]
    annotated: Annotated
    rule: IntensityRule
    settings: FineTuneSettings
    start: TrainedModel | Path | str | None
    card: ModelCard | None
    earlier: EarlierSlices
    preview_at: Callable[[], PreviewTarget]
    preview_interval: float
    time: RunningTime

    def load(self) -> Start:
        """Load the network that the training starts from."""
        table = self.annotated.table
        if self.start is None:
            return start_from_backbone(self.settings, len(table))
        return start_from_model(self.start, self.settings, table)

    def corrected(self, samples: Sequence[Sample]) -> list[SliceName]:
        """Name the slices that the model knows with other labels.

        None where nothing was held out: what has trained never is.
        """
        if self.card is None or not self.card.held_out_slices:
            return []
        known: Mapping[SliceName, NDArray[Any]] = {}
        if isinstance(self.start, TrainedModel):
            known = {(s.name, s.slice_index): s.truth for s in self.start.samples}
        elif self.start is not None:
            known = kept_labels(self.start)
        return [
            name
            for sample in samples
            if (name := (sample.name, sample.slice_index)) in known
            and not np.array_equal(known[name], sample.truth)
        ]


def begin(job: Job) -> Generator[Event, None, tuple[Session, Start]]:
    """Load the model, choose working size and number format, cut out the slices."""
    device, settings = pick_device(), job.settings
    table, annotation = job.annotated.table, job.annotated.annotation
    begun = job.load()
    network = begun.network.to(device).to(memory_format=torch.channels_last)
    apply_strategy(network, settings.strategy, settings.seed)
    if settings.stages != "head":
        parameter_groups(network, settings)  # refuses a rank that projects nothing
    canvas = choose_canvas(
        job.card,
        settings,
        network.backbone,
        job.volumes,
        job.annotated.labels,
        annotation,
    )
    if settings.neighbours and not canvas.neighbours:
        yield Notice(message=why_no_neighbours(job.card))
    samples = build_samples(
        job.volumes, job.annotated.labels, annotation, table, job.rule, canvas
    )
    samples += job.earlier.load(table, canvas, job.rule)
    training, held_out = split_held_out(
        samples, len(table), settings.hold_out_from, job.card, job.corrected(samples)
    )
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
        precision=pick_precision(settings.precision, network, device, canvas.long_side),
        preview_at=job.preview_at,
        preview_interval=job.preview_interval,
        time=job.time,
    )
    _record_choices(session, begun, job.card)
    yield Notice(message=_describe_plan(session))
    if begun.report:  # the last, which stays in sight in a window
        yield Notice(message=begun.report)
    return session, begun


def _record_choices(session: Session, begun: Start, card: ModelCard | None) -> None:
    """Put what was chosen, or what a model brings along, into the settings."""
    canvas, stages = session.canvas, session.settings.stages
    session.plan(
        long_side=canvas.long_side,
        neighbours=canvas.neighbours,
        precision=session.precision,
        negatives=choose_negatives(
            session.settings.negatives,
            (*session.training, *session.held_out),
            session.rule,
        ),
    )
    if card is not None:
        session.plan(
            backbone=card.settings["backbone"],
            detail_head=card.detail_head,
            stages=stages if card.detail_head else "galore",
        )
    if begun.knows_classes:
        session.is_usable = True


def _describe_plan(session: Session) -> str:
    settings = session.settings
    if session.held_out:
        held_out = f"{len(session.held_out)} held out to measure on"
    elif len(session.training) < settings.hold_out_from:
        held_out = f"none held out, as there are fewer than {settings.hold_out_from}"
    else:
        held_out = "none held out, as each is needed or has trained the model already"
    neighbours = (
        "seen with the slices below and above, " if session.canvas.neighbours else ""
    )
    return (
        f"{len(session.training)} slices train, {held_out}; {neighbours}long side "
        f"{session.canvas.long_side} pixels, {session.precision} on {session.device}, "
        f"{_describe_length(settings)}."
    )


def _describe_length(settings: FineTuneSettings) -> str:
    if settings.stages != "head":
        return (
            f"{settings.steps} steps"
            if settings.steps
            else f"{settings.minutes:g} minutes"
        )
    if settings.steps:
        return (
            f"the head alone, without the {settings.steps} steps, which are the GaLore "
            "stage's: set stages to both for them"
        )
    return f"the head alone, {settings.minutes:g} minutes"

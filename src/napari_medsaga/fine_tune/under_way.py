"""A training under way in the dock: its job, and the layers that it fills."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Image

from medsaga import FineTuneSettings, MedsagaError, load_card
from medsaga.frontend import ClassTable, read_outline
from napari_medsaga.fine_tune.training import (
    Continuation,
    TrainingRequest,
    TrainingResult,
    continue_training,
    run_training,
)
from napari_medsaga.fine_tune.training_layers import (
    TrainingLayers,
    tell_what_was_kept,
)
from napari_medsaga.jobs.job import Job
from napari_medsaga.layers.convert import shape_of, slice_shown, volume_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari import Viewer
    from napari.layers import Labels

    from medsaga import TrainingData, Volume
    from medsaga.events import Event
    from medsaga.frontend import Interrupted, KnownImage
    from napari_medsaga.fine_tune.annotated.annotation import AnnotationReport
    from napari_medsaga.fine_tune.plan_box import PlanBox

PREVIEW_SECONDS = 3.0


class Cursor:
    """The slice being looked at: written by the GUI thread, read by the training."""

    index = 0

    def target(self) -> tuple[int, int]:
        """Give image and slice, as the training counts them."""
        return 0, self.index

    def follow(self, viewer: Viewer, layers: TrainingLayers) -> None:
        """Note which slice of the training's image the viewer shows."""
        image = layers.image
        is_deep = image.ndim == 3
        self.index = slice_shown(viewer, image, layers.axis) if is_deep else 0


@dataclass(frozen=True, eq=False)
class TrainingUnderWay:
    """A training under way.

    `layers` is None where the image of one that goes on is not open.
    """

    job: Job
    request: TrainingRequest | Continuation
    layers: TrainingLayers | None
    settings: FineTuneSettings
    classes: ClassTable

    def show(self, event: Event) -> None:
        """Show in the layers what the engine has predicted."""
        if self.layers is not None:
            self.layers.show(event)

    def end(self) -> None:
        """Take the preview away."""
        if self.layers is not None:
            self.layers.end()

    def remember(self, value: TrainingResult) -> Labels | None:
        """Remember what was written, for corrections, and give its layer, if any."""
        return None if self.layers is None else self.layers.remember(value)

    def abandon(self) -> None:
        """Stop it, as its dock was closed, and say what was kept of it."""
        # A bound method would not keep the layers alive, and nobody else does any more.
        self.job.ended.connect(partial(_on_abandoned_ended, self))
        self.job.stop()
        self.end()


def _on_abandoned_ended(training: TrainingUnderWay, status: str, value: Any) -> None:
    if isinstance(value, TrainingResult):
        training.remember(value)
    tell_what_was_kept(status, value)


def class_table_of(report: AnnotationReport, colours: Mapping[int, str]) -> ClassTable:
    """Make the table of the classes that are painted, in the layer's colours."""
    return ClassTable(
        values=(0, *(c.value for c in report.counts)),
        names=("background", *(c.name for c in report.counts)),
        colours=(None, *(colours.get(c.value) for c in report.counts)),
    )


def make_request(
    data: TrainingData,
    settings: FineTuneSettings,
    plan: PlanBox,
    cursor: Cursor,
    *,
    name: str,
    segments: bool,
) -> TrainingRequest:
    """Put together what a new training needs.

    Raises
    ------
    MedsagaError
        If slices that are kept with a model are to train without it.
    """
    if data.earlier and not plan.follows_prediction:
        raise MedsagaError(
            "The slices that are kept with a model train only together with it: "
            "choose it under Start from, or untick them."
        )
    return TrainingRequest(
        data=data,
        settings=settings,
        start=plan.origin_model(),
        preview_at=cursor.target,
        preview_interval=PREVIEW_SECONDS,
        model_name=name,
        segments=segments,
    )


def begin_training(
    viewer: Viewer,
    image: Image,
    labels: Labels,
    report: AnnotationReport,
    request: TrainingRequest,
) -> TrainingUnderWay:
    """Make the job of a new training; it is not started."""
    table = class_table_of(report, request.data.class_colours or {})
    layers = TrainingLayers(
        viewer,
        image,
        request.image,
        table,
        report.axis,
        like=labels,
        is_sparse=request.settings.sparse,
    )
    job = Job(partial(run_training, request), f"fine-tuning on {image.name}")
    return TrainingUnderWay(job, request, layers, request.settings, table)


def continue_interrupted(
    viewer: Viewer, cursor: Cursor, entry: Interrupted, *, segments: bool
) -> TrainingUnderWay:
    """Make the job of a training that goes on; it is not started.

    Raises
    ------
    MedsagaError
        If the training cannot be read.
    """
    layers, volume = None, None
    if entry.model is not None:  # all that is left to do is to save it
        card = load_card(entry.model)
        settings, classes = FineTuneSettings(**card.settings), card.classes
    else:
        outline = read_outline(entry.folder)
        settings, classes = outline.settings, outline.classes
        found = _find_image(viewer, outline.images[0]) if outline.images else None
        if found is not None:
            image, volume = found
            layers = TrainingLayers(
                viewer, image, volume, classes, outline.axis, is_sparse=settings.sparse
            )
    continuation = Continuation(
        entry=entry,
        image=volume,
        preview_at=cursor.target,
        preview_interval=PREVIEW_SECONDS,
        segments=segments,
    )
    job = Job(partial(continue_training, continuation), f"fine-tuning {entry.name}")
    return TrainingUnderWay(job, continuation, layers, settings, classes)


def _find_image(viewer: Viewer, known: KnownImage) -> tuple[Image, Volume] | None:
    """Find the layer of an image, whatever it is called now."""
    images = [layer for layer in viewer.layers if isinstance(layer, Image)]
    for layer in images:
        if known.shape[-layer.ndim :] != shape_of(layer):
            continue
        try:
            volume = volume_of(layer)
        except MedsagaError:
            continue
        if volume.fingerprint == known.fingerprint:
            return layer, volume
    return None

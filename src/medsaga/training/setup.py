"""What is decided before the first step of a training, and then stays as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from medsaga.computing import autocast, peak_memory, pick_device, pick_precision
from medsaga.data.augment import Augmenter, choose_negatives
from medsaga.data.canvas import choose_canvas
from medsaga.data.held_out import split_held_out
from medsaga.data.pairs import forget_slices
from medsaga.data.samples import build_samples, whole_slices
from medsaga.data.survey import finest_width
from medsaga.events import Event, Notice, Progress
from medsaga.propagation.paint import Paint
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.strategy import apply_strategy
from medsaga.training.origin import load_network
from medsaga.training.paint_context.agreed import find_neighbours
from medsaga.training.paint_context.painted_images import PaintedImages
from medsaga.training.plan.memory import describe_memory, plan_step
from medsaga.training.ranks import ALONE, Ranks
from medsaga.training.setup_notices import describe_setup, explain_canvas
from medsaga.windows import view_size

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from medsaga.computing import FixedPrecision
    from medsaga.data.canvas import Canvas
    from medsaga.data.classes import ClassTable
    from medsaga.data.intensity import IntensityRule
    from medsaga.data.samples import Sample
    from medsaga.data.volume import Volume
    from medsaga.events import Stage
    from medsaga.models.run_record import RunRecord
    from medsaga.network.backbones.base import Backbone
    from medsaga.network.medsaga import MedSAGa
    from medsaga.settings.fine_tune import FineTuneSettings
    from medsaga.training.origin import Origin
    from medsaga.training.paint_context.agreed import Neighbour
    from medsaga.training.request import Request
    from medsaga.windows import Size


@dataclass(frozen=True, eq=False, kw_only=True)
class Setup:
    """All of a training that no step changes.

    Attributes
    ----------
    origin
        What the network was before.
    training, held_out
        The slices that train, and those that are there to measure on.
    images
        Those that previews may show.
    table, rule, canvas, axis
        Classes, intensities, working size, and the axis that is sliced along.
    settings
        As asked for, and with what was chosen from the data and the computer. What is
        planned from minutes is in the :class:`~medsaga.training.state.Plan`.
    record
        What the training was given.
    device, precision
        What computes, and in which number format.
    kept_neighbours
        The neighbours of a training that goes on, whose images may not be there.
    ranks
        The processes that share the steps.
    """

    origin: Origin
    training: Sequence[Sample]
    held_out: Sequence[Sample]
    images: Sequence[Volume]
    table: ClassTable
    rule: IntensityRule
    canvas: Canvas
    axis: int
    settings: FineTuneSettings
    record: RunRecord
    device: torch.device
    precision: FixedPrecision
    kept_neighbours: Sequence[Neighbour] | None = None
    ranks: Ranks = ALONE

    @cached_property
    def neighbours(self) -> Sequence[Neighbour]:
        """Slices beside those that train, with the paint that is carried to them."""
        kept = self.kept_neighbours
        return find_neighbours(self) if kept is None else kept

    @cached_property
    def image_numbers(self) -> Mapping[str, int]:
        """The number of each image by its fingerprint."""
        return {image.fingerprint: n for n, image in enumerate(self.images)}

    @cached_property
    def painted(self) -> PaintedImages:
        """What is painted, of the images that previews may show."""
        slices = whole_slices((*self.training, *self.held_out))
        values = self.table.values[1:]
        paints = {
            number: Paint.of_slices(slices, image, self.axis, values)
            for image, number in self.image_numbers.items()
        }
        return PaintedImages(self.images, paints, self.rule)

    @property
    def judged(self) -> Sequence[Sample]:
        """The slices that scores are measured on: held out, or else the training's."""
        return self.held_out or self.training

    def head_progress(
        self, stage: Stage, done: tuple[int, int], loss: float, seconds_left: float
    ) -> Progress:
        """Say how far a fit of heads is; `done` are its steps so far and in all."""
        return Progress(
            stage=stage,
            step=done[0],
            total=done[1],
            loss=loss,
            learning_rate=self.settings.head_fit_lr,
            seconds_left=seconds_left,
            peak_memory=peak_memory(self.device),
        )

    def augmenter(self) -> Augmenter:
        """Make the augmentation of this training."""
        return Augmenter(self.settings, self.settings.seed, self.canvas.tile)

    def to_device(self, images: Tensor) -> Tensor:
        """Move an image batch to the network, in the fastest memory format."""
        return images.to(self.device, memory_format=torch.channels_last)

    def autocast(self) -> AbstractContextManager[None]:
        """Compute in this training's number format."""
        return autocast(self.device, self.precision)


def set_up(
    request: Request, ranks: Ranks = ALONE
) -> Generator[Event, None, tuple[Setup, MedSAGa]]:
    """Load the model, choose working size and number format, cut out the slices.

    `ranks` are the processes that share the steps.

    Yields
    ------
    Notice
        What was chosen.

    Returns
    -------
    tuple of Setup and MedSAGa
        The network is on its device, and knows which of its parameters learn.
    """
    device, settings = pick_device(), request.settings
    network, origin = load_network(request.start, settings, request.table)
    network = network.to(device).to(memory_format=torch.channels_last)
    apply_strategy(network, settings.strategy, settings.seed)
    if settings.stages != "head":
        parameter_groups(network, settings)  # refuses a rank that projects nothing
    canvas = _choose_canvas(request, network.backbone)
    for message in explain_canvas(settings, canvas, request.card):
        yield Notice(message=message)
    samples = _cut_out(request, canvas)
    before, trained = request.known_slices(samples)
    training, held_out = split_held_out(
        samples,
        len(request.table),
        settings.hold_out_from,
        before=before,
        trained=trained,
    )
    side = canvas.tile or canvas.long_side
    precision = pick_precision(settings.precision, network, device, side)
    chosen = _chosen(request, canvas, precision, samples)
    share = replace(chosen, batch_size=chosen.batch_size // ranks.size)
    plan = None
    if chosen.stages != "head":
        largest = _largest_view(samples, canvas)
        plan = plan_step(network, share, largest, precision, device)
        in_all = plan.batch_size * ranks.size
        chosen = replace(plan.complete(chosen), batch_size=in_all)
    setup = Setup(
        origin=origin,
        training=training,
        held_out=held_out,
        images=request.volumes,
        table=request.table,
        rule=request.rule,
        canvas=canvas,
        axis=request.annotation.axis,
        settings=chosen,
        record=request.record,
        device=device,
        precision=precision,
        ranks=ranks,
    )
    yield Notice(message=describe_setup(setup))
    if plan is not None:
        yield Notice(message=describe_memory(plan, share))
    if origin.report:  # the last, which stays in sight in a window
        yield Notice(message=origin.report)
    return setup, network


def _choose_canvas(request: Request, backbone: Backbone) -> Canvas:
    """Choose the working size: as asked for, as before, or from images and labels.

    A model that was trained keeps to what it saw: neighbours or none.
    """
    card, settings, volumes = request.card, request.settings, request.volumes
    if card is not None and not settings.long_side:
        return card.canvas
    axis = request.annotation.axis
    neighbours = settings.neighbours and _have_neighbours(volumes, axis)
    if card is not None:
        neighbours = card.canvas.neighbours
    sizes = [
        (volumes[v].slice_shape(axis), volumes[v].slice_spacing(axis))
        for v, _ in request.annotation.slices
    ]
    return choose_canvas(
        sizes,
        settings,
        backbone.size_multiple,
        backbone.embedding.stride,
        finest_width(volumes, request.labels, request.annotation),
        neighbours=neighbours,
    )


def _have_neighbours(volumes: Sequence[Volume], axis: int) -> bool:
    is_deep = any(volume.shape[axis] > 1 for volume in volumes)
    return is_deep and not any(volume.is_rgb for volume in volumes)


def _cut_out(request: Request, canvas: Canvas) -> list[Sample]:
    """Make samples of the annotated slices, and of those kept with an earlier model."""
    samples = build_samples(
        request.volumes,
        request.labels,
        request.annotation,
        request.table,
        request.rule,
        canvas,
    )
    forget_slices([*request.volumes, *request.labels])
    return samples + request.earlier_samples(canvas)


def _largest_view(samples: Sequence[Sample], canvas: Canvas) -> Size:
    """Give the size of the most that the network sees at once."""
    views = [view_size(sample.padded, canvas.tile) for sample in samples]
    return max(views, key=math.prod)


def _chosen(
    request: Request,
    canvas: Canvas,
    precision: FixedPrecision,
    samples: Sequence[Sample],
) -> FineTuneSettings:
    """Put what was chosen, or what a model brings along, into the settings."""
    settings = replace(
        request.settings,
        long_side=0 if canvas.tile else canvas.long_side,
        neighbours=canvas.neighbours,
        precision=precision,
        threads=torch.get_num_threads(),
        negatives=choose_negatives(request.settings.negatives, samples, request.rule),
    )
    card = request.card
    if card is None:
        return settings
    return replace(
        settings,
        backbone=card.settings["backbone"],
        detail_head=card.detail_head,
        stages=settings.stages if card.detail_head else "galore",
    )

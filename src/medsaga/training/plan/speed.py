"""How fast this computer trains and segments, and what a training will take."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from medsaga.computing import autocast, computing_threads, pick_device, pick_precision
from medsaga.data.canvas import choose_canvas
from medsaga.events import Notice, Stream
from medsaga.network.inference import predict_image
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.layerwise import LayerwiseOptimizer
from medsaga.training.optim.losses import SegmentationLoss
from medsaga.training.origin import load_backbone
from medsaga.training.plan.steps import SLOWDOWN, planned_steps
from medsaga.windows import WorkingImage, view_size, windows

if TYPE_CHECKING:
    from medsaga.data.canvas import Canvas
    from medsaga.data.volume import Volume
    from medsaga.settings.fine_tune import FineTuneSettings

_SIDE = 128
_STEPS = 3
_SECONDS_TO_START = 6.0
# What the views and fits of the head and the scores take, in steps as measured: with
# LiteMedSAM it was the time of 10 to 35 on two computers of very different speed.
_STEPS_WORTH_OF_HEAD, _LARGEST_SHARE_OF_HEAD = 26, 0.65
# A first preview stands by then, unless the few views that it needs, and what else is
# computed before it, take longer: as long as the prediction of so many slices.
_SECONDS_TO_PREVIEW, _SLICES_BEFORE_PREVIEW = 10.0, 16


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a step and a slice take with one backbone at one size.

    Attributes
    ----------
    backbone
        Its name.
    batch_size, side
        Slices in a step, and rows and columns of each.
    multiple, stride
        The backbone's: what sizes are multiples of, and its embedding's stride.
    seconds_per_step, seconds_per_slice
        Of a training step of all of the model, and of the prediction of one slice.
    """

    backbone: str
    batch_size: int
    side: int
    multiple: int
    stride: int
    seconds_per_step: float
    seconds_per_slice: float


@dataclass(frozen=True, kw_only=True)
class TimeEstimate:
    """What a training will take, and the segmentation after it.

    `steps` are those of the GaLore stage: none where the head is trained alone. The
    first preview is that of the head stage, with LiteMedSAM.
    """

    steps: int
    seconds_per_step: float
    seconds_to_preview: float
    seconds: float
    seconds_to_segment: float


def measure_speed(settings: FineTuneSettings) -> Stream[Speed]:
    """Take a few steps of a training of the backbone, on noise; some seconds.

    Nothing of it is kept. Close the stream to end it early.

    Yields
    ------
    Notice
        Before each step.

    Raises
    ------
    MedsagaError
        If the backbone's weights are not there.
    """
    device = pick_device()
    network, _ = load_backbone(settings, 2)
    network = network.to(device).to(memory_format=torch.channels_last)
    stride = network.backbone.embedding.stride
    side = _SIDE * max(1, stride // 4)
    with computing_threads():
        precision = pick_precision(settings.precision, network, device, side)
        loss_of = SegmentationLoss(settings.loss_dice_weight)
        optimizer = LayerwiseOptimizer(parameter_groups(network, settings))
        images = torch.rand(settings.batch_size, 3, side, side, device=device)
        images = images.to(memory_format=torch.channels_last)
        targets = (images[:, 0] > 0.5).long()
        taken: list[float] = []
        network.train()
        with optimizer:
            for step in range(_STEPS):
                yield Notice(message=f"Measuring a step ({step + 1} of {_STEPS}).")
                started = time.monotonic()
                with autocast(device, precision):
                    logits = network(images)
                with optimizer.step():
                    loss_of(logits, targets).backward()
                _wait_for(device)
                taken.append(time.monotonic() - started)
        network.eval()
        seen = WorkingImage(
            image=images[0].cpu(), content=(side, side), size=(side, side)
        )
        for _ in range(2):
            started = time.monotonic()
            predict_image(network, seen, precision)
            _wait_for(device)
            seconds_per_slice = time.monotonic() - started
    return Speed(
        backbone=settings.backbone,
        batch_size=settings.batch_size,
        side=side,
        multiple=network.backbone.size_multiple,
        stride=stride,
        # The first step compiles kernels; a busy moment of the computer is left out.
        seconds_per_step=min(taken[1:]),
        seconds_per_slice=seconds_per_slice,
    )


def estimate_time(
    speed: Speed,
    settings: FineTuneSettings,
    image: Volume,
    axis: int,
    finest: float | None = None,
    canvas: Canvas | None = None,
) -> TimeEstimate:
    """Estimate what a training on slices of `image` takes, in proportion to its pixels.

    Parameters
    ----------
    speed
        Measured with the same backbone.
    settings
        Of the training.
    image, axis
        Its slices across `axis` train and are segmented.
    finest
        What :func:`finest_width` gives for what is painted, which the working size
        depends on; None where it is not known.
    canvas
        What a model to continue from works at; None chooses it as a training does.
    """
    rows, cols = image.slice_shape(axis)
    spacing = image.slice_spacing(axis)
    if canvas is None:
        slices = [((rows, cols), spacing)]
        canvas = choose_canvas(slices, settings, speed.multiple, speed.stride, finest)
    padded = canvas.padded_shape(rows, cols, spacing)
    height, width = view_size(padded, canvas.tile)
    part = height * width / speed.side**2
    per_step = speed.seconds_per_step * part * settings.batch_size / speed.batch_size
    n_views = len(windows(padded, padded, canvas.tile))
    per_view = speed.seconds_per_slice * part
    to_preview = _SECONDS_TO_START + _SLICES_BEFORE_PREVIEW * per_view
    steps, seconds = _estimate_training(settings, speed, per_step)
    return TimeEstimate(
        steps=steps,
        seconds_per_step=per_step,
        seconds_to_preview=max(_SECONDS_TO_PREVIEW, to_preview),
        seconds=seconds,
        seconds_to_segment=image.shape[axis] * n_views * per_view,
    )


def _estimate_training(
    settings: FineTuneSettings, speed: Speed, per_step: float
) -> tuple[int, float]:
    """Return the steps of the GaLore stage and the seconds of the whole training."""
    whole = settings.minutes * 60
    if settings.stages == "head":  # it fills its minutes with views and its fit
        return 0, whole
    beside = _SECONDS_TO_START
    if settings.stages == "both":
        of_head = _STEPS_WORTH_OF_HEAD * speed.seconds_per_step
        beside += min(of_head, _LARGEST_SHARE_OF_HEAD * whole)
    steps = settings.steps or planned_steps(settings, whole - beside, per_step)
    return steps, beside + steps * per_step * SLOWDOWN


def _wait_for(device: torch.device) -> None:
    """Wait until a GPU is done, which computes on after a call has returned."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

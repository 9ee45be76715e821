"""The sentence that says, before a training, what it will use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsaga import frontend, preset
from medsaga.frontend import count, duration

if TYPE_CHECKING:
    from medsaga import FineTuneSettings
    from medsaga.frontend import Speed, TimeEstimate
    from napari_medsaga.fine_tune.annotation import AnnotationReport


def describe_plan(
    computer: str,
    settings: FineTuneSettings,
    speed: Speed | None,
    report: AnnotationReport | None,
    *,
    segments: bool,
) -> str:
    """Say what a training computes on, how long it takes, and the segmentation after.

    Parameters
    ----------
    computer
        Device, cores and free memory; empty while they are not known.
    settings
        Of the training, with what a model to continue from brings along.
    speed
        As measured here, None before that.
    report
        What is trained on, None where that is not known.
    segments
        Whether the whole volume is segmented when done.
    """
    if not computer:
        return "Getting ready (the first time takes some seconds)…"
    planned = duration(settings.minutes * 60)
    if speed is None or speed.backbone != settings.backbone or report is None:
        if settings.steps and settings.stages != "head":
            return f"{computer}: {settings.steps} steps; the first tells the time."
        return f"{computer}: trained in about {planned}."
    image, axis = report.image, report.axis
    estimate = frontend.estimate_time(speed, settings, image, axis, report.finest)
    trained = planned
    if settings.steps or estimate.seconds < settings.minutes * 60:
        trained = duration(estimate.seconds)
    steps = f" ({estimate.steps} steps of {estimate.seconds_per_step:.2g} s)"
    sentence = f"{computer}: {_preview(settings, estimate)}trained in about {trained}"
    sentence += steps if estimate.steps else ""
    if segments:
        n = image.shape[axis]
        needed = duration(max(1, estimate.seconds_to_segment))
        sentence += f", {count(n, 'slice')} segmented in {needed} more"
    return f"{sentence}."


def _preview(settings: FineTuneSettings, estimate: TimeEstimate) -> str:
    """Say when a first preview stands, of which SAM's own models' was not measured."""
    is_measured = settings.backbone == preset("balanced").backbone
    if not is_measured or settings.stages == "galore":
        return ""
    return f"preview in {duration(estimate.seconds_to_preview)}, "

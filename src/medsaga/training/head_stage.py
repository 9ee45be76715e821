"""The head stage: the detail head fitted on pixels of the frozen backbone."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from medsaga.computing import peak_memory
from medsaga.events import Event, Preview, Progress, Stage, Stop, Validated
from medsaga.training.optim.averaging import BestWeights, WeightAverage
from medsaga.training.outcome import comparable_dice, keep_better
from medsaga.training.plan.head import (
    FEWEST_VIEWS,
    has_the_whole_time,
    is_of_one_image,
    plan_fit,
    plan_views,
    refits_head,
)
from medsaga.training.sampled_pixels import SampledPixels, features_at, start_fit
from medsaga.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Generator

    from medsaga.network.detail_head import PixelFit
    from medsaga.training.session import Session

# A first look, so that a preview stands within ten seconds of the call: a fit on the
# views so far or, where they are nearly done, the fit on all of them as far as it is.
_LOOK_AT, _LOOK_AT_FIT, _LOOK_STEPS = 5.0, 8.5, 300
_LOOK_SECONDS, _FEWEST_LOOK_STEPS = 1.5, 50
_NEARLY_DONE_SECONDS = 1.5
# Where the head is fitted anew in the end, the first fit is but there to start from and
# takes a part of the views and steps.
_FIRST_SHARE = 1 / 3


def run_head_stage(session: Session) -> Generator[Event, None, None]:
    """Fit the detail head and the decoder's linear map; yields progress and previews.

    Features of single pixels are sampled from augmented views of each slice and kept
    in bf16; whole pyramids never are. If all this takes long, a first preview comes
    before its end, of which nothing remains in what is fitted.
    """
    plan_views(session)
    total = session.settings.head_views
    part = _FIRST_SHARE if refits_head(session.settings) else 1.0
    n_views = max(round(part * total), min(len(session.training), total))
    pixels = yield from _sample_views(session, n_views)
    fit = start_fit(session, *pixels.sampled())  # seconds, where there are many pixels
    plan_fit(session)
    yield from _fit(session, fit, part)


def rerun_head_stage(session: Session) -> Generator[Event, None, Validated]:
    """Fit the head of a trained model anew, unless that makes it clearly worse.

    A :class:`~medsaga.events.Stop` ends it early and in order. Returns how well what
    is kept segments.
    """
    best = BestWeights(session.network)
    start = validate(session, 0)
    best.offer(start)
    yield start
    dice_at_start = comparable_dice(session, start)
    with suppress(Stop):
        yield from run_head_stage(session)
    return (yield from keep_better(session, best, dice_at_start, is_averaged=True))


def refit_head(session: Session) -> Generator[Event, None, None]:
    """Fit the head anew to what the backbone's features have become.

    In few steps the encoder moves away from the head faster than the head can follow,
    and what it has learned shows only once a head is fitted to it.
    """
    pixels = yield from _sample_views(session, session.settings.head_views)
    yield from _fit(session, start_fit(session, *pixels.sampled()))


def _look(
    session: Session, pixels: SampledPixels, reached: Progress
) -> Generator[Event, None, None]:
    """Fit on half of the pixels so far, which it copies; repeats where sampling is."""
    features, targets = pixels.sampled()
    fit = start_fit(session, features[::2].clone(), targets[::2])
    started = time.monotonic()
    for step in range(_LOOK_STEPS):
        fit.step()
        if step % 20 == 0:
            yield reached
        is_late = time.monotonic() - started >= _LOOK_SECONDS
        if is_late and step >= _FEWEST_LOOK_STEPS:
            break
    yield _use(session, fit)


def _use(session: Session, fit: PixelFit) -> Preview:
    """Write a fit into the network, and show what it gives."""
    _write(session, fit)
    return session.preview("head")


def _write(session: Session, fit: PixelFit) -> None:
    head = session.network.detail_head
    assert head is not None
    session.network.decoder.start_from_linear_map(fit.write_to(head))
    session.is_usable = True


def _fit(
    session: Session, fit: PixelFit, part: float = 1.0
) -> Generator[Event, None, None]:
    """Take a part of the planned steps of a fit, and use what it gives."""
    average, is_averaged = WeightAverage(fit.layers), is_of_one_image(session)
    started = session.seconds
    total = math.ceil(part * session.settings.head_steps)
    step = 0
    try:
        for step in range(1, total + 1):
            loss = fit.step()
            if is_averaged and step > total / 2:
                average.update()
            per_step = (session.seconds - started) / step
            if step % 20 == 0 or step == total:
                left = per_step * (total - step)
                yield _progress(session, "head", step, total, loss, left)
            if step % 10 == 0 and _is_preview_due(session, step):
                yield _use(session, fit)
    except Stop:
        if step >= _LOOK_STEPS:  # it is better than what the first look gave
            average.write()
            _write(session, fit)
        raise
    session.seconds_per_fit_step = per_step
    average.write()
    yield _use(session, fit)


def _is_preview_due(session: Session, step: int) -> bool:
    """Whether to show a fit on its way: the first one, and those of a long fit.

    A young fit must not take the place of what is better.
    """
    if not session.is_usable:
        return step >= _FEWEST_LOOK_STEPS and session.seconds >= _LOOK_AT_FIT
    is_long = has_the_whole_time(session.settings)
    return is_long and step >= _LOOK_STEPS and session.is_preview_due


def _sample_views(
    session: Session, total: int
) -> Generator[Event, None, SampledPixels]:
    """Sample pixels' features from views: each slice as it is, then augmented ones."""
    pixels = SampledPixels(session, total)
    session.plan(feature_cache_mb=pixels.quota.budget_mb)
    order = np.random.default_rng(session.settings.seed).permutation(
        len(session.training)
    )
    augment = session.augmenter()
    seconds = 0.0  # without what lies between the views
    for view in range(total):
        started = time.monotonic()
        sample = session.training[order[view % len(order)]]
        image, target = sample.image, sample.target
        if view >= len(order):
            image, target = augment(image, sample.labels, view, sample.content)
        points = pixels.quota.draw(target, view)
        if len(points):  # a few strokes may all have moved out of the view
            of_points = target[points[:, 0], points[:, 1]]
            pixels.add(features_at(session, image, points), of_points)
        seconds += time.monotonic() - started
        left = seconds / (view + 1) * (total - view - 1)
        reached = _progress(session, "features", view + 1, total, math.nan, left)
        yield reached
        is_due = view + 1 >= FEWEST_VIEWS and session.seconds >= _LOOK_AT
        if is_due and not session.is_usable and left > _NEARLY_DONE_SECONDS:
            yield from _look(session, pixels, reached)
    session.seconds_per_view = seconds / total
    return pixels


def _progress(
    session: Session,
    stage: Stage,
    step: int,
    total: int,
    loss: float,
    seconds_left: float,
) -> Progress:
    return Progress(
        stage=stage,
        step=step,
        total=total,
        loss=loss,
        learning_rate=session.settings.head_fit_lr,
        seconds_left=seconds_left,
        peak_memory=peak_memory(session.device),
    )

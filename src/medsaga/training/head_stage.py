"""The head stage: the detail head fitted on pixels of the frozen backbone."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medsaga.computing import peak_memory
from medsaga.detail_head import PixelFit
from medsaga.events import Event, Preview, Progress, Stage, Stop, Validated
from medsaga.training.averaging import BestWeights, WeightAverage
from medsaga.training.outcome import keep_better
from medsaga.training.sampled_pixels import (
    SampledPixels,
    feature_channels,
    features_at,
)
from medsaga.training.strategy import STRATEGIES
from medsaga.training.validation import validate, validated_slices

if TYPE_CHECKING:
    from collections.abc import Generator

    from medsaga.settings import FineTuneSettings
    from medsaga.training.session import Session

_VIEWS_PER_SLICE = 12
_MOST_VIEWS_PER_SLICE = 40  # when the head stage has the whole time
_FEWEST_VIEWS = 4
# Views and fit have this long, or this part of the training. Where a computer is slow,
# views are worth more than steps of the GaLore stage, of which it has too few.
_VIEW_SECONDS, _VIEW_SHARE = 6.0, 0.25
_FIT_SECONDS, _FIT_SHARE = 6.0, 0.1
_FIT_STEPS_PER_VIEW = 10
_FIT_STEPS, _FEWEST_FIT_STEPS, _MEASURED_FIT_STEPS = 600, 200, 10
# The settings' bounds, which a GPU and thousands of slices would cross.
_MOST_FIT_STEPS, _MOST_VIEWS = 100_000, 100_000
# Slices of one image are worth a close fit: twice the steps, and the mean of the later
# half's weights, are 0.006 Dice more on its other slices. For other people's images a
# close fit is worse: 15 steps for each view in place of 10 are 0.06 less.
_FIT_SHARE_OF_ONE, _FIT_STEPS_OF_ONE = 0.2, 1200
_MEASURED_PIXELS = 1024
# A first look, so that a preview stands within ten seconds of the call: a fit on the
# views so far or, where they are nearly done, the fit on all of them as far as it is.
_LOOK_AT, _LOOK_AT_FIT, _LOOK_STEPS = 5.0, 8.5, 300
_LOOK_SECONDS, _FEWEST_LOOK_STEPS = 1.5, 50
_NEARLY_DONE_SECONDS = 1.5
# Where the head is fitted anew in the end, the first fit is but there to start from and
# takes a part of the views and steps. Measured on the last one: five slices of as many
# people lose up to 0.05 Dice with fewer views, those of one image nothing.
_FIRST_SHARE = 1 / 3
_MOST_REFIT_VIEWS, _MOST_REFIT_VIEWS_OF_ONE = 60, 20


def run_head_stage(session: Session) -> Generator[Event, None, None]:
    """Fit the detail head and the decoder's linear map; yields progress and previews.

    Features of single pixels are sampled from augmented views of each slice and kept
    in bf16; whole pyramids never are. If all this takes long, a first preview comes
    before its end, of which nothing remains in what is fitted.
    """
    _plan_views(session)
    total = session.settings.head_views
    part = _FIRST_SHARE if refits_head(session.settings) else 1.0
    n_views = max(round(part * total), min(len(session.training), total))
    pixels = yield from _sample_views(session, n_views)
    _plan_fit(session)
    yield from _fit(session, pixels, part)


def rerun_head_stage(session: Session) -> Generator[Event, None, Validated]:
    """Fit the head of a trained model anew, unless that makes it clearly worse.

    A :class:`~medsaga.events.Stop` ends it early and in order. Returns how well what
    is kept segments.
    """
    best = BestWeights(session.network)
    start = validate(session, 0)
    best.offer(start)
    yield start
    with suppress(Stop):
        yield from run_head_stage(session)
    return (yield from keep_better(session, best, start.mean_dice, is_averaged=True))


def refits_head(settings: FineTuneSettings) -> bool:
    """Whether the head is fitted anew in the end, since the encoder has moved."""
    is_frozen = STRATEGIES[settings.strategy].freezes_encoder
    return settings.refit_head and settings.stages == "both" and not is_frozen


def plan_refit(session: Session) -> float:
    """Plan :func:`refit_head` if nothing has, and return the seconds that it takes."""
    _plan_views(session)
    _plan_fit(session)
    views = session.settings.head_views * _time_view(session)
    fit = session.settings.head_steps * _time_fit_step(session)
    return views + fit


def refit_head(session: Session) -> Generator[Event, None, None]:
    """Fit the head anew to what the backbone's features have become.

    In few steps the encoder moves away from the head faster than the head can follow,
    and what it has learned shows only once a head is fitted to it.
    """
    pixels = yield from _sample_views(session, session.settings.head_views)
    yield from _fit(session, pixels)


def _look(
    session: Session, pixels: SampledPixels, reached: Progress
) -> Generator[Event, None, None]:
    """Fit on half of the pixels so far, which it copies; repeats where sampling is."""
    features, targets = pixels.sampled()
    fit = _start_fit(session, features[::2].clone(), targets[::2])
    started = time.monotonic()
    for step in range(_LOOK_STEPS):
        fit.step()
        if step % 20 == 0:
            yield reached
        is_late = time.monotonic() - started >= _LOOK_SECONDS
        if is_late and step >= _FEWEST_LOOK_STEPS:
            break
    yield _use(session, fit)


def _start_fit(session: Session, features: Tensor, targets: Tensor) -> PixelFit:
    return PixelFit(
        features,
        targets,
        channels=feature_channels(session),
        n_classes=session.network.n_classes,
        learning_rate=session.settings.head_fit_lr,
        seed=session.settings.seed,
    )


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
    session: Session, pixels: SampledPixels, part: float = 1.0
) -> Generator[Event, None, None]:
    """Fit for a part of the planned steps, and use what it gives."""
    fit = _start_fit(session, *pixels.sampled())
    average, is_averaged = WeightAverage(fit.layers), _is_of_one_image(session)
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
            may_look = step >= _FEWEST_LOOK_STEPS and step % 10 == 0
            if may_look and _is_preview_due(session):
                yield _use(session, fit)
    except Stop:
        if step >= _LOOK_STEPS:  # it is better than what the first look gave
            average.write()
            _write(session, fit)
        raise
    session.seconds_per_fit_step = per_step
    average.write()
    yield _use(session, fit)


def _is_preview_due(session: Session) -> bool:
    """Whether to show a fit on its way: the first one, and those of a long fit."""
    if not session.is_usable:
        return session.seconds >= _LOOK_AT_FIT
    return _has_the_whole_time(session.settings) and session.is_preview_due


def _plan_fit(session: Session) -> None:
    """Plan as many steps of the fit as the time allows, unless they are known."""
    if not session.settings.head_steps:
        session.plan(head_steps=_affordable_fit_steps(session))


def _time_fit_step(session: Session) -> float:
    """Return the seconds that a step of a fit takes; before the first, on noise."""
    if not session.seconds_per_fit_step:
        noise = torch.rand(
            _MEASURED_PIXELS,
            sum(feature_channels(session)),
            generator=torch.Generator().manual_seed(0),
        ).to(session.device)
        classes = torch.zeros(_MEASURED_PIXELS, dtype=torch.long, device=session.device)
        fit = _start_fit(session, noise, classes)
        fit.step()  # the first one starts what computes, on a GPU for seconds
        started = time.monotonic()
        for _ in range(_MEASURED_FIT_STEPS):
            fit.step()
        seconds = time.monotonic() - started
        session.seconds_per_fit_step = seconds / _MEASURED_FIT_STEPS
    return session.seconds_per_fit_step


def _affordable_fit_steps(session: Session) -> int:
    """Give the usual number of steps, fewer on a slow computer.

    A head that has the whole time fills it, but for the last score.
    """
    settings = session.settings
    if _has_the_whole_time(settings):
        to_score = len(validated_slices(session)) * _time_view(session)
        left = session.seconds_left - to_score
        affordable = int(left / _time_fit_step(session))
        return max(_FEWEST_FIT_STEPS, min(_MOST_FIT_STEPS, affordable))
    is_of_one = _is_of_one_image(session)
    share = _FIT_SHARE_OF_ONE if is_of_one else _FIT_SHARE
    allowed = max(_FIT_SECONDS, share * settings.minutes * 60)
    enough = _FIT_STEPS_OF_ONE if is_of_one else _FIT_STEPS
    usual = max(enough, _FIT_STEPS_PER_VIEW * settings.head_views)
    affordable = max(_FEWEST_FIT_STEPS, int(allowed / _time_fit_step(session)))
    return min(usual, affordable, _MOST_FIT_STEPS)


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
            image, target = augment(image, target, view, sample.content)
        points = pixels.quota.draw(target, view)
        if len(points):  # a few strokes may all have moved out of the view
            of_points = target[points[:, 0], points[:, 1]]
            pixels.add(features_at(session, image, points), of_points)
        seconds += time.monotonic() - started
        left = seconds / (view + 1) * (total - view - 1)
        reached = _progress(session, "features", view + 1, total, math.nan, left)
        yield reached
        is_due = view + 1 >= _FEWEST_VIEWS and session.seconds >= _LOOK_AT
        if is_due and not session.is_usable and left > _NEARLY_DONE_SECONDS:
            yield from _look(session, pixels, reached)
    session.seconds_per_view = seconds / total
    return pixels


def _plan_views(session: Session) -> None:
    """Plan as many views as the time allows, unless they are known."""
    if not session.settings.head_views:
        session.plan(head_views=_affordable_views(session))


def _time_view(session: Session) -> float:
    """Return the seconds that the features of a view take; measured once."""
    if not session.seconds_per_view:
        image, point = session.training[0].image, torch.zeros(1, 2, dtype=torch.long)
        features_at(session, image, point)  # the first one compiles kernels
        started = time.monotonic()
        features_at(session, image, point)
        session.seconds_per_view = time.monotonic() - started
    return session.seconds_per_view


def _affordable_views(session: Session) -> int:
    settings, n_slices = session.settings, len(session.training)
    per_slice = _VIEWS_PER_SLICE
    allowed = max(_VIEW_SECONDS, _VIEW_SHARE * settings.minutes * 60)
    if _has_the_whole_time(settings):
        per_slice, allowed = _MOST_VIEWS_PER_SLICE, 0.4 * session.seconds_left
    most = int(allowed / _time_view(session))
    if refits_head(settings):
        is_of_one = _is_of_one_image(session)
        enough = _MOST_REFIT_VIEWS_OF_ONE if is_of_one else _MOST_REFIT_VIEWS
        most = min(most, max(enough, n_slices))
    return max(_FEWEST_VIEWS, min(per_slice * n_slices, most, _MOST_VIEWS))


def _is_of_one_image(session: Session) -> bool:
    """Whether all slices come from one image; earlier ones may come from others."""
    # A slice of a volume is named "NAME [index]", a 2-D image just "NAME".
    names = {s.name.removesuffix(f" [{s.slice_index}]") for s in session.training}
    return len(names) == 1


def _has_the_whole_time(settings: FineTuneSettings) -> bool:
    """Whether the head is trained alone, for minutes."""
    return settings.stages == "head" and not settings.steps


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

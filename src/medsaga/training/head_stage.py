"""The head stage: the detail head fitted on pixels of the frozen backbone."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from medsaga.data.tiles import is_tiled
from medsaga.events import Event, Notice, Progress, Stop, Validated
from medsaga.training.features.sampled_pixels import (
    SampledPixels,
    features_at,
    start_fit,
)
from medsaga.training.outcome import comparable_dice, keep_better
from medsaga.training.paint_context.left_out import judge_left_out
from medsaga.training.plan.head import (
    FEWEST_VIEWS,
    has_the_whole_time,
    is_of_one_image,
    plan_fit,
    plan_views,
    refits_head,
)
from medsaga.training.saving import attempt
from medsaga.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Generator

    from medsaga.training.pixel_fit import PixelFit
    from medsaga.training.preview import Previewer
    from medsaga.training.setup import Setup
    from medsaga.training.state import TrainingState

# A first look, so that a preview stands within ten seconds of the call: a fit on the
# views so far or, where the rest of them takes no longer, the fit on all of them as far
# as it is.
_LOOK_AT, _LOOK_AT_FIT, _LOOK_STEPS = 5.0, 8.5, 300
_LOOK_SECONDS, _FEWEST_LOOK_STEPS = 1.5, 50
# Where the head is fitted anew in the end, the first fit is but there to start from and
# takes a part of the views and steps.
_FIRST_SHARE = 1 / 3
MOST_NOT_FINITE = 3
"""Losses in a row that are not finite, after which a training ends."""


def run_head_stage(
    setup: Setup, state: TrainingState, previewer: Previewer
) -> Generator[Event, None, None]:
    """Fit the detail head and the decoder's linear map; yields progress and previews.

    Features of single pixels are sampled from augmented views of each slice and kept
    in bf16; whole pyramids never are. If all this takes long, a first preview comes
    before its end, of which nothing remains in what is fitted.
    """
    plan_views(setup, state)
    total = state.plan.head_views
    part = _FIRST_SHARE if refits_head(setup.settings) else 1.0
    n_views = max(round(part * total), min(len(setup.training), total))
    pixels = yield from _sample_views(setup, state, previewer, n_views)
    # Seconds, where there are many pixels.
    fit = start_fit(setup, state.network, *pixels.sampled())
    plan_fit(setup, state)
    yield from _fit(setup, state, previewer, fit, part)
    if not refits_head(setup.settings) or not is_of_one_image(setup):
        yield from judge_left_out(setup, state, pixels, fit, part)


def rerun_head_stage(
    setup: Setup, state: TrainingState, previewer: Previewer
) -> Generator[Event, None, Validated]:
    """Fit the head of a trained model anew, unless that makes it clearly worse.

    A :class:`~medsaga.events.Stop` ends it early and in order. Returns how well what
    is kept segments.
    """
    start = validate(setup, state.network, 0)
    state.best.offer(start)
    yield start
    state.dice_at_start = comparable_dice(setup, state, start)
    with suppress(Stop):
        yield from run_head_stage(setup, state, previewer)
    return (yield from keep_better(setup, state, is_averaged=True))


def refit_head(
    setup: Setup, state: TrainingState, previewer: Previewer
) -> Generator[Event, None, None]:
    """Fit the head anew to what the backbone's features have become.

    In few steps the encoder moves away from the head faster than the head can follow,
    and what it has learned shows only once a head is fitted to it.
    """
    n_views = state.plan.head_views
    pixels = yield from _sample_views(setup, state, previewer, n_views)
    fit = start_fit(setup, state.network, *pixels.sampled())
    yield from _fit(setup, state, previewer, fit)
    yield from judge_left_out(setup, state, pixels, fit)


def _look(
    setup: Setup, state: TrainingState, pixels: SampledPixels, reached: Progress
) -> Generator[Event, None, None]:
    """Fit on half of the pixels so far, which it copies; repeats where sampling is."""
    features, targets = pixels.sampled()
    fit = start_fit(setup, state.network, features[::2].clone(), targets[::2])
    started = time.monotonic()
    while fit.n_steps < _LOOK_STEPS:
        if fit.n_steps % 20 == 0:
            yield reached
        fit.step()
        is_late = time.monotonic() - started >= _LOOK_SECONDS
        if is_late and fit.n_steps > _FEWEST_LOOK_STEPS:
            break
    _use(state, fit)


def _use(state: TrainingState, fit: PixelFit) -> None:
    """Write a fit into the network."""
    head = state.network.detail_head
    assert head is not None
    state.network.decoder.start_from_linear_map(fit.write_to(head))
    state.is_usable = True


def _fit(
    setup: Setup,
    state: TrainingState,
    previewer: Previewer,
    fit: PixelFit,
    part: float = 1.0,
) -> Generator[Event, None, None]:
    """Take a part of the planned steps of a fit, and use what it gives."""
    total = math.ceil(part * state.plan.head_steps)
    if is_of_one_image(setup):
        fit.averages_after = total / 2
    started, n_not_finite = state.time.seconds, 0
    try:
        while fit.n_steps < total:
            loss = yield from attempt(setup, state, "the head's fit", fit.step)
            step = fit.n_steps
            n_not_finite = 0 if math.isfinite(loss) else n_not_finite + 1
            if n_not_finite:
                yield Notice(message=_describe_not_finite(step, n_not_finite))
            if n_not_finite == MOST_NOT_FINITE:
                raise Stop
            per_step = (state.time.seconds - started) / step
            if step % 20 == 0 or step == total:
                left = per_step * (total - step)
                yield setup.head_progress("head", (step, total), loss, left)
            if step % 10 == 0 and _is_preview_due(setup, state, previewer, step):
                _use(state, fit)
                yield from previewer.show("head")
    except Stop:
        if fit.n_steps >= _LOOK_STEPS:  # it is better than what the first look gave
            fit.finish()
            _use(state, fit)
        raise
    state.pace.seconds_per_fit_step = per_step
    fit.finish()
    _use(state, fit)
    yield from previewer.show("head")


def _describe_not_finite(step: int, n_in_a_row: int) -> str:
    if n_in_a_row < MOST_NOT_FINITE:
        return (
            f"The loss of step {step} of the head's fit is not finite: the step is "
            "left out, and the learning rate is halved."
        )
    return (
        f"The loss of the head's fit is not finite in {n_in_a_row} steps in a row: the "
        "training ends with the best so far. Choose a lower learning rate."
    )


def _is_preview_due(
    setup: Setup, state: TrainingState, previewer: Previewer, step: int
) -> bool:
    """Whether to show a fit on its way: the first one, and those of a long fit.

    A young fit must not take the place of what is better.
    """
    if not state.is_usable:
        return step >= _FEWEST_LOOK_STEPS and state.time.seconds >= _LOOK_AT_FIT
    is_long = has_the_whole_time(setup.settings)
    return is_long and step >= _LOOK_STEPS and previewer.is_due


def _sample_views(
    setup: Setup, state: TrainingState, previewer: Previewer, total: int
) -> Generator[Event, None, SampledPixels]:
    """Sample pixels' features from views: each slice as it is, then augmented ones.

    Of a slice that is seen in tiles there are augmented ones alone.
    """
    budget_mb = state.plan.feature_cache_mb
    pixels = SampledPixels(setup, state.network, total, budget_mb)
    state.revise(feature_cache_mb=pixels.budget_mb)
    order = np.random.default_rng(setup.settings.seed).permutation(len(setup.training))
    augment = setup.augmenter()
    seconds = 0.0  # without what lies between the views
    for view in range(total):
        started = time.monotonic()
        sample = setup.training[order[view % len(order)]]
        image, target = sample.image, sample.target
        if view >= len(order) or is_tiled(sample, setup.canvas.tile):
            image, target = augment.view(sample, view)
        points = pixels.quota.draw(target, view)
        if len(points):  # a few strokes may all have moved out of the view
            of_points = target[points[:, 0], points[:, 1]]
            look = partial(features_at, setup, state.network, image, points)
            features = yield from attempt(setup, state, "the features", look)
            pixels.add(features, of_points, int(order[view % len(order)]))
        seconds += time.monotonic() - started
        left = seconds / (view + 1) * (total - view - 1)
        reached = setup.head_progress("features", (view + 1, total), math.nan, left)
        yield reached
        is_due = view + 1 >= FEWEST_VIEWS and state.time.seconds >= _LOOK_AT
        if is_due and not state.is_usable and left > _LOOK_SECONDS:
            yield from _look(setup, state, pixels, reached)
            yield from previewer.show("head")
    state.pace.seconds_per_view = seconds / total
    return pixels

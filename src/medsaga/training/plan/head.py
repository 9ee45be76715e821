"""How many views and steps of the fit a head stage has time for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from medsaga.training.features.sampled_pixels import (
    feature_channels,
    features_at,
    start_fit,
)
from medsaga.training.optim.strategy import STRATEGIES
from medsaga.training.paint_context.left_out import steps_to_judge, views_to_judge
from medsaga.training.plan.steps import SLOWDOWN
from medsaga.training.validation import judged_parts

if TYPE_CHECKING:
    from medsaga.settings.fine_tune import FineTuneSettings
    from medsaga.training.setup import Setup
    from medsaga.training.state import TrainingState

_VIEWS_PER_SLICE = 12
_MOST_VIEWS_PER_SLICE = 40  # when the head stage has the whole time
FEWEST_VIEWS = 4
# Views and fit have this long, or this part of the training. Where a computer is slow,
# views are worth more than steps of the GaLore stage, of which it has too few.
_VIEW_SECONDS, _VIEW_SHARE = 6.0, 0.25
_FIT_SECONDS, _FIT_SHARE = 6.0, 0.1
_FIT_STEPS_PER_VIEW = 10
_FIT_STEPS, _FEWEST_FIT_STEPS, _MEASURED_FIT_STEPS = 600, 200, 10
# The settings' bounds, which a GPU and thousands of slices would cross.
_MOST_FIT_STEPS, _MOST_VIEWS = 100_000, 100_000
# Slices of one image are worth a close fit, twice the steps and the mean of the later
# half's weights: from three seeds' Dice on thin grey matter it takes the scatter (0.002
# in place of 0.04), elsewhere it does no harm. For other people's images a close fit is
# worse: 15 steps for each view in place of 10 are 0.06 less.
_FIT_SHARE_OF_ONE, _FIT_STEPS_OF_ONE = 0.2, 1200
_MEASURED_PIXELS = 1024
# Views of the last fit, where the head is fitted anew in the end: five slices of as
# many people lose up to 0.05 Dice with fewer, those of one image nothing.
_MOST_REFIT_VIEWS, _MOST_REFIT_VIEWS_OF_ONE = 60, 20


def plan_refit(setup: Setup, state: TrainingState) -> float:
    """Plan the last fit of the head, and return the seconds that it takes."""
    plan_views(setup, state)
    plan_fit(setup, state)
    views = state.plan.head_views * _time_view(setup, state)
    steps = state.plan.head_steps
    steps += round(steps_to_judge(setup, steps))
    fits = steps * _time_fit_step(setup, state)
    return views + fits + _time_to_judge(setup, state)


def plan_views(setup: Setup, state: TrainingState) -> None:
    """Plan as many views as the time allows, unless they are known."""
    if not state.plan.head_views:
        state.revise(head_views=_affordable_views(setup, state))


def plan_fit(setup: Setup, state: TrainingState) -> None:
    """Plan as many steps of the fit as the time allows, unless they are known."""
    if not state.plan.head_steps:
        state.revise(head_steps=_affordable_fit_steps(setup, state))


def refits_head(settings: FineTuneSettings) -> bool:
    """Whether the head is fitted anew in the end, since the encoder has moved."""
    is_frozen = STRATEGIES[settings.strategy].freezes_encoder
    return settings.refit_head and settings.stages == "both" and not is_frozen


def has_the_whole_time(settings: FineTuneSettings) -> bool:
    """Whether the head is trained alone, for minutes."""
    return settings.stages == "head" and not settings.steps


def is_of_one_image(setup: Setup) -> bool:
    """Whether all slices come from one image; earlier ones may come from others."""
    return len({sample.id.image for sample in setup.training}) == 1


def _affordable_views(setup: Setup, state: TrainingState) -> int:
    settings, n_slices = setup.settings, len(setup.training)
    per_slice = _VIEWS_PER_SLICE
    allowed = max(_VIEW_SECONDS, _VIEW_SHARE * settings.minutes * 60)
    if has_the_whole_time(settings):
        per_slice, allowed = _MOST_VIEWS_PER_SLICE, 0.4 * state.seconds_left(settings)
    most = int(allowed / _time_view(setup, state))
    if refits_head(settings):
        is_of_one = is_of_one_image(setup)
        enough = _MOST_REFIT_VIEWS_OF_ONE if is_of_one else _MOST_REFIT_VIEWS
        most = min(most, max(enough, n_slices))
    return max(FEWEST_VIEWS, min(per_slice * n_slices, most, _MOST_VIEWS))


def _affordable_fit_steps(setup: Setup, state: TrainingState) -> int:
    """Give the usual number of steps, fewer on a slow computer.

    A head that has the whole time fills it, but for the last score.
    """
    settings = setup.settings
    if has_the_whole_time(settings):
        to_score = len(judged_parts(setup)) * _time_view(setup, state)
        to_score += state.pace.seconds_to_compare + _time_to_judge(setup, state)
        left = (state.seconds_left(settings) - to_score) / SLOWDOWN
        in_all = int(left / _time_fit_step(setup, state))
        # Judging takes at most as long as that of a fit of all these steps would.
        affordable = in_all - round(steps_to_judge(setup, in_all))
        return max(_FEWEST_FIT_STEPS, min(_MOST_FIT_STEPS, affordable))
    is_of_one = is_of_one_image(setup)
    share = _FIT_SHARE_OF_ONE if is_of_one else _FIT_SHARE
    allowed = max(_FIT_SECONDS, share * settings.minutes * 60)
    enough = _FIT_STEPS_OF_ONE if is_of_one else _FIT_STEPS
    usual = max(enough, _FIT_STEPS_PER_VIEW * state.plan.head_views)
    affordable = max(_FEWEST_FIT_STEPS, int(allowed / _time_fit_step(setup, state)))
    return min(usual, affordable, _MOST_FIT_STEPS)


def _time_to_judge(setup: Setup, state: TrainingState) -> float:
    """Return the seconds for looking at the slices that are left out."""
    return views_to_judge(setup) * _time_view(setup, state)


def _time_view(setup: Setup, state: TrainingState) -> float:
    """Return the seconds that the features of a view take; measured once."""
    if not state.pace.seconds_per_view:
        image, _ = setup.augmenter().view(setup.training[0], 0)
        point = torch.zeros(1, 2, dtype=torch.long)
        # The first one compiles kernels.
        features_at(setup, state.network, image, point)
        started = time.monotonic()
        features_at(setup, state.network, image, point)
        state.pace.seconds_per_view = time.monotonic() - started
    return state.pace.seconds_per_view


def _time_fit_step(setup: Setup, state: TrainingState) -> float:
    """Return the seconds that a step of a fit takes; before the first, on noise."""
    if not state.pace.seconds_per_fit_step:
        noise = torch.rand(
            _MEASURED_PIXELS,
            sum(feature_channels(state.network)),
            generator=torch.Generator().manual_seed(0),
        ).to(setup.device)
        classes = torch.zeros(_MEASURED_PIXELS, dtype=torch.long, device=setup.device)
        fit = start_fit(setup, state.network, noise, classes)
        fit.step()  # the first one starts what computes, on a GPU for seconds
        started = time.monotonic()
        for _ in range(_MEASURED_FIT_STEPS):
            fit.step()
        seconds = time.monotonic() - started
        state.pace.seconds_per_fit_step = seconds / _MEASURED_FIT_STEPS
    return state.pace.seconds_per_fit_step

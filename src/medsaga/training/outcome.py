"""What a stage keeps in the end, and what is said where that is worse than before."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from medsaga.events import Event, Notice, Validated
from medsaga.training.validation import dice_on_views, validate

if TYPE_CHECKING:
    from collections.abc import Generator

    from medsaga.training.setup import Setup
    from medsaga.training.state import TrainingState

# Which weights are best on a few held-out slices is chance: with two of ten held out,
# the best on them had 0.05 less Dice elsewhere than the average. Only a clear loss
# means that the training has failed.
_HELD_OUT_TOLERANCE = 0.08
# Measured on views: trainings that did good elsewhere ended at most 0.001 below their
# start, those that did harm of 0.05 and more at least 0.046 below it.
_VIEWS_TOLERANCE = 0.02
_TOLD_LOSS = 0.01


def comparable_dice(setup: Setup, state: TrainingState, scores: Validated) -> float:
    """Give the Dice by which a training's start and end are compared.

    Parameters
    ----------
    setup, state
        The training; its network is as it was validated.
    scores
        What the validation gave.

    Returns
    -------
    float
        Mean Dice on the held-out slices; where there are none, on views of the training
        slices that never trained. How long it took to find out is noted in the state.
    """
    if setup.held_out:
        return scores.mean_dice
    started = time.monotonic()
    dice = dice_on_views(setup, state.network)
    state.pace.seconds_to_compare = time.monotonic() - started
    return dice


def keep_better(
    setup: Setup, state: TrainingState, *, is_averaged: bool
) -> Generator[Event, None, Validated]:
    """Validate the network as it is, and put the best weights back if they are better.

    On held-out slices nothing is kept that is worse than the start.

    Parameters
    ----------
    setup, state
        The training. What scored best on the way, the start included, may be nothing.
    is_averaged
        Whether the network holds an average of weights, or a fit, rather than the last
        of the weights that the best were chosen from.

    Yields
    ------
    Notice
        In plain words, where Dice has become worse.

    Returns
    -------
    Validated
        How well the kept weights segment.
    """
    reached, best = validate(setup, state.network, state.step), state.best
    if best.scores is None:
        return reached
    before, dice = state.dice_at_start, comparable_dice(setup, state, reached)
    # A NaN, where no view shows a class, is no reason to throw away what was learned.
    if not dice < _least(setup, state, is_averaged):
        if not setup.held_out and reached.mean_dice < best.score - _TOLD_LOSS:
            yield Notice(
                message=_describe_small_loss(
                    (best.score, reached.mean_dice), (before, dice)
                )
            )
        return reached
    best.write()
    # What was found out on slices left out is of the weights that are put away.
    state.expected = {}
    if best.scores.step == 0:
        where = "held-out" if setup.held_out else "altered views of the training"
        yield Notice(
            message=f"The training made Dice on {where} slices worse "
            f"({before:.3f} to {dice:.3f}), so the model that it began with is "
            "kept: give the training more time."
        )
    return replace(best.scores, step=reached.step)


def _least(setup: Setup, state: TrainingState, is_averaged: bool) -> float:
    """Give the Dice below which the best weights are put back."""
    if not setup.held_out:
        return state.dice_at_start - _VIEWS_TOLERANCE
    best = state.best.score
    return max(state.dice_at_start, best - _HELD_OUT_TOLERANCE) if is_averaged else best


def _describe_small_loss(
    on_slices: tuple[float, float], on_views: tuple[float, float]
) -> str:
    """Say what was measured at the start and at the end."""
    return (
        f"Dice on the training slices themselves went from {on_slices[0]:.3f} to "
        f"{on_slices[1]:.3f}; on altered views of them, which tell more about other "
        f"slices, from {on_views[0]:.3f} to {on_views[1]:.3f}. So what was learned is "
        "kept: look at the result, and paint where it is wrong."
    )

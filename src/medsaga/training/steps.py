"""The GaLore stage: the whole model trained, each layer updated inside backward."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from medsaga.computing import allocate_leanly, free_cached_memory, peak_memory
from medsaga.errors import OutOfMemory, memory_explained
from medsaga.events import Event, Notice, Progress, Stop, Validated
from medsaga.training.head_stage import MOST_NOT_FINITE, refit_head
from medsaga.training.lost_classes import lost_classes, refit_class
from medsaga.training.optim.strategy import STRATEGIES
from medsaga.training.outcome import comparable_dice, keep_better
from medsaga.training.paint_context.agreed import find_agreed
from medsaga.training.plan.head import plan_refit, refits_head
from medsaga.training.plan.memory import OUT_OF_MEMORY
from medsaga.training.plan.steps import planned_steps, steps_to_plan
from medsaga.training.saving import attempt
from medsaga.training.sharing import hand_over, lead_step, share_weights
from medsaga.training.stepper import Stepper, learning_rate_factor
from medsaga.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Generator

    from medsaga.training.preview import Previewer
    from medsaga.training.resuming.state_writer import StateWriter
    from medsaga.training.setup import Setup
    from medsaga.training.state import TrainingState

_MOST_VALIDATIONS = 5
# The part of the minutes that they may take; it leaves a slow computer one or two.
_VALIDATED_SHARE = 0.05
_AVERAGED_SHARE = 0.25


def run_galore_stage(
    setup: Setup, state: TrainingState, previewer: Previewer, writer: StateWriter
) -> Generator[Event, None, Validated]:
    """Train all of the model; yields progress, previews and validations.

    At every yield the network is usable. Between two steps `writer` writes the state,
    and a state that was read goes on from where it was. A
    :class:`~medsaga.events.Stop` ends the stage early and in order. In the end the
    network holds the weights to keep: the average of the last quarter of the steps
    (after the warm-up), unless what the stage began with, or what was validated on
    held-out slices on the way, is clearly better; without averaging the best on the
    held-out slices. Unless the settings forbid it or the stage was stopped, the head is
    fitted anew to the average before that, and what classes are lost even so. Returns
    how well the kept ones segment.
    """
    is_whole = True
    if state.phase == "head":
        yield from _look_at_start(setup, state)
        state.phase = "steps"
    if state.phase == "steps":
        is_whole = yield from _train(setup, state, previewer, writer)
        state.average.write()
        state.phase = "refit"
        if is_whole:
            yield from writer.at_once(state)
    if is_whole:
        with suppress(Stop):
            if refits_head(setup.settings):
                yield from refit_head(setup, state, previewer)
            yield from _mend(setup, state)
    is_averaged = state.average.n_updates > 0
    return (yield from keep_better(setup, state, is_averaged=is_averaged))


def _look_at_start(setup: Setup, state: TrainingState) -> Generator[Event, None, None]:
    """Score what the stage begins with, and plan what comes besides the steps."""
    started = time.monotonic()
    scores = yield from _validate(setup, state)
    seconds = time.monotonic() - started
    if state.is_usable:
        state.best.offer(scores)
    yield scores
    if state.best.scores:
        state.dice_at_start = comparable_dice(setup, state, scores)
    if not state.plan.validations:
        allowed = _VALIDATED_SHARE * setup.settings.minutes * 60
        affordable = min(_MOST_VALIDATIONS, int(allowed / seconds))
        state.revise(validations=max(1, affordable))
    state.pace.seconds_to_validate = seconds
    if refits_head(setup.settings):
        state.pace.seconds_to_refit = plan_refit(setup, state)


def _train(
    setup: Setup, state: TrainingState, previewer: Previewer, writer: StateWriter
) -> Generator[Event, None, bool]:
    """Take the steps and forget the optimiser; whether they were taken to the end."""
    optimizer = state.optimizer or state.make_optimizer(setup.settings)
    optimizer.ranks = setup.ranks
    state.measured["projected_parameters"] = optimizer.n_projected
    state.measured["projected_share"] = optimizer.projected_share
    state.network.train()
    is_whole = False
    if state.plan.lean == "on":
        allocate_leanly(True)
    with suppress(Stop), optimizer:
        if state.agreed is None:
            state.agreed = yield from find_agreed(setup, state.network)
        yield from writer.at_once(state)
        hand_over(setup, state)
        yield from _take_steps(Stepper(setup, state, optimizer), previewer, writer)
        is_whole = True
    setup.ranks.dismiss()
    state.network.eval()
    state.measured["optimizer_state_bytes"] = optimizer.state_bytes()
    state.optimizer = None
    return is_whole


def _take_steps(
    stepper: Stepper, previewer: Previewer, writer: StateWriter
) -> Generator[Event, None, None]:
    setup, state = stepper.setup, stepper.state
    settings = setup.settings
    while not state.plan.steps or state.step < state.plan.steps:
        yield from writer.if_due(state)
        loss = yield from _take(stepper)
        if not state.plan.steps and state.clock.is_enough(settings.warmup_steps):
            state.revise(steps=_affordable_steps(stepper))
        if state.n_not_finite:
            yield from _tell_not_finite(state)
        elif _is_averaged(setup, state):
            state.average.update()
        yield _progress(stepper, loss)
        yield from previewer.show_if_due("galore")
        if _is_validated(state):
            scores = yield from _validate(setup, state)
            if setup.held_out:
                state.best.offer(scores)
            yield scores
            if (yield from _mend(setup, state, scores)):
                # Or the lost output would come back with the mean.
                state.average.restart()
            share_weights(setup, state)


def _validate(setup: Setup, state: TrainingState) -> Generator[Notice, None, Validated]:
    look = partial(validate, setup, state.network, state.step)
    return (yield from attempt(setup, state, "the validation", look))


def _take(stepper: Stepper) -> Generator[Notice, None, float]:
    """Take a step; where memory runs out, again with less."""
    while True:
        try:
            with memory_explained(OUT_OF_MEMORY):
                return lead_step(stepper)
        except OutOfMemory:
            # Other ranks wait for the rest of this step, which cannot be taken again.
            is_alone = stepper.setup.ranks.size == 1
            how = stepper.take_less() if is_alone else None
            if how is None:
                raise
        # Only here have the tensors gone that the failure's traceback held.
        free_cached_memory(stepper.setup.device)
        yield Notice(
            message=f"The memory ran out at step {stepper.state.step + 1}, which is "
            f"taken again: from now on {how}."
        )


def _tell_not_finite(state: TrainingState) -> Generator[Notice, None, None]:
    """Say that a loss was not finite; ends the steps where that goes on."""
    if state.n_not_finite < MOST_NOT_FINITE:
        yield Notice(
            message=f"The loss of step {state.step} is not finite: the step is left "
            "out, and the learning rates are halved."
        )
        return
    yield Notice(
        message=f"The loss is not finite in {state.n_not_finite} steps in a row: the "
        "training ends with the best so far. Choose lower learning rates."
    )
    raise Stop


def _mend(
    setup: Setup, state: TrainingState, scores: Validated | None = None
) -> Generator[Notice, None, list[int]]:
    """Fit the classes anew that were lost, which the loss alone seldom brings back.

    Returns the indices of what was mended.
    """
    settings = setup.settings
    may_mend = settings.mend_classes and STRATEGIES[settings.strategy].trains_decoder
    if not may_mend or state.step <= settings.warmup_steps:
        return []
    lost = lost_classes(setup, state.network, scores)
    for index in lost:
        refit_class(setup, state.network, index)
        yield Notice(
            message=f"The training lost {setup.table.names[index]} from sight, so "
            "its output was fitted anew."
        )
    return lost


def _affordable_steps(stepper: Stepper) -> int:
    """Plan the steps that fit into the time left, less what comes besides."""
    setup, state = stepper.setup, stepper.state
    pace = state.pace
    reserved = (state.plan.validations + 1) * pace.seconds_to_validate
    reserved += pace.seconds_to_compare + pace.seconds_to_refit
    return planned_steps(
        setup.settings,
        state.seconds_left(setup.settings) - reserved,
        state.clock.seconds_per_step,
        state.clock.n_steps,
        stepper.filling,
    )


def _is_averaged(setup: Setup, state: TrainingState) -> bool:
    """Average the last quarter, of the steps after which the total is always known.

    Earlier ones would be averaged only where it was known from the start, and a
    repetition would not equal the training.
    """
    settings, step, total = setup.settings, state.step, state.plan.steps
    is_planned = step >= min(total, steps_to_plan(settings.warmup_steps))
    is_late = step > total * (1 - _AVERAGED_SHARE)
    return total > 0 and settings.average_weights and is_planned and is_late


def _is_validated(state: TrainingState) -> bool:
    """Validate a few times, evenly spread; the end is validated anyway."""
    n_parts, total = state.plan.validations + 1, state.plan.steps
    return total > 0 and state.step in {
        round(i * total / n_parts) for i in range(1, n_parts)
    }


def _progress(stepper: Stepper, loss: float) -> Progress:
    setup, state = stepper.setup, stepper.state
    per_step, n_left = state.clock.seconds_per_step, state.plan.steps - state.step
    state.measured["seconds_per_step"] = per_step
    seconds_left = n_left * per_step + stepper.filling.during(n_left)
    seconds_left += state.pace.seconds_to_refit
    factor = learning_rate_factor(setup, state, state.step - 1)
    return Progress(
        stage="galore",
        step=state.step,
        total=state.plan.steps,
        loss=loss,
        learning_rate=setup.settings.encoder_lr * factor,
        seconds_left=seconds_left
        if state.plan.steps
        else state.seconds_left(setup.settings),
        peak_memory=peak_memory(setup.device),
    )

"""The GaLore stage: the whole model trained, each layer updated inside backward."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from medsaga.computing import peak_memory, seeded
from medsaga.data.samples import drawn_sample
from medsaga.data.sizing import collate
from medsaga.events import Event, Notice, Progress, Stop, Validated
from medsaga.training.head_stage import refit_head
from medsaga.training.lost_classes import lost_classes, refit_class
from medsaga.training.optim.averaging import BestWeights, WeightAverage
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.layerwise import LayerwiseOptimizer
from medsaga.training.optim.losses import SegmentationLoss
from medsaga.training.optim.strategy import STRATEGIES
from medsaga.training.outcome import comparable_dice, keep_better
from medsaga.training.plan.head import plan_refit, refits_head
from medsaga.training.plan.steps import (
    NO_FILLING,
    StepClock,
    lr_factor,
    planned_steps,
    steps_to_plan,
)
from medsaga.training.pyramid_cache import PyramidCache
from medsaga.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import torch

    from medsaga.settings.fine_tune import FineTuneSettings
    from medsaga.training.plan.steps import Filling
    from medsaga.training.session import Session

_MOST_VALIDATIONS = 5
# The part of the minutes that they may take; it leaves a slow computer one or two.
_VALIDATED_SHARE = 0.05
_AVERAGED_SHARE = 0.25
# Numbers of augmented views: those of the GaLore stage come after the head stage's.
_FIRST_VIEW = 1_000_000


def run_galore_stage(session: Session) -> Generator[Event, None, Validated]:
    """Train all of the model; yields progress, previews and validations.

    At every yield the network is usable. A :class:`~medsaga.events.Stop` ends the stage
    early and in order. In the end the network holds the weights to keep: the average of
    the last quarter of the steps (after the warm-up), unless what the stage began with,
    or what was validated on held-out slices on the way, is clearly better; without
    averaging the best on the held-out slices. Unless the settings forbid it or the
    stage was stopped, the head is fitted anew to the average before that, and what
    classes are lost even so. Returns how well the kept ones segment.
    """
    average = WeightAverage(session.network)
    best = BestWeights(session.network)
    seconds_to_validate = yield from _validate_start(session, best)
    dice_at_start = comparable_dice(session, best.scores) if best.scores else math.nan
    if not session.settings.validations:
        session.plan(validations=_plan_validations(session, seconds_to_validate))
    reserved = (session.settings.validations + 1) * seconds_to_validate
    reserved += session.seconds_to_compare
    refits = refits_head(session.settings)
    if refits:
        session.seconds_to_refit = plan_refit(session)
        reserved += session.seconds_to_refit
    is_whole = yield from _train(session, average, best, reserved)
    average.write()
    if is_whole:
        with suppress(Stop):
            if refits:
                yield from refit_head(session)
            yield from _mend(session)
    is_averaged = average.n_updates > 0
    return (
        yield from keep_better(session, best, dice_at_start, is_averaged=is_averaged)
    )


def _train(
    session: Session,
    average: WeightAverage,
    best: BestWeights,
    reserved: float,
) -> Generator[Event, None, bool]:
    """Take the steps and forget the optimiser; whether they were taken to the end."""
    optimizer = LayerwiseOptimizer(
        parameter_groups(session.network, session.settings), session.settings.seed
    )
    session.measured["projected_parameters"] = optimizer.n_projected
    session.measured["projected_share"] = optimizer.projected_share
    session.network.train()
    is_whole = False
    with suppress(Stop), optimizer:
        yield from _steps(session, optimizer, average, best, reserved)
        is_whole = True
    session.network.eval()
    session.measured["optimizer_state_bytes"] = optimizer.state_bytes()
    return is_whole


def _validate_start(
    session: Session, best: BestWeights
) -> Generator[Event, None, float]:
    """Score what the stage begins with; returns the seconds that a scoring takes."""
    started = time.monotonic()
    scores = validate(session, 0)
    seconds = time.monotonic() - started
    if session.is_usable:
        best.offer(scores)
    yield scores
    return seconds


def _plan_validations(session: Session, seconds_to_validate: float) -> int:
    allowed = _VALIDATED_SHARE * session.settings.minutes * 60
    return max(1, min(_MOST_VALIDATIONS, int(allowed / seconds_to_validate)))


def _steps(
    session: Session,
    optimizer: LayerwiseOptimizer,
    average: WeightAverage,
    best: BestWeights,
    reserved: float,
) -> Generator[Event, None, None]:
    loss_of = SegmentationLoss(
        session.settings.loss_dice_weight,
        keep_strokes=any(sample.known is not None for sample in session.training),
    )
    strategy = STRATEGIES[session.settings.strategy]
    cache = PyramidCache(session) if strategy.freezes_encoder else None
    batches = _batches(session, cache)
    step, total = 0, session.settings.steps
    clock = StepClock()
    while not total or step < total:
        optimizer.set_lr_factor(_factor(session, step, total))
        views, images, targets = next(batches)
        images = session.to_device(images)
        # Dropout: the same numbers in every training of this seed, at this step.
        with seeded(session.device, session.settings.seed, step), session.autocast():
            logits = (
                session.network(images)
                if cache is None
                else session.network.logits(cache.pyramid(views, images), images)
            )
        loss = loss_of(logits, targets.to(session.device))
        loss.backward()  # the weights are updated in here
        step += 1
        clock.tick(cache.seconds if cache else 0.0)
        filling = cache.filling if cache else NO_FILLING
        session.is_usable, session.galore_steps = True, step
        if not total and clock.is_enough(session.settings.warmup_steps):
            total = _plan_steps(session, clock, filling, reserved)
            session.plan(steps=total)
        if total and _is_averaged(session.settings, step, total):
            average.update()
        yield _progress(session, step, total, loss.item(), clock, filling)
        yield from session.preview_if_due("galore")
        if total and _is_validated(session.settings, step, total):
            scores = validate(session, step)
            if session.held_out:
                best.offer(scores)
            yield scores
            if (yield from _mend(session, scores)):
                average.restart()  # or the lost output would come back with the mean
            if _ends_early(session, best):
                yield Notice(message=f"Stopped at step {step}: no longer improving.")
                return
        clock.restart()


def _mend(
    session: Session, scores: Validated | None = None
) -> Generator[Notice, None, list[int]]:
    """Fit the classes anew that were lost, which the loss alone seldom brings back.

    Returns the indices of what was mended.
    """
    settings = session.settings
    may_mend = settings.mend_classes and STRATEGIES[settings.strategy].trains_decoder
    if not may_mend or session.galore_steps <= settings.warmup_steps:
        return []
    lost = lost_classes(session, scores)
    for index in lost:
        refit_class(session, index)
        yield Notice(
            message=f"The training lost {session.table.names[index]} from sight, so "
            "its output was fitted anew."
        )
    return lost


def _batches(
    session: Session, cache: PyramidCache | None
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Give numbers, images and targets of augmented views without end.

    The order is shuffled anew in each round over the slices.
    """
    augment, settings = session.augmenter(), session.settings
    n, n_drawn = len(session.training), 0
    while True:
        views, pairs = [], []
        for _ in range(settings.batch_size):
            view = n_drawn % cache.n_views if cache else n_drawn
            sample = session.training[drawn_sample(settings.seed, view, n)]
            pair = augment(
                sample.image, sample.labels, _FIRST_VIEW + view, sample.content
            )
            pairs.append(cache.pad(*pair) if cache else pair)
            views.append(view)
            n_drawn += 1
        yield views, *collate(pairs)


def _plan_steps(
    session: Session, clock: StepClock, filling: Filling, reserved: float
) -> int:
    """Plan the steps that fit into the time left, less the seconds reserved."""
    left = session.seconds_left - reserved
    return planned_steps(
        session.settings, left, clock.seconds_per_step, clock.n_steps, filling
    )


def _factor(session: Session, step: int, total: int) -> float:
    settings = session.settings
    return lr_factor(step, total or None, settings.warmup_steps, settings.decay_power)


def _is_averaged(settings: FineTuneSettings, step: int, total: int) -> bool:
    """Average the last quarter, of the steps after which the total is always known.

    Earlier ones would be averaged only where it was known from the start, and a
    repetition would not equal the training.
    """
    is_planned = step >= min(total, steps_to_plan(settings.warmup_steps))
    is_late = step > total * (1 - _AVERAGED_SHARE)
    return settings.average_weights and is_planned and is_late


def _is_validated(settings: FineTuneSettings, step: int, total: int) -> bool:
    """Validate a few times, evenly spread; the end is validated anyway."""
    n_parts = settings.validations + 1
    return step in {round(i * total / n_parts) for i in range(1, n_parts)}


def _ends_early(session: Session, best: BestWeights) -> bool:
    patience = session.settings.early_stop
    return bool(session.held_out) and 0 < patience <= best.n_since


def _progress(
    session: Session,
    step: int,
    total: int,
    loss: float,
    clock: StepClock,
    filling: Filling,
) -> Progress:
    session.measured["seconds_per_step"] = clock.seconds_per_step
    n_left = total - step
    seconds_left = n_left * clock.seconds_per_step + filling.during(n_left)
    seconds_left += session.seconds_to_refit
    return Progress(
        stage="galore",
        step=step,
        total=total,
        loss=loss,
        learning_rate=session.settings.encoder_lr * _factor(session, step - 1, total),
        seconds_left=seconds_left if total else session.seconds_left,
        peak_memory=peak_memory(session.device),
    )

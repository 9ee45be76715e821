"""What a stage keeps in the end, and what is said where that is worse than before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from medsaga.events import Event, Notice, Validated
from medsaga.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Generator

    from medsaga.training.averaging import BestWeights
    from medsaga.training.session import Session

# The head was fitted to the very pixels of the training slices, and scores high on
# them for that alone; and which weights are best on a few held-out slices is chance:
# with two of ten held out, the best on them had 0.05 less Dice elsewhere than the
# average. Only a clear loss means that the training has failed.
_TOLERANCE = 0.08
_TOLD_LOSS = 0.01


def keep_better(
    session: Session, best: BestWeights, score_at_start: float, *, is_averaged: bool
) -> Generator[Event, None, Validated]:
    """Validate the network as it is, and put the best weights back if they are better.

    On held-out slices nothing is kept that is worse than the start.

    Parameters
    ----------
    session
        The training.
    best
        What scored best on the way, the start included; it may be empty.
    score_at_start
        Mean Dice of what the stage began with.
    is_averaged
        Whether the network holds an average of weights, or a fit, rather than the last
        of the weights that `best` was chosen from.

    Yields
    ------
    Notice
        In plain words, where Dice has become worse.

    Returns
    -------
    Validated
        How well the kept weights segment.
    """
    reached = validate(session, session.galore_steps)
    if best.scores is None:
        return reached
    if reached.mean_dice >= _least(session, best.score, score_at_start, is_averaged):
        if reached.mean_dice < score_at_start - _TOLD_LOSS:
            yield Notice(message=_describe_small_loss(reached, score_at_start))
        return reached
    best.write()
    if best.score == score_at_start:
        yield Notice(
            message=f"The training made Dice on the {reached.measured_on} worse "
            f"({best.score:.3f} to {reached.mean_dice:.3f}), so the model that it "
            "began with is kept: give the training more time."
        )
    return replace(best.scores, step=reached.step)


def _least(
    session: Session, best: float, score_at_start: float, is_averaged: bool
) -> float:
    if not session.held_out:
        return best - _TOLERANCE
    return max(score_at_start, best - _TOLERANCE) if is_averaged else best


def _describe_small_loss(reached: Validated, score_at_start: float) -> str:
    return (
        f"Dice on the {reached.measured_on} went from {score_at_start:.3f} to "
        f"{reached.mean_dice:.3f}. On the slices that train so small a loss says "
        "little about the others, so what was learned is kept: look at the result, and "
        "paint where it is wrong."
    )

"""The course of a training: from its first stage, or where it stood, to the model."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from medsaga.computing import allocate_leanly
from medsaga.data.samples import classes_of
from medsaga.errors import OutOfMemory, memory_explained
from medsaga.events import Event, Notice, Stop, Stream, Validated
from medsaga.models.folder import TrainedModel
from medsaga.training.card import make_card
from medsaga.training.head_stage import rerun_head_stage, run_head_stage
from medsaga.training.lost_classes import lost_classes
from medsaga.training.optim.low_rank import merge_low_rank_updates
from medsaga.training.plan.memory import OUT_OF_MEMORY, SAVE_MEMORY
from medsaga.training.ranks import LostRank
from medsaga.training.steps import run_galore_stage
from medsaga.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from medsaga.training.preview import Previewer
    from medsaga.training.resuming.state_writer import StateWriter
    from medsaga.training.setup import Setup
    from medsaga.training.state import TrainingState

_log = logging.getLogger(__name__)


def run_course(
    setup: Setup, state: TrainingState, previewer: Previewer, writer: StateWriter
) -> Stream[TrainedModel | None]:
    """Run the stages, from where the state is, and make the model of what was learned.

    What fails once something was learned ends the training early, and is said.

    Returns
    -------
    TrainedModel or None
        None if it was stopped before anything was learned.

    Raises
    ------
    MedsagaError
        If the memory runs out before anything is learned.
    """
    scores = yield from _run_stages(setup, state, previewer, writer)
    if not state.is_usable:
        return None
    model, scores = _finish(setup, state, scores)
    with suppress(Stop):  # there is nothing left to stop
        # What is kept may be another one than was last seen.
        is_head = setup.settings.stages == "head"
        yield from previewer.show("head" if is_head else "galore")
        yield from _tell_unlearned(setup, state, scores)
        yield scores
    return model


def _run_stages(
    setup: Setup, state: TrainingState, previewer: Previewer, writer: StateWriter
) -> Generator[Event, None, Validated | None]:
    """Run the stages; gives no scores where something ended them early."""
    try:
        with memory_explained(OUT_OF_MEMORY):
            return (yield from _stages(setup, state, previewer, writer))
    except Stop:
        pass
    except OutOfMemory:
        if not state.is_usable:
            raise
        yield Notice(
            message="The memory ran out, so the training ended early; what it had "
            f"learned is kept. For more, {SAVE_MEMORY}."
        )
    except LostRank as error:
        if not _has_learned(setup, state):
            raise
        yield Notice(message=f"{error} What was learned until then is kept.")
    except Exception as error:
        if not _has_learned(setup, state):
            raise
        # With its traceback, which whoever mends it needs.
        _log.exception("The training ended early.")
        yield Notice(
            message=f"Something failed at step {state.step} that should not "
            f"({type(error).__name__}: {error}), so the training ended early; what it "
            "had learned is kept. Please report it with what the terminal shows."
        )
    finally:
        if state.plan.lean == "on":
            allocate_leanly(False)
    return None


def _has_learned(setup: Setup, state: TrainingState) -> bool:
    """Whether the network is another than what the training began with."""
    return state.is_usable and (state.step > 0 or not setup.origin.knows_classes)


def _stages(
    setup: Setup, state: TrainingState, previewer: Previewer, writer: StateWriter
) -> Generator[Event, None, Validated | None]:
    stages, knows_classes = setup.settings.stages, setup.origin.knows_classes
    if state.is_usable:
        yield from previewer.show("galore")
    if stages == "head" and knows_classes:
        return (yield from rerun_head_stage(setup, state, previewer))
    has_head_stage = stages == "head" or (stages == "both" and not knows_classes)
    if has_head_stage and state.phase == "head":
        yield from run_head_stage(setup, state, previewer)
    if stages != "head":
        return (yield from run_galore_stage(setup, state, previewer, writer))
    return None


def _finish(
    setup: Setup, state: TrainingState, scores: Validated | None
) -> tuple[TrainedModel, Validated]:
    """Make the model of what was learned; without `scores` they are measured."""
    state.network.eval()
    merge_low_rank_updates(state.network)
    scores = scores or _last_scores(setup, state)
    model = TrainedModel(
        network=state.network,
        card=make_card(setup, state, scores),
        samples=(*setup.training, *setup.held_out),
    )
    return model, scores


def _last_scores(setup: Setup, state: TrainingState) -> Validated:
    """Score what an early end has left; not at all if what ended it fails that too."""
    try:
        return validate(setup, state.network, state.step)
    except Exception:  # noqa: BLE001 - the model is worth more than its scores
        _log.exception("The model could not be scored.")
        return Validated(
            step=state.step, dice={}, hd95={}, measured_on="training slices"
        )


def _tell_unlearned(
    setup: Setup, state: TrainingState, scores: Validated
) -> Iterator[Notice]:
    """Say in plain words which classes the model does not find."""
    if not scores.dice:  # for want of memory, which what follows needs too
        return
    table = setup.table
    unlearned: dict[int, str] = dict.fromkeys(
        lost_classes(setup, state.network, scores), "training slices"
    )
    for value, dice in scores.dice.items():
        index = table.values.index(value)
        if dice == 0 and any(index in classes_of(sample) for sample in setup.judged):
            unlearned[index] = scores.measured_on
    for index, slices in unlearned.items():
        yield Notice(
            message=f"{table.names[index]} was not learned: the model finds nothing of "
            f"it on the {slices}. Paint it on more slices, or give the training more "
            "time."
        )

"""Steps that several processes take together: rank 0 leads, the others follow.

The others know the training as one that is resumed knows it, from the same files. All
that is not a step, rank 0 does alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from medsaga.computing import allocate_leanly, computing_threads
from medsaga.errors import MedsagaError, memory_explained
from medsaga.training.optim.averaging import BestWeights
from medsaga.training.optim.strategy import STRATEGIES
from medsaga.training.plan.memory import SAVE_MEMORY
from medsaga.training.resuming.folders import STATE
from medsaga.training.resuming.setup_file import read_setup, write_setup
from medsaga.training.state import Plan, TrainingState
from medsaga.training.stepper import Stepper

if TYPE_CHECKING:
    from medsaga.settings.fine_tune import FineTuneSettings
    from medsaga.training.ranks import Ranks
    from medsaga.training.setup import Setup

_CHUNK = 2**26  # bytes of a file that are in memory at once
_ALL_SENT = "all sent"
_TAKE_WEIGHTS = "take weights"


@dataclass(frozen=True)
class _StepOrder:
    """What of a state rank 0 alone decides, before a step."""

    plan: Plan
    step: int
    rate_scale: float


def check_shareable(settings: FineTuneSettings, ranks: Ranks) -> None:
    """Check that several processes can share a training.

    Raises
    ------
    MedsagaError
        If it has no steps, keeps feature maps, or its batch is no multiple of them.
    """
    if ranks.size == 1:
        return
    if settings.stages == "head":
        raise MedsagaError(
            "A training of the head alone has no steps that processes could share: "
            "start it without torchrun."
        )
    if STRATEGIES[settings.strategy].freezes_encoder:
        raise MedsagaError(
            f"The strategy {settings.strategy} keeps the feature maps of its views in "
            "one process: start it without torchrun."
        )
    if settings.batch_size % ranks.size:
        raise MedsagaError(
            f"A step of {settings.batch_size} slices cannot be shared equally by "
            f"{ranks.size} processes: start a number that divides it."
        )


def hand_over(setup: Setup, state: TrainingState) -> None:
    """Give the other ranks the training as it is, to follow from here."""
    if setup.ranks.size == 1:
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_setup(setup, state.network, folder)
        state.write(folder / STATE)
        for path in folder.iterdir():
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    setup.ranks.broadcast((path.name, chunk))
    setup.ranks.broadcast(_ALL_SENT)


def lead_step(stepper: Stepper) -> float:
    """Take the next step together with the other ranks, and return its loss."""
    state = stepper.state
    order = _StepOrder(state.plan, state.step, state.rate_scale)
    with stepper.setup.ranks.together(order):
        return stepper.take()


def share_weights(setup: Setup, state: TrainingState) -> None:
    """Give the other ranks the weights, which something beside a step has changed.

    It keeps computers together, too, that round in different ways.
    """
    with setup.ranks.together(_TAKE_WEIGHTS):
        setup.ranks.copy_(state.network.state_dict().values())


def follow(ranks: Ranks) -> None:
    """Take the steps of the training that rank 0 leads, until there are no more.

    Nothing is written, and nothing said.

    Raises
    ------
    MedsagaError
        If the memory runs out, or rank 0 has ended before its time.
    """
    with memory_explained(
        f"The memory of process {ranks.rank} ran out, which ends the training of all: "
        f"{SAVE_MEMORY}."
    ):
        # Windows removes no file that is still mapped.
        with TemporaryDirectory(ignore_cleanup_errors=True) as name:
            if not _receive(ranks, Path(name)):
                return
            setup, state = _read(ranks, Path(name))
        with computing_threads(setup.settings.threads):
            _follow_steps(setup, state)


def _receive(ranks: Ranks, folder: Path) -> bool:
    """Write the files of :func:`hand_over`; whether there are any."""
    while isinstance(received := ranks.broadcast(), tuple):
        name, chunk = received
        with (folder / name).open("ab") as file:
            file.write(chunk)
    return received is not None


def _read(ranks: Ranks, folder: Path) -> tuple[Setup, TrainingState]:
    setup, network = read_setup(folder)
    state = TrainingState(network=network, plan=Plan.of(setup.settings))
    state.read(folder / STATE, setup.settings)
    # Rank 0 alone has use for these copies of the weights.
    state.average.restart()
    state.best = BestWeights(network)
    return replace(setup, ranks=ranks), state


def _follow_steps(setup: Setup, state: TrainingState) -> None:
    optimizer = state.optimizer or state.make_optimizer(setup.settings)
    optimizer.ranks = setup.ranks
    if state.plan.lean == "on":
        allocate_leanly(True)
    state.network.train()
    with optimizer:
        stepper = Stepper(setup, state, optimizer)
        while (order := setup.ranks.broadcast()) is not None:
            if isinstance(order, _StepOrder):
                state.plan, state.step = order.plan, order.step
                state.rate_scale = order.rate_scale
                stepper.take()
            else:
                setup.ranks.copy_(state.network.state_dict().values())

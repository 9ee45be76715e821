"""Work of a training that is done again, with less memory, where that runs out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from medsaga.errors import OutOfMemory, memory_explained
from medsaga.events import Notice
from medsaga.memory.frugality import LEAN, spare_memory
from medsaga.training.plan.memory import OUT_OF_MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from medsaga.training.setup import Setup
    from medsaga.training.state import TrainingState

T = TypeVar("T")


def attempt(
    setup: Setup, state: TrainingState, what: str, work: Callable[[], T]
) -> Generator[Notice, None, T]:
    """Do some work that can be done again, and do so once where memory runs out.

    From then on memory is given back at once, where that is possible.

    Parameters
    ----------
    setup, state
        The training; the plan says how it allocates.
    what
        The work, for a sentence.
    work
        Does it.

    Raises
    ------
    OutOfMemory
        If the memory does not suffice even so.
    """
    try:
        with memory_explained(OUT_OF_MEMORY):
            return work()
    except OutOfMemory:
        if state.plan.lean == "on":
            raise
    # Only here have the tensors gone that the failure's traceback held.
    how = ""
    if spare_memory(setup.device):
        state.revise(lean="on")
        how = f": from now on {LEAN}"
    yield Notice(message=f"The memory ran out in {what}, which is done again{how}.")
    return work()

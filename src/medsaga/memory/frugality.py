"""Work that is done again, with less memory, where the memory runs out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from medsaga.computing import allocate_leanly, allocates_leanly, free_cached_memory
from medsaga.errors import OutOfMemory, memory_explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

T = TypeVar("T")

LEAN = "memory is given back as soon as it is free"
"""What is done about it, for sentences."""
RELEASED = "what was kept of it for later was given back"
"""The same where no more can be done."""


def spare_memory(device: torch.device) -> bool:
    """Give back what is held of a device's memory, and from now on all at once.

    Whether the latter is possible there.
    """
    free_cached_memory(device)
    is_possible = allocates_leanly(device)
    if is_possible:
        allocate_leanly(True)
    return is_possible


class Frugality:
    """Keeps what is free of the memory, until it runs out; from then on nothing.

    Parameters
    ----------
    device
        Whose memory it is.

    Attributes
    ----------
    ran_out
        Whether it has run out.
    is_lean
        Whether all is given back at once by now, which not every device can.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self.ran_out, self.is_lean = device, False, False

    def begin_leanly(self) -> None:
        """Keep nothing from now on, where that is possible."""
        self.is_lean = spare_memory(self._device)

    def end(self) -> None:
        """Leave the allocator as it was."""
        if self.is_lean:
            allocate_leanly(False)

    def do(self, work: Callable[[], T]) -> T:
        """Do some work that can be done again.

        Raises
        ------
        OutOfMemory
            If the memory does not suffice even so.
        """
        try:
            with memory_explained("The memory ran out."):
                return work()
        except OutOfMemory:
            if self.ran_out:
                raise
        # Only here have the tensors gone that the failure's traceback held.
        self.ran_out = True
        self.begin_leanly()
        return work()

    def iterate(self, work: Callable[[], Iterator[T]]) -> Iterator[T]:
        """Give what some work gives that can be begun again and gives the same."""
        n_given = 0
        while True:
            try:
                with memory_explained("The memory ran out."):
                    for number, found in enumerate(work()):
                        if number >= n_given:
                            n_given = number + 1
                            yield found
                return
            except OutOfMemory:
                if self.ran_out:
                    raise
            self.ran_out = True
            self.begin_leanly()

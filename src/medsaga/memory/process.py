"""What a process takes for tensors whose bytes are known, and whether that fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from medsaga.computing import allocates_leanly

if TYPE_CHECKING:
    import torch

    from medsaga.settings.fields import Switch

_MARGIN = 0.85  # of what is free, for everything else that is kept


class Overhead(NamedTuple):
    """What tensors become in a process: a factor, and bytes beside it.

    Kernels want scratch, and the allocator holds what it cannot use, unless it is lean
    (docs/memory.md). Some of that is a part of the weights that are updated.
    """

    factor: float
    beside: float
    of_weights: float = 0.0

    def add_to(self, n_bytes: int, weights: int = 0) -> int:
        """Give what a process takes for tensors of so many bytes."""
        return round(self.factor * n_bytes + self.of_weights * weights + self.beside)


# Of a GPU's allocator nothing was measured.
ON_GPU = Overhead(1.15, 0.0)


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """The memory that some work will need, and what there is.

    Attributes
    ----------
    lean
        Whether memory is given back to the system as soon as it is free.
    n_bytes
        The peak that is foreseen, above what the process holds before.
    free
        Bytes that were free.
    is_bound
        Whether `n_bytes` is but a bound that is known to be too high.
    """

    lean: bool
    n_bytes: int
    free: int
    is_bound: bool = False

    @property
    def fits(self) -> bool:
        """Whether it needs less than what is free, less a margin."""
        return self.n_bytes <= _MARGIN * self.free

    def describe(self, work: str) -> str:
        """Say what `work` takes of what is free, for the beginning of a sentence."""
        needs = "at most" if self.is_bound else "about"
        return (
            f"{work} takes {needs} {self.n_bytes / 1e9:.1f} GB of the "
            f"{self.free / 1e9:.1f} GB that are free"
        )


def may_be(switch: Switch, on: bool) -> bool:
    """Whether a switch allows it to be on, or off."""
    return switch in ("auto", "on" if on else "off")


def ways_to_allocate(switch: Switch, device: torch.device) -> list[bool]:
    """Give whether memory may go back to the system at once, the faster way first."""
    if not allocates_leanly(device):
        return [False]
    return [lean for lean in (False, True) if may_be(switch, lean)]

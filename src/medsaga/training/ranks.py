"""The processes that train together: which one this is, and what they tell each other.

torchrun starts them, and says so in the environment. Importing this imports no torch.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

T = TypeVar("T")
# The others wait while the first fits heads, validates and saves; who dies is noticed.
_LONGEST_WAIT = timedelta(days=30)


class LostRank(MedsagaError):
    """Another process of the training has ended before its time."""


class Ranks:
    """The processes of one training, of which this is number `rank` of `size`.

    The first one, rank 0, leads: it decides and writes, and the others take with it the
    steps that it announces. For a process alone (:data:`ALONE`) everything here leaves
    things as they are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._are_others_waiting = rank == 0 and size > 1

    @property
    def leads(self) -> bool:
        """Whether this one decides and writes."""
        return self.rank == 0

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """Give this rank's part of items that all ranks share equally, in order."""
        n = len(items) // self.size
        return items[self.rank * n : (self.rank + 1) * n]

    def add_up_(self, tensor: Tensor) -> None:
        """Put the sum over all ranks, the same to the last bit, in a tensor's place."""
        if self.size == 1:
            return
        import torch.distributed as dist

        dense = tensor.contiguous()  # which a channels-last one is not
        with _explained():
            dist.all_reduce(dense)
        if dense is not tensor:
            tensor.copy_(dense)

    def total(self, tensor: Tensor) -> Tensor:
        """Give the sum over all ranks; its gradient is of this rank's part alone."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        self.add_up_(total)
        # The difference is 0, or NaN, as the sum is, of what is not finite.
        return total + (tensor - tensor.detach())

    def broadcast(self, value: Any = None) -> Any:
        """Give the value that rank 0 has; that of the others is not looked at."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        with _explained():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def copy_(self, tensors: Iterable[Tensor]) -> None:
        """Put what rank 0 has into tensors of the same shapes."""
        import torch.distributed as dist

        for tensor in tensors if self.size > 1 else ():
            dense = tensor.contiguous()
            with _explained():
                dist.broadcast(dense, src=0)
            if dense is not tensor:
                tensor.copy_(dense)

    @contextmanager
    def together(self, order: object) -> Iterator[None]:
        """Have the others do what `order` says while rank 0 does it in the block.

        If that fails, they are in the midst of it, and take no orders any more.
        """
        self.broadcast(order)
        were_waiting, self._are_others_waiting = self._are_others_waiting, False
        yield
        self._are_others_waiting = were_waiting

    def dismiss(self) -> None:
        """Tell the others, if they wait for an order, that there will be none."""
        if self._are_others_waiting:
            self._are_others_waiting = False
            self.broadcast(None)


ALONE = Ranks()
"""A process that trains by itself."""


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun has started with this one, if it has any.

    On a computer with GPUs each takes the one of its number there (``LOCAL_RANK``).
    When rank 0 leaves the block, the others are dismissed.

    Raises
    ------
    MedsagaError
        If more were started here than there are GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    import torch.distributed as dist

    dist.init_process_group(_choose_backend(), timeout=_LONGEST_WAIT)
    ranks = Ranks(dist.get_rank(), size)
    try:
        yield ranks
    finally:
        ranks.dismiss()
        dist.destroy_process_group()


def _choose_backend() -> str:
    """Take the GPU that is this process's, if there are any, and say who transports."""
    import torch

    from medsaga.computing import pick_device

    if pick_device().type == "cpu":
        return "gloo"
    number, n_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= n_gpus:
        raise MedsagaError(
            f"More processes were started here than there are GPUs ({n_gpus}): give "
            f"torchrun --nproc-per-node {n_gpus}, or set MEDSAGA_DEVICE=cpu."
        )
    torch.cuda.set_device(number)
    return "cpu:gloo,cuda:nccl"


@contextmanager
def _explained() -> Iterator[None]:
    """Say in words that another process is gone, which the transport finds out."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise LostRank(
            "Another process of this training has ended, or cannot be reached: look at "
            f"what it said ({reason})."
        ) from error

"""Modules that are filled with the weights of a file, which are in memory but once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

# So much of a file is mapped into memory at a time.
_PORTION = 2**20
# Numbers of the largest parameter of most networks.
_MOST_DRAWN = 2**20


def unfilled() -> AbstractContextManager[object]:
    """Build modules inside the block whose parameters take no memory yet.

    They are on the meta device, but buffers are as ever. What is drawn for the
    parameters is drawn all the same, so that random numbers afterwards are as ever,
    too. Each parameter has to be filled: see :func:`fill`.
    """
    return _Unfilled()


class _Unfilled(TorchFunctionMode):
    """Makes real numbers that are yet to come on the meta device.

    What is to be written into them is written elsewhere, always to the same place.
    """

    def __init__(self) -> None:
        super().__init__()
        self._elsewhere = torch.empty(_MOST_DRAWN)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            made = func(*args, **kwargs | {"device": "meta"})
            return made if made.is_floating_point() else func(*args, **kwargs)
        target = args[0] if args else kwargs.get("tensor")  # as torch.nn.init says it
        if not (isinstance(target, Tensor) and target.is_meta and _is_in_place(func)):
            return func(*args, **kwargs)
        kwargs.pop("tensor", None)
        n_numbers = target.numel()
        if n_numbers > self._elsewhere.numel():
            self._elsewhere = torch.empty(n_numbers)
        func(self._elsewhere[:n_numbers].view(target.shape), *args[1:], **kwargs)
        return target


def _is_in_place(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    is_method = name.endswith("_") and not name.startswith("_")
    return is_method and name != "requires_grad_"


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module weights for all of its parameters and buffers.

    Where it can be, the tensors become the module's own, and are not copied.

    Parameters
    ----------
    module
        Built inside :func:`unfilled`, or not.
    weights
        By the module's names for them.

    Raises
    ------
    RuntimeError
        If there are more or fewer of them, or one is of another shape.
    """
    types = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    taken: set[int] = set()
    own = {
        name: alone(tensor.to(types.get(name)), taken)
        for name, tensor in weights.items()
    }
    module.load_state_dict(own, assign=True)


def alone(tensor: Tensor, taken: set[int]) -> Tensor:
    """Give a tensor that shares its memory with no other; where it does, a copy.

    `taken` are the addresses that others have, which this one's is added to.
    """
    tensor = tensor.detach()
    memory = tensor.untyped_storage()
    is_whole = tensor.is_contiguous() and memory.nbytes() == tensor.nbytes
    if not is_whole or memory.data_ptr() in taken:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    taken.add(tensor.untyped_storage().data_ptr())
    return tensor


def read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Give the tensors of a file by name, each until the next is asked for.

    They are mapped into memory, a few megabytes at a time, and are to be copied.

    Raises
    ------
    SafetensorError, OSError
        If the file cannot be read.
    """
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    n_read = 0
    while n_read < len(names):
        n_mapped = 0
        # What is mapped is held by the process for as long as the file is open.
        with safe_open(path, framework="pt") as file:
            while n_read < len(names) and n_mapped < _PORTION:
                tensor = file.get_tensor(names[n_read])
                yield names[n_read], tensor
                n_read, n_mapped = n_read + 1, n_mapped + tensor.nbytes
            del tensor

"""The bytes of a network's tensors as it works, counted without computing any."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from medsaga.computing import autocast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from medsaga.computing import FixedPrecision
    from medsaga.network.medsaga import MedSAGa
    from medsaga.windows import Size


def count_step(
    network: MedSAGa,
    batch_size: int,
    size: Size,
    precision: FixedPrecision = "fp32",
    *,
    checkpointing: bool,
) -> int:
    """Count the peak of a step's tensors in bytes: weights, activations, gradients.

    The step is taken on tensors without contents (torch's FakeTensorMode), which takes
    about a second whatever their size. Each gradient is freed as soon as it is
    complete. What the optimiser keeps is not in it.

    Parameters
    ----------
    network
        What trains; its parameters may be anywhere, on the meta device too. It is left
        as it is.
    batch_size
        Slices in a step.
    size
        Height and width of the working images.
    precision
        The number format of matrix products and convolutions.
    checkpointing
        Whether blocks are computed twice to keep their activations out of memory.
    """
    with _checkpointing(network, checkpointing):
        return _count(_Step(network, precision), (batch_size, 3, *size))


def count_look(network: MedSAGa, size: Size, precision: FixedPrecision = "fp32") -> int:
    """Count the peak of what looking at one image takes beside the weights, in bytes.

    As :func:`count_step`, without gradients.

    Parameters
    ----------
    network
        What looks; its parameters may be anywhere, on the meta device too. It is left
        as it is.
    size
        Height and width of the image.
    precision
        The number format of matrix products and convolutions.
    """
    weights = sum(tensor.nbytes for tensor in _tensors_of(network).values())
    return _count(_Look(network, precision), (1, 3, *size)) - weights


def _count(work: _Look, shape: tuple[int, ...]) -> int:
    """Count the peak of the tensors of some work on images, weights among them."""
    # Some of torch that nothing else needs: a second of importing.
    from torch._subclasses.fake_tensor import FakeTensorMode

    network = work.network
    device = next(network.parameters()).device
    device = torch.device("cpu") if device.type == "meta" else device
    was_training = network.training
    live = _LiveBytes()
    with FakeTensorMode(allow_non_fake_inputs=True), live:
        tensors = {
            f"network.{name}": _empty_like(tensor, device)
            for name, tensor in _tensors_of(network).items()
        }
        images = torch.empty(shape, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        network.train(work.learns)
        torch.func.functional_call(work, tensors, (images,))
    network.train(was_training)
    return live.peak


class _Look(nn.Module):
    """A network that looks at images as a segmentation does."""

    learns = False

    def __init__(self, network: MedSAGa, precision: FixedPrecision) -> None:
        super().__init__()
        self.network, self._precision = network, precision

    def forward(self, images: Tensor) -> None:
        with torch.no_grad(), autocast(images.device, self._precision):
            self.network(images).float()


class _Step(_Look):
    """A network with its loss and the backward pass, which computes blocks again."""

    learns = True

    def forward(self, images: Tensor) -> None:
        with autocast(images.device, self._precision):
            logits = self.network(images)
        _loss(logits).backward()  # type: ignore[no-untyped-call]


def _tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | dict(network.named_buffers())


def _empty_like(tensor: Tensor, device: torch.device) -> Tensor:
    """Give a tensor of the same kind whose gradient goes as soon as it is there."""
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    if tensor.ndim == 4:
        empty = empty.contiguous(memory_format=torch.channels_last)
    if tensor.requires_grad:
        empty.requires_grad_()
        register: Any = empty.register_post_accumulate_grad_hook
        register(_free)
    return empty


def _free(parameter: Tensor) -> None:
    parameter.grad = None


def _loss(logits: Tensor) -> Tensor:
    """Give what takes as much as Dice and cross-entropy together do."""
    shares = logits.float().softmax(1)
    of_targets = torch.zeros_like(shares)
    known = torch.ones_like(shares[:, :1])
    dice = (shares * known * of_targets).sum() / (shares * known + of_targets).sum()
    targets = torch.zeros(
        logits.shape[0], *logits.shape[2:], dtype=torch.long, device=logits.device
    )
    return dice + F.cross_entropy(logits.float(), targets)


@contextmanager
def _checkpointing(network: MedSAGa, wanted: bool) -> Iterator[None]:
    before = network.backbone.checkpointing
    network.backbone.checkpointing = wanted
    try:
        yield
    finally:
        network.backbone.checkpointing = before


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's
    """Knows how many bytes the tensors made under it have, now and at most."""

    def __init__(self) -> None:
        initialise: Any = super().__init__  # torch leaves it untyped
        initialise()
        self.now = self.peak = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do what is asked for, and count what is made."""
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(one, Tensor):
                self._add(one.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, n_bytes = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def forget(_: object) -> None:
            self.now -= n_bytes
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, forget)
        self.now += n_bytes
        self.peak = max(self.peak, self.now)

"""One cell of memory.py, in a process of its own.

    python benchmarks/memory_cell.py measure|count CELL

CELL is JSON: an entry of `METHODS` with backbone, side, batch, classes and precision.
*measure* takes three steps of a network with random weights. *count* takes one on
tensors without contents, and tells what they hold at its peak.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, get_args

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from medsaga.computing import allocate_leanly, autocast, computing_threads
from medsaga.memory.counting import _LiveBytes
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa
from medsaga.settings.fine_tune import FineTuneSettings, OptimizerName
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.layerwise import LayerwiseOptimizer
from medsaga.training.optim.losses import SegmentationLoss
from medsaga.training.optim.strategy import apply_strategy
from medsaga.training.plan.memory import optimizer_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STEPS = 3
_MOMENT_BYTES = 8  # of a parameter, AdamW's two in float32
Cell = dict[str, Any]


def build(cell: Cell) -> MedSAGa:
    """Build the network of a method with random weights."""
    is_ours = not cell.get("stock")
    backbone = build_backbone(
        cell["backbone"], checkpointing=cell.get("checkpointing", False)
    )
    network = MedSAGa(backbone, cell["classes"], detail_head=is_ours)
    network = network.to(memory_format=torch.channels_last)
    if cell["optimizer"] == "lora":
        apply_strategy(network, "samed", 0)
    if not is_ours:
        for block in backbone.encoder.blocks:
            block.attn = _stock(block.attn, block.norm1.normalized_shape[0])
    return network.train()


def _stock(attention: Any, width: int) -> Attention:
    """Give Segment Anything's own attention with the layers and tables of ours."""
    own = Attention(
        width,
        num_heads=attention.num_heads,
        use_rel_pos=True,
        input_size=[
            (len(table) + 1) // 2
            for table in (attention.rel_pos_h, attention.rel_pos_w)
        ],
    )
    # With what was frozen of them, and low-rank updates.
    own.qkv, own.proj = attention.qkv, attention.proj
    own.rel_pos_h, own.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w
    return own


def random_batch(cell: Cell) -> tuple[Tensor, Tensor]:
    """Give images and what is painted on them."""
    side = cell["side"]
    images = torch.rand(cell["batch"], 3, side, side)
    images = images.to(memory_format=torch.channels_last)
    return images, (images[:, 0] > 0.5).long()


def loss_of(network: MedSAGa, batch: tuple[Tensor, Tensor], cell: Cell) -> Tensor:
    """Give the loss of a batch."""
    images, targets = batch
    with autocast(torch.device("cpu"), cell["precision"]):
        logits = network(images)
    return SegmentationLoss(0.8)(logits, targets)


def is_layerwise(cell: Cell) -> bool:
    """Whether a method's optimiser is one of a training's, a layer after the other."""
    return cell["optimizer"] in get_args(OptimizerName)


def _settings(cell: Cell) -> FineTuneSettings:
    return FineTuneSettings(optimizer=cell["optimizer"])


def stepper(network: MedSAGa, cell: Cell) -> Callable[[Tensor], None]:
    """Give what a method does with a loss."""
    if is_layerwise(cell):
        layerwise = LayerwiseOptimizer(parameter_groups(network, _settings(cell)))
        layerwise.attach()

        def step(loss: Tensor) -> None:
            with layerwise.step():
                loss.backward()

        return step
    optimizer = torch.optim.AdamW(_learning(network), 1e-4)

    def step_at_the_end(loss: Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step_at_the_end


def measure(cell: Cell) -> dict[str, float]:
    """Give the peak above the process without a network, and the seconds of a step."""
    with computing_threads():
        if cell.get("lean"):
            allocate_leanly(True)
        torch.nn.Conv2d(3, 8, 3)(torch.rand(1, 3, 64, 64)).sum().backward()
        before = begin_to_measure()
        network = build(cell)
        step = stepper(network, cell)
        taken = []
        for _ in range(_STEPS):
            batch = random_batch(cell)
            started = time.perf_counter()
            step(loss_of(network, batch, cell))
            taken.append(time.perf_counter() - started)
    return {"bytes": taken_since(before), "seconds": min(taken[1:])}


def begin_to_measure() -> int:
    """Forget the peak of resident memory so far, and give what is resident now."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return _resident("VmRSS")


def taken_since(before: int) -> int:
    """Give the peak of resident memory above what was resident `before`."""
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024


def count(cell: Cell) -> dict[str, int]:
    """Give the bytes of a step's tensors at its peak, by what they are for.

    Gradients that are on their way to their parameter, and images, are among the
    activations. What an optimiser keeps is worked out from the shapes, and what it
    needs besides for a moment is left out.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        network = build(cell)
    frees = is_layerwise(cell)
    with FakeTensorMode(allow_non_fake_inputs=True), _AtPeak() as live:
        tensors = {
            f"network.{name}": _without_contents(tensor, frees)
            for name, tensor in (*network.named_parameters(), *network.named_buffers())
        }
        live.watched = list(tensors.values())
        torch.func.functional_call(_Step(network, cell), tensors, ())
    weights = sum(tensor.nbytes for tensor in tensors.values())
    if frees:
        kept = optimizer_bytes(network, _settings(cell))
    else:
        kept = sum(_MOMENT_BYTES * p.numel() for p in _learning(network))
    return {
        "weights": weights,
        "gradients": live.gradients,
        "optimiser state": kept,
        "activations": live.peak - weights - live.gradients,
    }


def _without_contents(tensor: Tensor, frees: bool) -> Tensor:
    """Give a tensor of the same kind, whose gradient may go as soon as it is there."""
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    if tensor.requires_grad:
        empty.requires_grad_()
        if frees:
            empty.register_post_accumulate_grad_hook(_free)
    return empty


def _free(parameter: Tensor) -> None:
    parameter.grad = None


class _Step(nn.Module):
    """A network up to its gradients, in which blocks may be computed twice."""

    def __init__(self, network: MedSAGa, cell: Cell) -> None:
        super().__init__()
        self.network, self._cell = network, cell

    def forward(self) -> None:
        batch = random_batch(self._cell)
        loss_of(self.network, batch, self._cell).backward()


class _AtPeak(_LiveBytes):
    """Knows besides how much of the peak was gradients of parameters."""

    watched: Sequence[Tensor] = ()
    gradients = 0

    def _add(self, storage: torch.UntypedStorage) -> None:
        before = self.peak
        super()._add(storage)
        if self.peak > before:
            grads = (tensor.grad for tensor in self.watched if tensor.requires_grad)
            self.gradients = sum(grad.nbytes for grad in grads if grad is not None)


def _learning(network: MedSAGa) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


if __name__ == "__main__":
    work = {"measure": measure, "count": count}[sys.argv[1]]
    print(json.dumps(work(json.loads(sys.argv[2]))))

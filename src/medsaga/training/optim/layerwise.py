"""The optimiser: one update per layer, inside the backward pass."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from medsaga.errors import MedsagaError
from medsaga.training.optim.adamw import AdamW
from medsaga.training.optim.galore import Projector
from medsaga.training.optim.scaled import ApolloMini, Fira, RandomProjector
from medsaga.training.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch.utils.hooks import RemovableHandle

    from medsaga.settings.fine_tune import OptimizerName

OPTIMIZERS: Mapping[OptimizerName, tuple[type[AdamW], type[Projector]]] = (
    MappingProxyType(
        {
            "galore": (AdamW, Projector),
            "fira": (Fira, Projector),
            "apollo-mini": (ApolloMini, RandomProjector),
        }
    )
)


@dataclass(kw_only=True, eq=False)
class _Layer:
    """One parameter with an optimiser of its own."""

    name: str
    part: str
    parameter: nn.Parameter
    adamw: AdamW
    base_lr: float
    has_stepped: bool = False


class LayerwiseOptimizer:
    """GaLore or a descendant, stepping each parameter inside the backward pass.

    While attached (``with optimizer``), a parameter is updated and its gradient freed
    as soon as the gradient is complete, so that the gradients never exist all at once::

        with optimizer.step():
            loss.backward()

    So there is no `zero_grad` to call, no accumulation over several backward passes and
    no clipping of the global norm. A parameter whose gradient never comes stays as it
    is.

    A step that fails within the backward pass, for want of memory say, leaves some
    parameters updated and others not. It can be taken again, with another batch too:
    what has been updated in it already is left alone then.

    A gradient that is not finite would spoil the weight and its moments for good: that
    one update is skipped and counted in `n_skipped`.

    Parameters
    ----------
    groups
        What :func:`parameter_groups` gives.
    seed
        Seed of the projectors' random subspaces.

    Attributes
    ----------
    n_skipped
        Updates of single parameters that were skipped.
    ranks
        The processes whose gradients are added up, before anything is done with them:
        each has that of its own part of the batch's loss.
    """

    ranks: Ranks = ALONE

    def __init__(self, groups: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
        self.n_skipped = 0
        self._layers = [
            _Layer(
                name=name,
                part=group["part"],
                parameter=parameter,
                adamw=_adamw(group),
                base_lr=group["lr"],
            )
            for group in groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        ]
        self._hooks: list[RemovableHandle] = []
        self._spread_refreshes(seed)

    def __enter__(self) -> Self:
        self.attach()
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def attach(self) -> None:
        """Step every parameter in the backward passes from now on."""
        self.detach()
        for layer in self._layers:
            # torch leaves this method untyped
            register: Any = layer.parameter.register_post_accumulate_grad_hook
            self._hooks.append(register(self._hook(layer)))

    def detach(self) -> None:
        """Leave the backward passes alone again; the state is kept."""
        while self._hooks:
            self._hooks.pop().remove()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Hold one backward pass, in which each parameter is updated once."""
        yield
        for layer in self._layers:
            layer.has_stepped = False

    def set_lr_factor(self, factor: float) -> None:
        """Multiply the base learning rate of every group by a factor from now on."""
        for layer in self._layers:
            layer.adamw.lr = layer.base_lr * factor

    @property
    def n_projected(self) -> int:
        """Number of parameters that GaLore projects."""
        return sum(layer.adamw.projector is not None for layer in self._layers)

    @property
    def projected_share(self) -> float:
        """Share of the backbone's trainable parameters that are projected, 0 to 1."""
        backbone = [layer for layer in self._layers if layer.part == "backbone"]
        projected = [layer for layer in backbone if layer.adamw.projector is not None]
        return _count(projected) / max(1, _count(backbone))

    def state_bytes(self) -> int:
        """Return the bytes that moments and subspaces take now."""
        return sum(tensor.nbytes for tensor in self.state_dict().values())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors, which safetensors can save as they are.

        The keys are `<parameter name>:<entry>`, and `n_skipped`. Mostly these are the
        live tensors: clone them to keep them beyond the next step.
        """
        state = {"n_skipped": torch.tensor(self.n_skipped)}
        for layer in self._layers:
            for entry, tensor in layer.adamw.state_dict().items():
                state[f"{layer.name}:{entry}"] = tensor
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` gave; the tensors are copied.

        Meant for an optimiser that has not stepped yet: a parameter that the state does
        not have keeps what it has.

        Raises
        ------
        MedsagaError
            If the state belongs to other parameters or to other GaLore settings.
        """
        saved: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            name, _, entry = key.rpartition(":")
            saved.setdefault(name, {})[entry] = tensor
        counts = saved.pop("", {})
        if unknown := saved.keys() - {layer.name for layer in self._layers}:
            raise MedsagaError(
                f"The saved optimiser state has a parameter {min(unknown)} that is not "
                "trained here: continue with the settings that it was saved with."
            )
        for layer in self._layers:
            if layer.name in saved:
                layer.adamw.load_state_dict(saved[layer.name], layer.parameter)
        self.n_skipped = int(counts["n_skipped"])

    def _spread_refreshes(self, seed: int) -> None:
        """Let no step refresh every subspace, and give each numbers of its own."""
        projectors = [p for layer in self._layers if (p := layer.adamw.projector)]
        for index, projector in enumerate(projectors):
            projector.phase = index * projector.refresh_interval // len(projectors)
            projector.seed, projector.layer = seed, index

    def _hook(self, layer: _Layer) -> Callable[[Tensor], None]:
        def step_and_free(parameter: Tensor) -> None:
            n_before = layer.adamw.n_steps
            try:
                if layer.has_stepped:
                    return
                grad = parameter.grad
                if grad is not None:
                    self.ranks.add_up_(grad)
                if grad is not None and _is_finite(grad):
                    layer.adamw.update(parameter, grad)
                else:
                    self.n_skipped += 1
                    layer.has_stepped = True
            finally:
                # If it failed, its moments may have taken the gradient in all the same.
                layer.has_stepped |= layer.adamw.n_steps > n_before
                # Whatever fails in here, the next backward must not add to this one.
                parameter.grad = None

        return step_and_free


def _adamw(group: Mapping[str, Any]) -> AdamW:
    kind, projector = AdamW, None
    if "rank" in group:
        kind, projector_kind = OPTIMIZERS[group["optimizer"]]
        projector = projector_kind(
            rank=group["rank"],
            scale=group["scale"],
            refresh_interval=group["update_proj_gap"],
            projection=group["proj_type"],
        )
    return kind(
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        projector=projector,
    )


def _is_finite(grad: Tensor) -> bool:
    # One sum instead of isfinite for every element: no temporary of the same size.
    return math.isfinite(grad.sum(dtype=torch.float32).item())


def _count(layers: Sequence[_Layer]) -> int:
    return sum(layer.parameter.numel() for layer in layers)

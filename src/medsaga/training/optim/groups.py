"""Which parameter of a network learns how: its rate, its decay, its projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from medsaga.errors import MedsagaError
from medsaga.training.optim.galore import largest_rank, projectable
from medsaga.training.optim.strategy import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from medsaga.settings.fine_tune import FineTuneSettings

# Parts of the last word of the names of parameters that are tables, not matrices:
# SAM's pos_embed, rel_pos_h and rel_pos_w, TinyViT's attention_biases, class tokens.
_TABLE_WORDS = ("pos", "bias", "token", "embed")


def parameter_groups(
    network: nn.Module, settings: FineTuneSettings
) -> list[dict[str, Any]]:
    """Decide how each trainable parameter of a network learns.

    Parameters
    ----------
    network
        Has the children `backbone`, `decoder` and, possibly, `detail_head`. Parameters
        that need no gradient are left out.
    settings
        The rates, betas, weight decay, strategy, optimiser and GaLore's settings are
        read.

    Returns
    -------
    list of dict
        Groups as ``galore_torch.GaLoreAdamW`` takes them, none empty; besides, each has
        `part` (the child) and `names` (of the parameters, in the order of `params`),
        and what is projected has `optimizer`. Matrices of the backbone are projected;
        matrices alone decay.

    Raises
    ------
    MedsagaError
        If the rank is so large that nothing in the backbone would be projected.
    """
    rates = {
        "backbone": settings.encoder_lr,
        "decoder": settings.decoder_lr,
        "detail_head": settings.head_lr,
    }
    tables, projects = _table_names(network), STRATEGIES[settings.strategy].projects
    groups: dict[tuple[str, bool, bool], dict[str, Any]] = {}
    candidates = []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        part = name.partition(".")[0]
        is_matrix = parameter.ndim >= 2 and name not in tables
        is_projected = False
        if is_matrix and part == "backbone" and projects:
            candidates.append(parameter)
            is_projected = projectable(parameter, settings.subspace_rank)
        kind = (part, is_matrix, is_projected)
        if kind not in groups:
            groups[kind] = _empty_group(*kind, rates[part], settings)
        groups[kind]["names"].append(name)
        groups[kind]["params"].append(parameter)
    _check_rank(candidates, settings.subspace_rank)
    return list(groups.values())


def _empty_group(
    part: str,
    is_matrix: bool,
    is_projected: bool,
    lr: float,
    settings: FineTuneSettings,
) -> dict[str, Any]:
    group: dict[str, Any] = {
        "part": part,
        "names": [],
        "params": [],
        "lr": lr,
        "betas": (settings.beta1, settings.beta2),
        "weight_decay": settings.weight_decay if is_matrix else 0.0,
    }
    if is_projected:
        group |= {
            "optimizer": settings.optimizer,
            "rank": settings.subspace_rank,
            "update_proj_gap": settings.refresh_interval,
            "scale": settings.scale,
            "proj_type": settings.projection,
        }
    return group


def _table_names(network: nn.Module) -> set[str]:
    """Names of the parameters that are looked up or added, not multiplied with."""
    embeddings = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.Embedding)
    }
    return embeddings | {
        name
        for name, _ in network.named_parameters()
        if any(word in name.rpartition(".")[2] for word in _TABLE_WORDS)
    }


def _check_rank(matrices: Sequence[Tensor], rank: int) -> None:
    largest = max(map(largest_rank, matrices), default=0)
    if 0 < largest < rank:
        raise MedsagaError(
            f"At rank {rank} GaLore would project no weight of this backbone: "
            f"choose a rank of at most {largest}."
        )

"""The strategies: which parameters of a network a training changes, and how.

Beside MedSAGa's own, its ablations (arXiv 2407.15042, table 3) and what it is compared
with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import torch

from medsaga.computing import seeded
from medsaga.errors import MedsagaError
from medsaga.training.optim.low_rank import add_low_rank_updates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medsaga.network.medsaga import MedSAGa
    from medsaga.settings.fine_tune import StrategyName

_ATTENTION = re.compile(r"\.attn\.(qkv|proj)\.")


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What of a network learns.

    Attributes
    ----------
    encoder
        All of the image encoder, its attention's ``qkv`` and ``proj``, low-rank updates
        of queries and values, or nothing.
    projects
        Whether the gradients of the encoder's matrices are projected (GaLore).
    trains_decoder
        Whether SAM's prompt encoder and mask decoder learn.
    """

    encoder: Literal["all", "attention", "low rank", "nothing"] = "all"
    projects: bool = True
    trains_decoder: bool = True

    @property
    def freezes_encoder(self) -> bool:
        """Whether a view's feature maps are the same in every step."""
        return self.encoder == "nothing"


STRATEGIES: Mapping[StrategyName, Strategy] = MappingProxyType(
    {
        "medsaga": Strategy(),
        "medsaga-v1": Strategy(encoder="attention"),
        "medsaga-v2": Strategy(trains_decoder=False),
        "samed": Strategy(encoder="low rank", projects=False),
        "full": Strategy(projects=False),
        "decoder": Strategy(encoder="nothing", projects=False),
    }
)


def apply_strategy(network: MedSAGa, name: StrategyName, seed: int) -> None:
    """Decide for each parameter of a network whether it learns.

    `seed` is that of the low-rank updates' first weights.

    Raises
    ------
    MedsagaError
        If the strategy is about attention and the backbone has none.
    """
    strategy = STRATEGIES[name]
    n_chosen = 0
    for parameter_name, parameter in network.backbone.named_parameters():
        is_chosen = strategy.encoder == "all" or (
            strategy.encoder == "attention"
            and _ATTENTION.search(f".{parameter_name}") is not None
        )
        parameter.requires_grad_(is_chosen)
        n_chosen += is_chosen
    if strategy.encoder == "low rank":
        with seeded(torch.device("cpu"), seed):
            n_chosen = add_low_rank_updates(network.backbone)
    if not strategy.freezes_encoder and not n_chosen:
        raise MedsagaError(
            f"The backbone {network.backbone.name} has no attention, which {name} "
            "trains: choose another strategy or backbone."
        )
    network.decoder.requires_grad_(strategy.trains_decoder)
    if network.detail_head is not None:
        network.detail_head.requires_grad_(True)

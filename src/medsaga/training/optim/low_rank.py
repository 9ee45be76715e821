"""Low-rank updates of attention's queries and values (LoRA, arXiv 2106.09685).

SAMed (arXiv 2304.13785) adapts SAM by them. While a network trains, each ``qkv`` weight
is the frozen one plus the update; in the end the two are added up, so that the network
has the same parameters as before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from medsaga.network.backbones.base import Backbone

RANK = 4


class LowRankUpdate(nn.Module):
    """Adds ``up @ down`` to the rows of queries and to those of values.

    Parameters
    ----------
    queries, values
        Indices of their rows in the weight.
    width
        Columns of the weight.
    """

    queries: Tensor
    values: Tensor

    def __init__(self, queries: Tensor, values: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("queries", queries)
        self.register_buffer("values", values)
        self.queries_down = nn.Parameter(torch.empty(RANK, width))
        self.queries_up = nn.Parameter(torch.zeros(len(queries), RANK))
        self.values_down = nn.Parameter(torch.empty(RANK, width))
        self.values_up = nn.Parameter(torch.zeros(len(values), RANK))
        for down in (self.queries_down, self.values_down):
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated (rows, width) weight."""
        # Under autocast the products would be bf16, and the sum none at all.
        with torch.autocast(weight.device.type, enabled=False):
            queries = self.queries_up @ self.queries_down
            values = self.values_up @ self.values_down
            updated = weight.index_add(0, self.queries, queries)
            return updated.index_add(0, self.values, values)


def add_low_rank_updates(backbone: Backbone) -> int:
    """Give each ``qkv`` weight of a backbone an update; returns how many there are."""
    layers = list(backbone.attention_layers())
    for qkv, queries, values in layers:
        update = LowRankUpdate(queries, values, qkv.in_features)
        # Its buffers are indices, which `to` leaves whole numbers on any device.
        update = update.to(qkv.weight)
        # A safe registration computes the weight, which autocast refuses without
        # contents (on the meta device).
        parametrize.register_parametrization(qkv, "weight", update, unsafe=True)
    return len(layers)


def merge_low_rank_updates(network: nn.Module) -> None:
    """Add the updates to their weights for good; without any, nothing changes."""
    for module in network.modules():
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")

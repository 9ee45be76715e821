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

from medsaga.network.backbones.attention import LinearMemoryAttention

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def add_low_rank_updates(network: nn.Module) -> int:
    """Give each ``qkv`` weight of a network an update; returns how many there are."""
    layers = list(_attention_layers(network))
    for qkv, queries, values in layers:
        update = LowRankUpdate(queries, values, qkv.in_features)
        parametrize.register_parametrization(qkv, "weight", update.to(qkv.weight))
        # Its buffers are indices, which `to` has left whole numbers on any device.
    return len(layers)


def merge_low_rank_updates(network: nn.Module) -> None:
    """Add the updates to their weights for good; without any, nothing changes."""
    for module in network.modules():
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")


def _attention_layers(
    network: nn.Module,
) -> Iterator[tuple[nn.Linear, Tensor, Tensor]]:
    """Give each ``qkv`` layer with the rows of its queries and of its values."""
    for module in network.modules():
        qkv = getattr(module, "qkv", None)
        if not isinstance(qkv, nn.Linear):
            continue
        if isinstance(module, LinearMemoryAttention):  # all queries, keys, values
            heads, key = 1, qkv.out_features // 3
        else:  # timm's TinyViT: those of one head after the other
            heads, key = int(module.num_heads), int(module.key_dim)  # type: ignore[arg-type]
        rows = torch.arange(qkv.out_features, device=qkv.weight.device).view(heads, -1)
        yield qkv, rows[:, :key].flatten(), rows[:, 2 * key :].flatten()

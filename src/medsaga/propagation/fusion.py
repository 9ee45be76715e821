"""What a model says and what the paint says, as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from medsaga.propagation.carrying import CarriedMaps, Carrier
    from medsaga.propagation.trust import PaintTrust

# Boundaries are painted to this part of a pixel at best.
_LEAST_DOUBT = 0.25
# Log odds: the paint alone never says more, so that a model that is sure has its say.
_MOST_SURE = 6.0
_CERTAIN = 20.0


def fuse_slices(
    logits: Iterable[Tensor], carrier: Carrier, trust: PaintTrust
) -> Iterator[Tensor]:
    """Join a model's logits of all slices, in order, with the paint that is carried.

    Parameters
    ----------
    logits
        (k, rows, columns) of each slice, background first, then the classes in the
        order of the paint's values.
    carrier
        Of the same volume.
    trust
        How much the paint is worth.

    Returns
    -------
    iterator of Tensor
        (k, rows, columns) logits.
    """
    for of_model, maps in zip(logits, carrier.stream(), strict=True):
        yield fuse(of_model, maps, carrier, trust)


def fuse(
    logits: Tensor,
    maps: CarriedMaps,
    carrier: Carrier,
    trust: PaintTrust,
    *,
    as_painted: bool = True,
) -> Tensor:
    """Join one slice's logits with its carried paint.

    A painted slice is as it was painted, unless not `as_painted`.

    To the model's log probability of a class come the paint's log odds, its signed
    distance over the doubt about where the boundary lies. For the background speaks
    what speaks against the likeliest class.
    """
    if as_painted and maps.index in carrier.paint.slices:
        return _as_painted(logits, carrier, maps.index)
    doubt = _LEAST_DOUBT * carrier.pixel + trust.growth * maps.effective_gap
    outside = _log_odds(torch.from_numpy(carrier.outside), doubt)
    fused = logits.log_softmax(0) + outside.to(logits.device)[:, None, None]
    inside = np.stack([carrier.frame.from_grid(one) for one in maps.distances])
    odds = _log_odds(torch.from_numpy(inside), doubt).to(logits.device)
    rows, cols = carrier.frame.place
    fused[:, rows, cols] = logits[:, rows, cols].log_softmax(0) + odds
    return fused


def _log_odds(distances: Tensor, doubt: float) -> Tensor:
    """Give (k, ...) log odds, background first, of (k - 1, ...) signed distances."""
    odds = (distances / doubt).clamp(-_MOST_SURE, _MOST_SURE)
    return torch.cat([-odds.amax(0, keepdim=True), odds])


def _as_painted(logits: Tensor, carrier: Carrier, index: int) -> Tensor:
    painted = carrier.paint.slices[index]
    is_class = [torch.from_numpy(painted == value) for value in carrier.paint.values]
    background = ~torch.stack(is_class).any(0)
    chosen = torch.stack([background, *is_class]).to(logits.device)
    return chosen.to(logits.dtype) * _CERTAIN

"""What a model says and what the paint says, as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from medsaga.propagation.carrying import Carrier
    from medsaga.propagation.maps import CarriedMaps
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
    logits: Tensor, maps: CarriedMaps, carrier: Carrier, trust: PaintTrust
) -> Tensor:
    """Join one slice's logits with its carried paint; see :func:`join`.

    A painted slice is as it was painted, and one that the paint does not reach as the
    model says.
    """
    if maps.index in carrier.paint.slices:
        return _as_painted(logits, carrier, maps.index)
    if not maps.is_reached:
        return logits
    return join(logits, on_slice(maps, carrier), maps.effective_gap, carrier, trust)


def on_slice(maps: CarriedMaps, carrier: Carrier) -> Tensor:
    """Give the distances at the slice's own resolution, within the frame."""
    return torch.from_numpy(
        np.stack([carrier.frame.from_grid(one) for one in maps.distances])
    )


def join(
    logits: Tensor,
    distances: Tensor,
    effective_gap: float,
    carrier: Carrier,
    trust: PaintTrust,
) -> Tensor:
    """Add the paint's log odds to the model's log probabilities.

    The log odds of a class are its signed distance over the doubt about where the
    boundary lies. For the background speaks what speaks against the likeliest class.

    Parameters
    ----------
    logits
        (k, rows, columns), background first.
    distances
        What :func:`on_slice` gives.
    effective_gap
        In mm.
    carrier, trust
        Of the volume, and how much its paint is worth.
    """
    doubt = _LEAST_DOUBT * carrier.pixel + trust.growth * effective_gap
    outside = _log_odds(torch.from_numpy(carrier.outside), doubt)
    chances = logits.log_softmax(0)
    fused = chances + outside.to(logits.device)[:, None, None]
    rows, cols = carrier.frame.place
    odds = _log_odds(distances, doubt).to(logits.device)
    fused[:, rows, cols] = chances[:, rows, cols] + odds
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

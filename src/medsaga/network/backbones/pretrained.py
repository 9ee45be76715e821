"""Backbones with their pretrained weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medsaga.errors import MedsagaError
from medsaga.network.backbones.catalogue import (
    BACKBONES,
    find_checkpoint,
    kind_of_weights,
    offered_backbones,
)
from medsaga.network.backbones.checkpoints import sha256
from medsaga.network.backbones.sam_format import load_matching, read_checkpoint
from medsaga.network.filling import unfilled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from medsaga.network.backbones.base import Backbone
    from medsaga.network.backbones.sam_format import LoadReport


_OF_DECODER = ("prompt_encoder.", "mask_decoder.")
# With fewer the encoder is hardly pretrained; a few may be others, which is said.
_FEWEST_LOADED = 0.9


@dataclass(frozen=True)
class Pretrained:
    """A backbone with pretrained weights, and the rest of its checkpoint.

    Attributes
    ----------
    backbone
        The image encoder, weights loaded.
    sam
        The checkpoint's `prompt_encoder.*` and `mask_decoder.*` tensors.
    sha256
        Of the checkpoint file; None without one.
    report
        What did not fit, in words for the user; empty if all did.
    """

    backbone: Backbone
    sam: Mapping[str, Tensor]
    sha256: str | None
    report: str


def build_backbone(name: str, *, checkpointing: bool = False) -> Backbone:
    """Build a backbone with random weights.

    Parameters
    ----------
    name
        Of a kind in the catalogue.
    checkpointing
        Compute each block twice to keep its activations out of memory.

    Raises
    ------
    MedsagaError
        If there is no such kind.
    """
    if name not in BACKBONES:
        names = ", ".join(kind.name for kind in offered_backbones())
        raise MedsagaError(
            f"There is no backbone {name!r}: choose {names}, or give the path of a "
            "SAM-format file."
        )
    return BACKBONES[name].build(checkpointing=checkpointing)


def load_pretrained(name: str, *, checkpointing: bool = False) -> Pretrained:
    """Build a backbone with its pretrained weights.

    Parameters
    ----------
    name
        Of a kind in the catalogue, or the path of a SAM-format checkpoint (Segment
        Anything's, MedSAM's, LiteMedSAM's).
    checkpointing
        Compute each block twice to keep its activations out of memory.

    Raises
    ------
    MedsagaError
        If the weights are not there, are not what they should be, or do not load.
    """
    if name in BACKBONES and BACKBONES[name].checkpoint is None:
        return Pretrained(BACKBONES[name].build(), {}, None, "")
    path = find_checkpoint(name)
    state = read_checkpoint(path)
    kind = kind_of_weights(state, f"The weights in {path}")
    weights = kind.encoder_weights(state)
    with unfilled():
        backbone = kind.build(checkpointing=checkpointing)
    report = load_matching(backbone, weights)
    if len(report.loaded) < _FEWEST_LOADED * report.n_wanted:
        raise MedsagaError(
            f"Of the {report.n_wanted} tensors of {kind.name}'s image encoder, {path} "
            f"has {len(report.loaded)}: give a file with the weights of a whole "
            "Segment Anything model."
        )
    if report.missing or report.mismatched:  # what is drawn of these has to be there
        backbone = kind.build(checkpointing=checkpointing)
        load_matching(backbone, weights)
    sam = {n: t for n, t in state.items() if n.startswith(_OF_DECODER)}
    return Pretrained(backbone, sam, sha256(path), _describe(report))


def _describe(report: LoadReport) -> str:
    is_whole = not (report.missing or report.mismatched or report.unused)
    return "" if is_whole else report.describe()

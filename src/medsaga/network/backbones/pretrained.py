"""Image encoders behind one interface, with their pretrained weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medsaga.errors import MedsagaError
from medsaga.network.backbones.base import Backbone, Level
from medsaga.network.backbones.checkpoints import find_checkpoint, sha256
from medsaga.network.backbones.lite_medsam import (
    build_lite_medsam,
    translate_lite_medsam,
)
from medsaga.network.backbones.sam_format import (
    LoadReport,
    detect_architecture,
    load_matching,
    read_checkpoint,
)
from medsaga.network.backbones.tiny import build_tiny
from medsaga.network.backbones.vit import build_vit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["Backbone", "Level", "Pretrained", "build_backbone", "load_pretrained"]


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


def build_backbone(architecture: str, *, checkpointing: bool = False) -> Backbone:
    """Build a backbone with random weights.

    Parameters
    ----------
    architecture
        ``lite_medsam``, ``vit_b``, ``vit_l``, ``vit_h``, or ``tiny`` (for tests).
    checkpointing
        Compute each block twice to keep its activations out of memory.

    Raises
    ------
    MedsagaError
        If there is no such architecture.
    """
    match architecture:
        case "lite_medsam":
            return build_lite_medsam(checkpointing=checkpointing)
        case "vit_b" | "vit_l" | "vit_h":
            return build_vit(architecture, checkpointing=checkpointing)
        case "tiny":
            return build_tiny()
    raise MedsagaError(
        f"There is no backbone {architecture!r}: choose lite_medsam, vit_b, vit_l or "
        "vit_h, or give the path of a SAM-format file."
    )


def load_pretrained(name: str, *, checkpointing: bool = False) -> Pretrained:
    """Build a backbone with its pretrained weights.

    Parameters
    ----------
    name
        ``lite_medsam``, ``vit_b``, ``vit_l``, ``vit_h``, or the path of a SAM-format
        checkpoint (Segment Anything's, MedSAM's, LiteMedSAM's).
    checkpointing
        Compute each block twice to keep its activations out of memory.

    Raises
    ------
    MedsagaError
        If the weights are not there, are not what they should be, or do not load.
    """
    if name == "tiny":
        return Pretrained(build_tiny(), {}, None, "")
    path = find_checkpoint(name)
    state = read_checkpoint(path)
    architecture = detect_architecture(state)
    backbone = build_backbone(architecture, checkpointing=checkpointing)
    encoder, sam = _split(state, architecture)
    report = load_matching(backbone, encoder)
    if not report.loaded:
        raise MedsagaError(
            f"No tensor of {path} fits the image encoder of {architecture}: give a "
            "file with the weights of a whole Segment Anything model."
        )
    return Pretrained(backbone, sam, sha256(path), _describe(report))


def _split(
    state: Mapping[str, Tensor], architecture: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a SAM-format checkpoint into encoder and the rest."""
    sam = {n: t for n, t in state.items() if not n.startswith("image_encoder.")}
    if architecture == "lite_medsam":
        return translate_lite_medsam(state), sam
    encoder = {
        name.replace("image_encoder.", "encoder.", 1): tensor
        for name, tensor in state.items()
        if name.startswith("image_encoder.")
    }
    return encoder, sam


def _describe(report: LoadReport) -> str:
    is_whole = not (report.missing or report.mismatched or report.unused)
    return "" if is_whole else report.describe()

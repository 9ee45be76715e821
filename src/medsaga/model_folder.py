"""A trained model as a folder: `weights.safetensors` and `card.json`."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medsaga.backbones import build_backbone
from medsaga.errors import MedsagaError
from medsaga.model import MedSAGa
from medsaga.model_card import CARD, WEIGHTS, ModelCard, load_card

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsaga.data.samples import Sample


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network with its card. What :func:`medsaga.fine_tune` returns.

    `samples` are the slices that trained it or were held out; a model that was read
    from a folder has none.
    """

    network: MedSAGa
    card: ModelCard
    samples: Sequence[Sample] = ()


def save_model(model: TrainedModel, folder: Path | str) -> Path:
    """Write a model folder, whole or not at all, and return its path.

    An existing model folder of that name is replaced.

    Raises
    ------
    MedsagaError
        If something else than a model folder is in the way, or the disk refuses.
    """
    folder = check_model_target(folder)
    weights = {name: _compact(t) for name, t in model.network.state_dict().items()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".medsaga-", dir=folder.parent))
        try:
            save_file(weights, staging / WEIGHTS)
            (staging / CARD).write_text(model.card.to_json(), encoding="utf-8")
            # mkdtemp and safetensors make them private: others may read the library.
            staging.chmod(0o777 & ~_umask())
            (staging / WEIGHTS).chmod(0o666 & ~_umask())
            _swap(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MedsagaError(
            f"The model could not be written to {folder} ({reason}): "
            "choose a folder that can be written to."
        ) from error
    return folder


def check_model_target(folder: Path | str) -> Path:
    """Return the path to save a model to, if nothing else is in the way.

    Raises
    ------
    MedsagaError
        If a file, or a folder that is no model, has that name.
    """
    folder = Path(folder).expanduser().absolute()
    is_free = not folder.exists() or (
        folder.is_dir() and ((folder / CARD).is_file() or not any(folder.iterdir()))
    )
    if not is_free:
        raise MedsagaError(
            f"{folder} exists and is no model folder: choose another name."
        )
    return folder


def load_model(folder: Path | str) -> TrainedModel:
    """Read a model folder. No code is run.

    Raises
    ------
    MedsagaError
        If it is no model folder, or its weights are not those of its card.
    """
    folder = Path(folder)
    card = load_card(folder)
    backbone = build_backbone(card.backbone)
    network = MedSAGa(backbone, len(card.classes), detail_head=card.detail_head)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise MedsagaError(
            f"The weights in {folder} are damaged or do not belong to their card: "
            "copy the model folder again from where it was made."
        ) from error
    network.eval()
    return TrainedModel(network.to(memory_format=torch.channels_last), card)


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """Give a tensor in fp16 where its values survive that, else as it is."""
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if torch.isfinite(half).all() else tensor


def _swap(staging: Path, folder: Path) -> None:
    """Put `staging` in the place of `folder`; on failure the old one stays."""
    if not folder.exists():
        os.replace(staging, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=".medsaga-old-", dir=folder.parent))
    os.replace(folder, old / "model")
    try:
        os.replace(staging, folder)
    except OSError:
        os.replace(old / "model", folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

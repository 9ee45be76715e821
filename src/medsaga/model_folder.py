"""A trained model as a folder: `weights.safetensors` and `card.json`."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medsaga.backbones import build_backbone
from medsaga.data.intensity import IntensityRule
from medsaga.data.samples import ClassTable
from medsaga.data.sizing import Canvas
from medsaga.errors import MedsagaError
from medsaga.model import MedSAGa

FORMAT_VERSION = 1
WEIGHTS, CARD = "weights.safetensors", "card.json"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What there is to know of a trained model, as JSON beside its weights.

    Attributes
    ----------
    format_version
        Of this folder's layout.
    created
        ISO 8601, UTC.
    backbone, base_weights, base_sha256
        Architecture, what the training started from, and that file's SHA-256.
    detail_head
        Whether the logits include the detail head's.
    classes, intensity, canvas, axis
        Label values with names and colours, intensity window, working size, and the
        array axis that is sliced along.
    settings
        The training's settings with everything planned filled in:
        ``FineTuneSettings(**settings)`` repeats it exactly.
    training_slices
        (image name, slice index) pairs that trained, then those held out.
    data_fingerprint
        SHA-256 of the training slices' pixels and labels.
    metrics
        The last scores: ``measured_on``, ``dice`` and ``hd95`` by label value.
    measured
        Seconds, peak memory in bytes, device, threads, number format, seconds a step,
        and GaLore's share of the encoder's parameters and its state's bytes.
    software
        Versions of what computed it.
    """

    format_version: int
    created: str
    backbone: str
    base_weights: str
    base_sha256: str | None
    detail_head: bool
    classes: ClassTable
    intensity: IntensityRule
    canvas: Canvas
    axis: int
    settings: dict[str, Any]
    training_slices: list[list[Any]]
    held_out_slices: list[list[Any]]
    data_fingerprint: str
    metrics: dict[str, Any]
    measured: dict[str, Any]
    software: dict[str, str]

    def to_json(self) -> str:
        """Write the card as JSON."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read a card.

        Raises
        ------
        MedsagaError
            If it is no model card, or a newer one than this version can read.
        """
        try:
            content = json.loads(text)
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise MedsagaError(
                    f"The model has format version {version}, this program reads "
                    f"version {FORMAT_VERSION}: update napari-medsaga."
                )
            table = {name: tuple(row) for name, row in content["classes"].items()}
            content["classes"] = ClassTable(**table)
            content["intensity"] = IntensityRule(**content["intensity"])
            content["canvas"] = Canvas(**content["canvas"])
            known = {field.name for field in fields(cls)}
            return cls(**{n: v for n, v in content.items() if n in known})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MedsagaError(
                "card.json is no model card: give the folder that a training wrote."
            ) from error


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network with its card. What :func:`medsaga.fine_tune` returns."""

    network: MedSAGa
    card: ModelCard


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
            staging.chmod(0o777 & ~_umask())  # mkdtemp makes it private
            _swap(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise MedsagaError(
            f"The model could not be written to {folder} ({error.strerror}): "
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
    if not (folder / CARD).is_file() or not (folder / WEIGHTS).is_file():
        raise MedsagaError(
            f"{folder} is no model folder: give the folder with card.json and "
            "weights.safetensors that a training wrote."
        )
    card = ModelCard.from_json((folder / CARD).read_text(encoding="utf-8"))
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

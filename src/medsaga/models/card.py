"""The model card: what there is to know of a trained model, as JSON.

Reading one imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from medsaga.data.canvas import Canvas
from medsaga.data.classes import ClassTable
from medsaga.data.identity import SliceId
from medsaga.data.intensity import IntensityRule
from medsaga.errors import MedsagaError
from medsaga.models.run_record import RunRecord
from medsaga.settings.fine_tune import FineTuneSettings

FORMAT_VERSION = 3
"""Of what is written; versions 1 and 2 are read too."""
CARD = "card.json"
WEIGHTS = "weights.safetensors"


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
        Label values with names and colours, intensity window, working size and
        whether neighbouring slices are seen, and the array axis that is sliced along.
    settings
        The training's settings with everything planned filled in:
        ``FineTuneSettings(**settings)`` repeats it exactly, on a GPU but for rounding.
    training_slices, held_out_slices
        The slices that trained, and those that were held out.
    data_fingerprint
        SHA-256 of the training slices' pixels and labels.
    metrics
        The last scores: ``measured_on``, ``dice`` and ``hd95`` by label value.
    measured
        Seconds, peak memory in bytes, device, threads, number format, seconds a step,
        and GaLore's share of the encoder's parameters and its state's bytes.
    software
        Versions of what computed it.
    run
        What the training was given, so that it can be repeated; None of models that
        were trained before this was recorded.
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
    training_slices: tuple[SliceId, ...]
    held_out_slices: tuple[SliceId, ...]
    data_fingerprint: str
    metrics: dict[str, Any]
    measured: dict[str, Any]
    software: dict[str, str]
    run: RunRecord | None = None

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
            if version not in range(1, FORMAT_VERSION + 1):
                raise MedsagaError(
                    f"The model has format version {version}, this program reads "
                    f"up to version {FORMAT_VERSION}: update napari-medsaga."
                )
            table = {name: tuple(row) for name, row in content["classes"].items()}
            content["classes"] = ClassTable(**table)
            content["intensity"] = IntensityRule(**content["intensity"])
            content["canvas"] = Canvas(**content["canvas"])
            if content.get("run") is not None:
                content["run"] = RunRecord.from_json(content["run"])
            for name in ("training_slices", "held_out_slices"):
                content[name] = tuple(
                    _read_slice(row, content["axis"]) for row in content[name]
                )
            if version < FORMAT_VERSION:
                content["settings"] = _known(content["settings"], FineTuneSettings)
            return cls(**_known(content, cls))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MedsagaError(
                "card.json is no model card: give the folder that a training wrote."
            ) from error


def _known(content: dict[str, Any], kind: type) -> dict[str, Any]:
    """Leave out what a dataclass has no field for."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in content.items() if name in names}


def _read_slice(row: dict[str, Any] | list[Any], axis: int) -> SliceId:
    """Read a slice, which is a name and an index before format version 3."""
    if isinstance(row, dict):
        return SliceId(**row)
    name, index = row
    return SliceId.from_name(name, axis, index)


def load_card(folder: Path | str) -> ModelCard:
    """Read the card of a model folder, without its weights.

    Raises
    ------
    MedsagaError
        If it is no model folder, or its card cannot be read.
    """
    path = Path(folder) / CARD
    try:
        text = path.read_text(encoding="utf-8")
    except PermissionError as error:
        raise MedsagaError(
            f"{folder} may not be read: ask who saved it for the permission to."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise MedsagaError(
            f"{folder} is no model folder: give the folder with card.json and "
            "weights.safetensors that a training wrote."
        ) from error
    return ModelCard.from_json(text)

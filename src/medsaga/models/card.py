"""The model card: what there is to know of a trained model, as JSON.

Reading one imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from medsaga.data.canvas import Canvas
    from medsaga.data.classes import ClassTable
    from medsaga.data.identity import SliceId
    from medsaga.data.intensity import IntensityRule
    from medsaga.models.run_record import RunRecord
    from medsaga.propagation.trust import PaintTrust

CARD = "card.json"
WEIGHTS = "weights.safetensors"
FORMAT_VERSION = 3
"""Of what is written; versions 1 and 2 are read too."""
LARGEST_CARD = 16 * 2**20
"""Bytes; thousands of slices take one."""


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
        The last scores: ``measured_on``, ``dice`` and ``hd95`` by label value, and
        ``expected_dice``, of slices that nobody painted.
    measured
        Seconds, peak memory in bytes, device, threads, number format, seconds a step,
        and GaLore's share of the encoder's parameters and its state's bytes.
    software
        Versions of what computed it.
    run
        What the training was given, so that it can be repeated; None of models that
        were trained before this was recorded.
    paint_trust
        How much carried paint is worth beside the model; None where too little was
        painted to find out.
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
    paint_trust: PaintTrust | None = None

    def to_json(self) -> str:
        """Write the card as JSON.

        Of names that are not Unicode, as files may have, what is not has a ``?``.
        """
        text = json.dumps(asdict(self), indent=2, allow_nan=False, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode("utf-8")

    @classmethod
    def from_json(cls, content: bytes | str, *, subject: str = CARD) -> ModelCard:
        """Read a card, of this format version or an earlier one.

        `subject` is what a sentence calls it.

        Raises
        ------
        MedsagaError
            If it is no model card, a newer one than this version can read, or damaged.
        """
        # Only here, as pydantic takes a tenth of a second to import.
        from medsaga.models.card_schema import read_fields

        known = read_fields(content, subject)
        names = {field.name for field in fields(cls)}
        return cls(**{name: known[name] for name in names & known.keys()})

    @property
    def created_at(self) -> datetime:
        """When the model was trained, with a time zone."""
        created = datetime.fromisoformat(self.created)
        return created if created.tzinfo else created.replace(tzinfo=UTC)


def load_card(folder: Path | str, *, called: str | None = None) -> ModelCard:
    """Read the card of a model folder, without its weights.

    `called` is what a sentence calls the model, if that is not the folder's name.

    Raises
    ------
    MedsagaError
        If it is no model folder, or its card cannot be read.
    """
    folder = Path(folder)
    called = called or folder.absolute().name
    return ModelCard.from_json(_content(folder), subject=f"The card of {called}")


def _content(folder: Path) -> bytes:
    path = folder / CARD
    try:
        # Anything else might never end, or wait for someone to write into it.
        if not S_ISREG(path.stat().st_mode):
            raise FileNotFoundError(path)
        with path.open("rb") as file:
            content = file.read(LARGEST_CARD + 1)
    except PermissionError as error:
        raise MedsagaError(
            f"{folder} may not be read: ask who saved it for the permission to."
        ) from error
    except (OSError, ValueError) as error:
        raise MedsagaError(
            f"{folder} is no model folder: give the folder with card.json and "
            "weights.safetensors that a training wrote."
        ) from error
    if len(content) > LARGEST_CARD:
        raise MedsagaError(
            f"{path} is too large for a model card: give the folder that a training "
            "wrote."
        )
    return content

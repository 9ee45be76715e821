"""What an interrupted training is about. Importing this imports no torch."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medsaga.data.classes import ClassTable
from medsaga.errors import MedsagaError
from medsaga.models.run_record import RunRecord
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training.resuming.folders import check_is_there

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETUP = "setup.json"
"""Holds the setup of a training, but for its slices."""


@dataclass(frozen=True, kw_only=True)
class KnownImage:
    """An image of an interrupted training, to know it again by.

    Attributes
    ----------
    fingerprint
        Of its voxels (:func:`~medsaga.data.identity.fingerprint`).
    name
        What it was called.
    shape
        (z, y, x).
    """

    fingerprint: str
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingOutline:
    """What an interrupted training is about.

    Attributes
    ----------
    images
        What it learns from.
    classes
        What it tells apart.
    axis
        The axis of (z, y, x) that its slices are cut across.
    settings
        Its settings.
    record
        What it was given.
    """

    images: tuple[KnownImage, ...]
    classes: ClassTable
    axis: int
    settings: FineTuneSettings
    record: RunRecord


def read_outline(folder: Path) -> TrainingOutline:
    """Read what an interrupted training is about; `folder` is its journal's.

    Raises
    ------
    MedsagaError
        If it cannot be read.
    """
    with reading_journal(folder):
        content = read_document(folder)
        return TrainingOutline(
            images=tuple(
                KnownImage(**row | {"shape": tuple(row["shape"])})
                for row in content["images"]
            ),
            classes=ClassTable(**{k: tuple(v) for k, v in content["classes"].items()}),
            axis=content["axis"],
            settings=FineTuneSettings(**content["settings"]),
            record=RunRecord.from_json(content["record"]),
        )


def read_document(folder: Path) -> dict[str, Any]:
    """Read what is written of a setup beside its slices.

    Raises
    ------
    MedsagaError
        If it cannot be read.
    """
    with reading_journal(folder):
        content: dict[str, Any] = json.loads(
            (folder / SETUP).read_text(encoding="utf-8")
        )
        return content


@contextmanager
def reading_journal(folder: Path) -> Iterator[None]:
    """Turn whatever a damaged journal raises into a MedsagaError."""
    check_is_there(folder)
    try:
        yield
    except MedsagaError:
        raise
    except Exception as error:
        raise MedsagaError(
            f"The interrupted training in {folder} is damaged: delete that folder, and "
            "train anew."
        ) from error

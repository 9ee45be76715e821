"""A model card's JSON is checked here, once; imports no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError
from pydantic_core import from_json

from medsaga.data.canvas import Canvas
from medsaga.data.classes import ClassTable
from medsaga.data.identity import SliceId
from medsaga.data.intensity import IntensityRule
from medsaga.errors import MedsagaError
from medsaga.models.card import FORMAT_VERSION
from medsaga.models.card_document import CardDocument
from medsaga.models.run_record import RunRecord
from medsaga.propagation.trust import PaintTrust
from medsaga.settings.fields import Setting, describe
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from medsaga.models.card_document import SlicePart

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


def read_fields(content: bytes | str, subject: str) -> dict[str, Any]:
    """Read the JSON of a card, of any format version, as the fields of `ModelCard`.

    Parameters
    ----------
    content
        The file.
    subject
        What a sentence calls it.

    Raises
    ------
    MedsagaError
        If it is no card, one of a newer version, or one that says what cannot be; it
        names the field.
    """
    document = _parse(content, subject)
    try:
        version = document["format_version"]
        if version < FORMAT_VERSION:
            document |= _in_new_form(document)
        card = CardDocument.model_validate(document)
        settings = _settings(document["settings"], is_old=version < FORMAT_VERSION)
    except ValidationError as error:
        _refuse(subject, _in_words(error.errors(include_url=False)[0]), error)
    except ValueError as error:
        _refuse(subject, str(error), error)
    return document | {
        "classes": ClassTable(**_tuples(card.classes)),
        "intensity": IntensityRule(**card.intensity.model_dump()),
        "canvas": Canvas(**card.canvas.model_dump()),
        "settings": settings,
        "training_slices": _slices(card.training_slices),
        "held_out_slices": _slices(card.held_out_slices),
        "paint_trust": card.paint_trust and PaintTrust(**card.paint_trust.model_dump()),
        "run": card.run and RunRecord.from_json(card.run.model_dump()),
    }


def _refuse(subject: str, reason: str, error: Exception) -> NoReturn:
    raise MedsagaError(
        f"{subject} is damaged ({shown(reason, 300)}): copy the model again from "
        "where it was made."
    ) from error


def _parse(content: bytes | str, subject: str) -> dict[str, Any]:
    """Read JSON of bounded depth and numbers, and look at its version."""
    try:
        document = from_json(content, allow_inf_nan=False)
        _check_numbers(document)
        version = document["format_version"]
        if type(version) is not int or version < 1:
            raise ValueError(version)
    except (ValueError, TypeError, KeyError) as error:
        raise MedsagaError(
            f"{subject} is no model card: give the folder that a training wrote."
        ) from error
    if version > FORMAT_VERSION:
        raise MedsagaError(
            f"The model has format version {version}, this program reads "
            f"up to version {FORMAT_VERSION}: update napari-medsaga."
        )
    known: dict[str, Any] = document
    return known


def _check_numbers(value: Any) -> None:
    """Refuse numbers that overflow somewhere; no field is there for them."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("infinite")
        if isinstance(value, int) and not _SMALLEST <= value <= _LARGEST:
            raise ValueError("too large")
        return
    for one in value:
        _check_numbers(one)


def _in_new_form(document: dict[str, Any]) -> dict[str, Any]:
    """Give the slices of versions 1 and 2, a name and an index each, as those of 3."""
    axis = document.get("axis")
    names = ("training_slices", "held_out_slices")
    found = {name: document.get(name) for name in names}
    return {
        name: [_slice_in_new_form(row, axis) for row in rows]
        for name, rows in found.items()
        if isinstance(rows, list)
    }


def _slice_in_new_form(row: Any, axis: Any) -> Any:
    match row:
        case [str(name), int(index)]:
            return asdict(SliceId.from_name(name, axis, index))
    return row


def _settings(given: dict[str, Any], *, is_old: bool) -> dict[str, Any]:
    """Give settings that a training takes; of an old card those that there still are.

    Raises
    ------
    ValueError
        If one is not known, or cannot be.
    """
    if is_old:
        return {
            s.name: given[s.name] if _is_allowed(s, given) else s.default
            for s in describe(FineTuneSettings)
        }
    unknown = sorted(set(given) - {field.name for field in fields(FineTuneSettings)})
    if unknown:
        raise ValueError(f"settings has {shown(unknown[0])}, which is not known")
    try:
        settings = dict(vars(FineTuneSettings(**given)))
    except MedsagaError as error:
        raise ValueError(f"settings: {error}".rpartition(": ")[0]) from error
    if settings["precision"] == "auto":
        raise ValueError("settings: precision is 'auto', which a training decides")
    return settings


def _is_allowed(setting: Setting, given: dict[str, Any]) -> bool:
    try:
        setting.check(given[setting.name])
    except (KeyError, MedsagaError):
        return False
    return True


def _slices(rows: Iterable[SlicePart]) -> tuple[SliceId, ...]:
    return tuple(SliceId(**row.model_dump()) for row in rows)


def _tuples(part: BaseModel) -> dict[str, Any]:
    return {name: tuple(row) for name, row in part.model_dump().items()}


def _in_words(error: ErrorDetails) -> str:
    """Say what is wrong with which field: ``axis is 5, it should be ...``."""
    where = shown(".".join(map(str, error["loc"])) or "it")
    if error["type"] == "missing":
        return f"{where} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and isinstance(error["input"], dict):
        return f"{where} {message}"
    if error["type"] == "value_error":
        return f"{where} {message}, {shown(repr(error['input']), 40)}"
    wanted = message.replace("Input should", "it should").replace("String", "it")
    return f"{where} is {shown(repr(error['input']), 40)}, {wanted}"

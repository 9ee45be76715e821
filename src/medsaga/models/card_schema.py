"""What a model card must hold: its JSON is checked here, once; imports no torch."""

# pydantic reads the annotations when the module runs: they are no strings here.
import math
from collections.abc import Iterable
from dataclasses import asdict, fields
from datetime import datetime
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, from_json

from medsaga.data.canvas import Canvas
from medsaga.data.classes import LONGEST_NAME, MOST_CLASSES, ClassTable
from medsaga.data.identity import SliceId
from medsaga.data.intensity import IntensityRule
from medsaga.errors import MedsagaError
from medsaga.models.card import FORMAT_VERSION
from medsaga.network.backbones.catalogue import BACKBONES
from medsaga.settings.fields import Setting, describe
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.wording import shown

_LONGEST_TEXT = 10_000
_LARGEST_NUMBER = 2**63 - 1
_YEARS = range(1970, 9000)  # what the clocks of all systems show, whatever the zone
_LARGEST_SIDE = 2**16
_DEVICE = r"^(cpu|cuda|hpu|meta|mps|mtia|xpu)(:\d{1,2})?$"  # torch's names


def _check_created(text: str) -> str:
    try:
        year = datetime.fromisoformat(text).year
    except ValueError:
        raise ValueError("is no date") from None
    if year not in _YEARS:
        raise ValueError("is of a year that no model was trained in")
    return text


def _check_backbone(name: str) -> str:
    if name not in BACKBONES:
        raise ValueError("is none of those that this program has")
    return name


Text = Annotated[str, Field(max_length=_LONGEST_TEXT)]
Name = Annotated[str, Field(max_length=LONGEST_NAME)]
Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Axis = Annotated[int, Field(ge=0, le=2)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Side = Annotated[int, Field(ge=1, le=_LARGEST_SIDE)]


class _Part(BaseModel):
    """A part of the card: of exact types; what it has beside them is left out."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Classes(_Part):
    values: Annotated[list[int], Field(min_length=1, max_length=MOST_CLASSES)]
    names: list[Name]
    colours: list[Colour | None]

    @model_validator(mode="after")
    def _check_rows(self) -> "_Classes":
        n_names, n_colours = len(self.names), len(self.colours)
        if not len(self.values) == n_names == n_colours:
            raise ValueError(
                f"has {len(self.values)} values, {n_names} names and {n_colours} "
                "colours"
            )
        if self.values[0] != 0 or len(set(self.values)) != n_names:
            raise ValueError("has a value twice, or not 0 (background) as the first")
        return self


class _Intensity(_Part):
    kind: Literal["window", "percentiles"]
    low: float
    high: float

    @model_validator(mode="after")
    def _check_order(self) -> "_Intensity":
        if not self.low < self.high:
            raise ValueError(f"is empty, from {self.low:g} to {self.high:g}")
        if self.kind == "percentiles" and not 0 <= self.low < self.high <= 100:
            raise ValueError(f"has no percentiles, but {self.low:g} and {self.high:g}")
        return self


class _Canvas(_Part):
    long_side: Side
    multiple: Side
    neighbours: bool = False


class _Slice(_Part):
    image: Text
    axis: Axis
    index: Count
    image_name: Text
    is_2d: bool


class _Metrics(_Part):
    measured_on: Name
    dice: dict[Name, Amount]
    hd95: dict[Name, Amount]
    step: Count = 0


class _Measured(_Part):
    seconds: Amount
    peak_memory: Count
    device: Annotated[str, Field(pattern=_DEVICE)]
    threads: Count = 0
    projected_share: Amount = 0.0
    optimizer_state_bytes: Count = 0


class _Document(_Part):
    created: Annotated[str, AfterValidator(_check_created)]
    backbone: Annotated[str, AfterValidator(_check_backbone)]
    base_weights: Text
    base_sha256: Name | None
    detail_head: bool
    classes: _Classes
    intensity: _Intensity
    canvas: _Canvas
    axis: Axis
    settings: dict[Name, Any]
    training_slices: list[_Slice]
    held_out_slices: list[_Slice]
    data_fingerprint: Name
    metrics: _Metrics
    measured: _Measured
    software: dict[Name, Name]


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
        card = _Document.model_validate(document)
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
        if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
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


def _slices(rows: Iterable[_Slice]) -> tuple[SliceId, ...]:
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

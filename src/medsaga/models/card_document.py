"""What the JSON of a model card holds, field by field; imports no torch."""

# pydantic reads the annotations when the module runs: they are no strings here.
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from medsaga.data.classes import LONGEST_NAME, MOST_CLASSES
from medsaga.network.backbones.catalogue import BACKBONES

_LONGEST_TEXT = 10_000
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
Share = Annotated[float, Field(ge=0, le=1)]
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
    tile: Annotated[int, Field(ge=0, le=_LARGEST_SIDE)] = 0
    scale: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _check_tiles(self) -> "_Canvas":
        if self.tile % self.multiple or bool(self.tile) != bool(self.scale):
            raise ValueError(
                f"has tiles of {self.tile} at a scale of {self.scale:g}, for sizes "
                f"that are multiples of {self.multiple}"
            )
        return self


class SlicePart(_Part):
    """A slice that trained, or was held out."""

    image: Text
    axis: Axis
    index: Count
    image_name: Text
    is_2d: bool


class _Metrics(_Part):
    measured_on: Name
    dice: dict[Name, Share]
    hd95: dict[Name, Amount]
    expected_dice: dict[Name, Share] = {}
    step: Count = 0


class _Measured(_Part):
    seconds: Amount
    peak_memory: Count
    device: Annotated[str, Field(pattern=_DEVICE)]
    threads: Count = 0
    projected_share: Amount = 0.0
    optimizer_state_bytes: Count = 0


class _Pair(_Part):
    name: Text
    image_sha256: Name
    labels_sha256: Name


class _Run(_Part):
    command: list[Text]
    pairs: list[_Pair]
    slices: list[Count] | None
    empty_slices: list[Annotated[list[int], Field(min_length=2, max_length=2)]]
    window: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    start: Text | None
    accepted_slices: list[Count] = []


class _PaintTrust(_Part):
    growth: Annotated[float, Field(ge=0, le=1000)]
    n_pairs: Count


class CardDocument(_Part):
    """The whole card, in the form of the newest format version."""

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
    training_slices: list[SlicePart]
    held_out_slices: list[SlicePart]
    data_fingerprint: Name
    metrics: _Metrics
    measured: _Measured
    software: dict[Name, Name]
    run: _Run | None = None
    paint_trust: _PaintTrust | None = None

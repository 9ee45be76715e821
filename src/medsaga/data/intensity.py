"""Intensities: which ones become black and white, and the scaling to [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from medsaga.data.volume import Volume
    from medsaga.settings.fine_tune import Intensity

WINDOWS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "soft tissue": (-160, 240),  # level 40, width 400
        "lung": (-1350, 150),  # level -600, width 1500
        "bone": (-500, 1300),  # level 400, width 1800
        "brain": (0, 80),  # level 40, width 80
        "spleen and liver": (-45, 105),  # level 30, width 150
    }
)
"""CT windows in Hounsfield units, from level - width / 2 to level + width / 2.

Levels and widths are those that Radiopaedia lists ("Windowing (CT)"), but for the soft
tissue's level, for which 40 is as usual as its 50.
"""

_SAMPLE_SIZE = 1_000_000
_FEWEST_PIXELS = 30
_FEWEST_INSIDE = 0.25
# The span from the percentiles to the last tenth of what is left out of them (0.05 % at
# each end), at most so many times that between them.
_MOST_BEYOND = 3


@dataclass(frozen=True, kw_only=True)
class IntensityRule:
    """Which intensities become 0 and 1.

    Attributes
    ----------
    kind
        ``window``: `low` and `high` are intensities, the same for every image, such as
        Hounsfield units. ``percentiles``: they are percentiles of each image.
    low
        What becomes 0.
    high
        What becomes 1.

    Raises
    ------
    MedsagaError
        If `low` is not below `high`, or a percentile is not within 0 and 100.
    """

    kind: Literal["window", "percentiles"]
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (
            self.low < self.high
            and math.isfinite(self.low)
            and math.isfinite(self.high)
        ):
            raise MedsagaError(
                f"An intensity window from {self.low:g} to {self.high:g} is empty: "
                "give two numbers, the lower one first."
            )
        if self.kind == "percentiles" and not 0 <= self.low < self.high <= 100:
            raise MedsagaError(
                f"{self.low:g} and {self.high:g} are no percentiles: give numbers "
                "from 0 to 100."
            )

    def limits(self, volume: Volume) -> tuple[float, float]:
        """Intensities of `volume` that become 0 and 1; the first is always lower.

        Percentiles are taken of at most a million voxels, finite ones only, all colour
        channels together. Where small bright or dark objects lie far beyond them, the
        limits give way, or noise would fill the range.
        """
        if self.kind == "window":
            return self.low, self.high
        values = _sample(volume)
        if not values.size:
            return 0.0, 1.0
        low, high = self._percentiles(values)
        if not low < high:
            # A few bright specks on a uniform ground lie beyond both percentiles.
            low, high = _extremes(volume)
        return float(low), float(high) if low < high else float(low) + 1.0

    def _percentiles(self, values: NDArray[np.float64]) -> tuple[float, float]:
        """Take the percentiles, moved outwards where much of the range lies beyond."""
        beyond = self.low / 10, 100 - (100 - self.high) / 10
        darkest, low, high, brightest = np.percentile(
            values, (beyond[0], self.low, self.high, beyond[1])
        )
        return (
            min(low, high - (high - darkest) / _MOST_BEYOND),
            max(high, low + (brightest - low) / _MOST_BEYOND),
        )


def to_unit(array: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
    """Scale intensities linearly so that `limits` become 0 and 1, and clip.

    Parameters
    ----------
    array
        (rows, columns) or (rows, columns, 3), any real type. NaN becomes 0.
    limits
        What :meth:`IntensityRule.limits` gives for the image.
    """
    low, high = limits
    # In double precision: whole numbers above 2**24 lose their differences in single.
    scaled = (np.asarray(array, dtype=np.float64) - low) / (high - low)
    return np.nan_to_num(np.clip(scaled, 0.0, 1.0), nan=0.0).astype(np.float32)


def looks_like_hounsfield(volume: Volume) -> bool:
    """Whether the intensities are those of a CT in Hounsfield units, by their values.

    A CT shows air near -1000, and nothing lies below it but the padding outside the
    field of view, which has one value. That keeps signed phase images out.
    """
    if volume.is_rgb:
        return False
    values = _sample(volume)
    if not values.size or values.min() > -900:
        return False
    inside = values[values > values.min()]
    return bool(np.mean(values < -500) >= 0.01 and np.mean(inside < -1200) < 0.05)


def display_limits(volume: Volume) -> tuple[float, float]:
    """Give the intensities that a viewer shows well as black and white."""
    if looks_like_hounsfield(volume):
        return WINDOWS["soft tissue"]
    return _PERCENTILES.limits(volume)


def choose_intensity(
    intensity: Intensity,
    images: Sequence[Volume],
    labels: Sequence[Volume],
    window: tuple[float, float] | None = None,
    background_value: int | None = None,
) -> tuple[IntensityRule, str]:
    """Choose the rule for a training, with one sentence that says what and why.

    Parameters
    ----------
    intensity
        What the settings ask for.
    images
        At least one image.
    labels
        A mask of the same shape for each image; 0 is unlabelled.
    window
        (low, high), which wins over `intensity`.
    background_value
        Label value that means background, beside 0.

    Raises
    ------
    MedsagaError
        If the window is empty, or leaves every image all black or all white.
    """
    if window is not None:
        low, high = map(float, window)  # numpy's numbers overflow, and are not in JSON
        rule = IntensityRule(kind="window", low=low, high=high)
        _check_overlap(rule, images)
        return rule, f"Intensities from {_span(rule)} are used, as asked."
    if intensity == "percentiles":
        return _PERCENTILES, f"Each image is scaled from its {_SHARE}, as asked."
    is_ct = sum(map(looks_like_hounsfield, images)) > len(images) / 2
    if intensity != "auto":
        low, high = WINDOWS[intensity]
        rule = IntensityRule(kind="window", low=low, high=high)
        _check_overlap(rule, images)
        doubt = "" if is_ct else ", though these do not look like Hounsfield units"
        return rule, (
            f"The {intensity} window from {_span(rule)} is used, as asked{doubt}."
        )
    if is_ct:
        return _soft_tissue(images, labels, background_value)
    return _PERCENTILES, (
        "The images do not look like CT in Hounsfield units: each is scaled from its "
        f"{_SHARE}."
    )


_PERCENTILES = IntensityRule(kind="percentiles", low=0.5, high=99.5)
_SHARE = "0.5 to its 99.5 percentile"


def _soft_tissue(
    images: Sequence[Volume],
    labels: Sequence[Volume],
    background_value: int | None,
) -> tuple[IntensityRule, str]:
    """Give the soft-tissue window, widened for each class that it would hide."""
    low, high = WINDOWS["soft tissue"]
    hidden: list[int] = []
    for value, pixels in _pixels_by_class(images, labels):
        if value == background_value:
            continue  # air beside a patient is painted as background too
        # Gas in a bowel stays visible as black next to its grey wall, and a window that
        # reached down to it would take contrast from everything else. So only a class
        # that is nearly all outside widens the window.
        if np.mean((pixels >= low) & (pixels <= high)) < _FEWEST_INSIDE:
            first, last = np.percentile(pixels, (1, 99))
            low = min(low, math.floor(first / 10) * 10)
            high = max(high, math.ceil(last / 10) * 10)
            hidden.append(value)
    rule = IntensityRule(kind="window", low=low, high=high)
    if not hidden:
        return rule, (
            "The images look like CT in Hounsfield units: the soft tissue window from "
            f"{_span(rule)} is used."
        )
    named = ", ".join(map(str, hidden))
    return rule, (
        "The images look like CT in Hounsfield units: the soft tissue window is "
        f"widened to {_span(rule)}, so that what is labelled {named} can be seen."
    )


def _pixels_by_class(
    images: Sequence[Volume], labels: Sequence[Volume]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Give each label value with the intensities below it, if they are enough."""
    step = 1 + sum(int(np.count_nonzero(m.array)) for m in labels) // _SAMPLE_SIZE
    values, pixels = [], []
    for image, label in zip(images, labels, strict=True):
        # Slice by slice: of a lazy array only the labelled ones are computed.
        for z in np.flatnonzero(label.array.any(axis=(1, 2))):
            labelled = label.array[z] != 0
            values.append(label.array[z][labelled][::step])
            pixels.append(np.asarray(image.array[z])[labelled][::step])
    all_values, all_pixels = np.concatenate(values), np.concatenate(pixels)
    all_pixels = all_pixels.astype(np.float64)
    usable = np.isfinite(all_pixels) & np.isfinite(all_values)
    all_values, all_pixels = all_values[usable], all_pixels[usable]
    for value in np.unique(all_values):
        chosen = all_pixels[all_values == value]
        if chosen.size >= _FEWEST_PIXELS:
            yield int(value), chosen


def _check_overlap(rule: IntensityRule, images: Sequence[Volume]) -> None:
    ranges = [_extremes(image) for image in images]
    if any(low < rule.high and high > rule.low for low, high in ranges):
        return
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    raise MedsagaError(
        f"The intensity window from {_span(rule)} shows nothing, as the images range "
        f"from {low:g} to {high:g}: give a window within that range, or percentiles."
    )


def _span(rule: IntensityRule) -> str:
    return f"{rule.low:g} to {rule.high:g}"


def _sample(volume: Volume) -> NDArray[np.float64]:
    """Finite intensities on a regular grid of at most about a million voxels.

    The longest side is thinned first, so that of a few large slices none is left out.
    """
    steps, sides = [1, 1, 1], list(volume.shape)
    while math.prod(sides) > _SAMPLE_SIZE:
        longest = sides.index(max(sides))
        steps[longest] += 1
        sides[longest] = math.ceil(volume.shape[longest] / steps[longest])
    values = np.asarray(volume.array[tuple(slice(None, None, step) for step in steps)])
    values = values.astype(np.float64).ravel()
    finite: NDArray[np.float64] = values[np.isfinite(values)]
    return finite


def _extremes(volume: Volume) -> tuple[float, float]:
    """Smallest and largest finite intensity; (0, 0) where none is finite."""
    low, high = float(volume.array.min()), float(volume.array.max())
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    array = np.asarray(volume.array)
    values = array[np.isfinite(array)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)

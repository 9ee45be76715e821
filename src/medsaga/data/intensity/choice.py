"""The choice of a rule for a training, and the sentence that tells it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from medsaga.data.intensity.rule import (
    PERCENTILES,
    SHARE,
    WINDOWS,
    IntensityRule,
    looks_like_hounsfield,
)
from medsaga.data.intensity.values import SAMPLE_SIZE, extremes
from medsaga.data.on_demand import remembered
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from medsaga.data.volume import Volume
    from medsaga.settings.fine_tune import Intensity

_FEWEST_PIXELS = 30
_FEWEST_INSIDE = 0.25


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
        return PERCENTILES, f"Each image is scaled from its {SHARE}, as asked."
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
    return PERCENTILES, (
        "The images do not look like CT in Hounsfield units: each is scaled from its "
        f"{SHARE}."
    )


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
    step = 1 + sum(map(_count_labelled, labels)) // SAMPLE_SIZE
    values, pixels = [], []
    for image, label in zip(images, labels, strict=True):
        # Slice by slice: of a lazy array only the labelled ones are computed.
        marks = np.asarray(label.array)
        for z in np.flatnonzero(marks.any(axis=(1, 2))):
            labelled = marks[z] != 0
            values.append(marks[z][labelled][::step])
            pixels.append(np.asarray(image.array[z])[labelled][::step])
    all_values, all_pixels = np.concatenate(values), np.concatenate(pixels)
    all_pixels = all_pixels.astype(np.float64)
    usable = np.isfinite(all_pixels) & np.isfinite(all_values)
    all_values, all_pixels = all_values[usable], all_pixels[usable]
    for value in np.unique(all_values):
        chosen = all_pixels[all_values == value]
        if chosen.size >= _FEWEST_PIXELS:
            yield int(value), chosen


def _count_labelled(mask: Volume) -> int:
    return remembered(
        mask.array, "labelled", lambda: int(np.count_nonzero(np.asarray(mask.array)))
    )


def _check_overlap(rule: IntensityRule, images: Sequence[Volume]) -> None:
    ranges = [extremes(image) for image in images]
    if any(low < rule.high and high > rule.low for low, high in ranges):
        return
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    raise MedsagaError(
        f"The intensity window from {_span(rule)} shows nothing, as the images range "
        f"from {low:g} to {high:g}: give a window within that range, or percentiles."
    )


def _span(rule: IntensityRule) -> str:
    return f"{rule.low:g} to {rule.high:g}"

"""What is to be said of an image before a model looks at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medsaga.data.intensity.rule import (
    PERCENTILES,
    looks_like_hounsfield,
    to_unit,
)
from medsaga.data.intensity.values import extremes, sample_values
from medsaga.data.on_demand import ArrayOnDemand
from medsaga.wording import count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsaga.data.intensity.rule import IntensityRule
    from medsaga.data.volume import Volume

# Of the range from black to white: below it an image is one grey to a model.
_LEAST_CONTRAST = 0.05
_LOOKED_AT = 10_000


def image_doubts(volume: Volume, rule: IntensityRule) -> list[str]:
    """Say what of an image is not finite, and why a model may see nothing in it.

    Arrays that are computed when they are asked for are not looked at: all of them
    would be.
    """
    if not _is_in_memory(volume.array):
        return []
    doubts = []
    n_not_finite = volume.n_not_finite
    if n_not_finite is None:
        n_not_finite = _count_not_finite(volume.array)
    if n_not_finite:
        doubts.append(
            f"{volume.name} has {count(n_not_finite, 'voxel')} of no finite value (NaN "
            "or infinity): black to the model."
        )
    low, high = extremes(volume, _LOOKED_AT)
    if low == high:
        return [*doubts, f"{volume.name} is {low:g} everywhere: nothing is seen in it."]
    return [*doubts, *_window_doubts(volume, rule, low, high)]


def remember_values(volume: Volume) -> None:
    """Find out, of an array on demand, what a training asks of an image's values."""
    looks_like_hounsfield(volume)
    PERCENTILES.limits(volume)
    extremes(volume)
    extremes(volume, _LOOKED_AT)
    sample_values(volume, _LOOKED_AT)
    _ = volume.fingerprint


def _window_doubts(
    volume: Volume, rule: IntensityRule, low: float, high: float
) -> list[str]:
    if rule.kind != "window":
        return []
    ranges = (
        f"{volume.name} ranges from {low:g} to {high:g}, and the model sees "
        f"{rule.low:g} to {rule.high:g}"
    )
    seen = to_unit(sample_values(volume, _LOOKED_AT), rule.limits(volume))
    dark, bright = np.percentile(seen, (0.5, 99.5))
    if bright - dark < _LEAST_CONTRAST:
        return [
            f"{ranges}: to it the image is nearly one grey. Give the intensities of "
            "the images that it was trained on."
        ]
    if rule.low < 0 <= low:
        return [
            f"{ranges}, as of Hounsfield units: is this a CT in Hounsfield units? Give "
            "the intensities of the images that it was trained on."
        ]
    return []


def _is_in_memory(array: Any) -> bool:
    return isinstance(array, (np.ndarray, ArrayOnDemand))


def _count_not_finite(array: NDArray[Any]) -> int:
    if array.dtype.kind != "f":
        return 0
    return sum(int(np.count_nonzero(~np.isfinite(part))) for part in array)

"""The rule: which intensities become 0 and 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medsaga.data.intensity.values import extremes, sample_values
from medsaga.data.on_demand import remembered
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medsaga.data.volume import Volume

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

# The span from the percentiles to the last tenth of what is left out of them (0.05 % at
# each end), at most so many times that between them.
_MOST_BEYOND = 3
_VALUES_AT_ONCE = 2**20
# In Hounsfield units; what is darker is padding.
_DARKEST_AIR = -1100


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
        return remembered(volume.array, self, lambda: self._percentile_limits(volume))

    def _percentile_limits(self, volume: Volume) -> tuple[float, float]:
        values = sample_values(volume)
        if not values.size:
            return 0.0, 1.0
        low, high = self._percentiles(values)
        if not low < high:
            # A few bright specks on a uniform ground lie beyond both percentiles.
            low, high = extremes(volume)
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
    unit = np.empty(array.shape, np.float32)
    step = max(1, _VALUES_AT_ONCE // max(1, array[:1].size))
    for first in range(0, len(array), step):
        # In double precision: whole numbers above 2**24 lose their differences in
        # single. All rows at once would take eight times the memory.
        rows = np.asarray(array[first : first + step], dtype=np.float64)
        scaled = np.clip((rows - low) / (high - low), 0.0, 1.0)
        unit[first : first + step] = np.nan_to_num(scaled, nan=0.0)
    return unit


def looks_like_hounsfield(volume: Volume) -> bool:
    """Whether the intensities are those of a CT in Hounsfield units, by their values.

    A CT shows air near -1000, and nothing lies below it but the padding outside the
    field of view, which has one value. That keeps signed phase images out, and images
    of nothing negative but such padding: in a CT fat is negative too.
    """
    if volume.is_rgb:
        return False
    return remembered(volume.array, "hounsfield", lambda: _has_air_and_fat(volume))


def _has_air_and_fat(volume: Volume) -> bool:
    values = sample_values(volume)
    if not values.size or values.min() > -900:
        return False
    inside = values[values > values.min()]
    if values.min() < _DARKEST_AIR and np.mean(inside < 0) < 0.01:
        return False
    return bool(np.mean(values < -500) >= 0.01 and np.mean(inside < -1200) < 0.05)


def display_limits(volume: Volume) -> tuple[float, float]:
    """Give the intensities that a viewer shows well as black and white."""
    if looks_like_hounsfield(volume):
        return WINDOWS["soft tissue"]
    return PERCENTILES.limits(volume)


PERCENTILES = IntensityRule(kind="percentiles", low=0.5, high=99.5)
SHARE = "0.5 to its 99.5 percentile"

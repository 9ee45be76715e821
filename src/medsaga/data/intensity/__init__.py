"""Intensities: which ones become black and white, and the scaling to [0, 1]."""

from medsaga.data.intensity.choice import choose_intensity
from medsaga.data.intensity.doubts import image_doubts
from medsaga.data.intensity.rule import (
    WINDOWS,
    IntensityRule,
    display_limits,
    looks_like_hounsfield,
    to_unit,
)

__all__ = [
    "WINDOWS",
    "IntensityRule",
    "choose_intensity",
    "display_limits",
    "image_doubts",
    "looks_like_hounsfield",
    "to_unit",
]

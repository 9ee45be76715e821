"""Numbers as a sentence says them."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """Say a time in its two largest units: 45 s, 1 min 30 s, 2 h 5 min."""
    whole = max(0, round(seconds)) if math.isfinite(seconds) else 0
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _parts((whole // 60, "min"), (whole % 60, "s"))
    minutes = round(whole / 60)
    return _parts((minutes // 60, "h"), (minutes % 60, "min"))


def _parts(large: tuple[int, str], small: tuple[int, str]) -> str:
    return " ".join(f"{number} {unit}" for number, unit in (large, small) if number)


def count(number: int, noun: str) -> str:
    """Count things: 1 slice, 2 slices."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

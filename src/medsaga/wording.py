"""Numbers, and texts of others, as a sentence says them."""

from __future__ import annotations

import math
import unicodedata

# Of categories that are shown by no sign, or turn the signs around them; but these
# two, without which Persian or an emoji is another word.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
_ELLIPSIS = "…"


def shown(text: object, longest: int = 80) -> str:
    r"""Give a text of a file as plain text that is safe to show.

    Characters that no one sees, by which a terminal or a reader is misled, become their
    escapes: ``\x1b``, ``\n``, ``\u202e``. What is too long ends in an ellipsis.

    Parameters
    ----------
    text
        Whatever a file, a folder or a program says.
    longest
        Characters that are left of it, the ellipsis included.
    """
    whole = str(text)
    safe = "".join(map(_seen, whole[: longest + 1]))
    return safe if len(safe) <= longest else safe[: longest - 1] + _ELLIPSIS


def _seen(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _UNSEEN:
        return character
    return character.encode("unicode_escape").decode()


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


def verb(number: int) -> str:
    """Give the verb of so many things: is, are."""
    return "is" if number == 1 else "are"

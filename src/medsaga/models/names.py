"""Names of models that every file system takes."""

from __future__ import annotations

import re
import unicodedata

# Windows opens devices of these names, whatever the folder and the ending.
_DEVICES = re.compile(
    r"(con(in\$|out\$)?|prn|aux|nul|(com|lpt)[0-9¹²³])\s*(\..*)?", re.I
)
# Bytes. Windows takes 260 characters for a whole path, folder and weights included.
_LONGEST_NAME = 120


def safe_name(name: str) -> str:
    """Make a name that every file system takes; empty if nothing is left of it."""
    name = unicodedata.normalize("NFC", " ".join(name.split()))
    # Control, formatting and unassigned characters, and halves of surrogate pairs.
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C")
    name = re.sub(r'[<>:"/\\|?*]', "-", name)
    # Windows drops dots and spaces at the end; a dot in front would hide the model.
    name = name.lstrip(". ").encode()[:_LONGEST_NAME].decode(errors="ignore")
    name = name.rstrip(". ")
    if not any(c.isalnum() for c in name):
        return ""
    return f"_{name}" if _DEVICES.fullmatch(name) else name


def name_key(name: str) -> str:
    """Give what two names share that are one name to some file system."""
    return unicodedata.normalize("NFC", name).casefold()

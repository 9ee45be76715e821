"""Where the segmentation of image files puts its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class FileTarget:
    """Where the results of image files go.

    Attributes
    ----------
    folder
        It is made where there is none.
    replaces
        Whether results that are there already are written again.
    """

    folder: Path
    replaces: bool = False

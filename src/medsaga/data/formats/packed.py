"""Files that gzip has packed, and their checksums."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"\x1f\x8b"
_PIECE = 2**22
_LARGEST_HEADER = 2**20


def is_gzip(path: Path) -> bool:
    """Whether a file is packed, whatever it is called."""
    with path.open("rb") as file:
        return file.read(2) == _MAGIC


def check_sum(path: Path, promised: int) -> None:
    """Compare what is packed with its checksum, which comes at its end.

    Who reads no further than the last voxel gets another image for a flipped bit, and
    no word.

    Parameters
    ----------
    path
        Any file; one that is not packed has no checksum.
    promised
        Bytes of voxels that its header tells of. What goes far beyond them is not read.

    Raises
    ------
    OSError, EOFError, zlib.error
        If it is another than what was packed.
    """
    if not is_gzip(path):
        return
    left = promised + _LARGEST_HEADER
    with gzip.open(path) as file:
        while left > 0 and (piece := file.read(min(_PIECE, left))):
            left -= len(piece)

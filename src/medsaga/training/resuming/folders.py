"""Where trainings under way keep what they could go on from: a folder and a lock each.

Importing this imports no torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from filelock import FileLock, Timeout
from platformdirs import user_state_path
from safetensors import SafetensorError, safe_open

from medsaga.data.formats.leftovers import remove_leftovers, temporary_name
from medsaga.errors import MedsagaError
from medsaga.models.card import CARD
from medsaga.models.target import ModelTarget

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NOTES, STATE, MODEL = "training.json", "state.safetensors", "model"
FORMAT_VERSION = 1
_LOCK_ENDING = ".lock"
# Whatever else the user keeps in a folder that he chose is not touched.
_NAME = re.compile(r"training-[0-9a-f]{32}")


def state_folder() -> Path:
    """Give the folder for what interrupted trainings left.

    What the environment variable MEDSAGA_STATE says, else ``trainings`` in the user's
    folder for the state of programs.
    """
    chosen = os.environ.get("MEDSAGA_STATE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return user_state_path("medsaga", appauthor=False) / "trainings"


def new_folder(parent: Path) -> Path:
    """Give the path of a new training's folder."""
    return parent / f"training-{uuid4().hex}"


def folders_in(parent: Path) -> list[Path]:
    """List the folders of trainings; empty where there are none."""
    with suppress(OSError):
        return [p for p in parent.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
    return []


def is_worth_keeping(folder: Path) -> bool:
    """Whether a training can go on from a folder, or a model is in it."""
    return (folder / STATE).is_file() or (folder / MODEL / CARD).is_file()


def lock_of(folder: Path) -> FileLock:
    """Give the lock that the process of a training holds."""
    # Of any thread: a dock begins a training in one thread and ends it in another.
    return FileLock(folder.with_name(folder.name + _LOCK_ENDING), thread_local=False)


def is_held(folder: Path) -> bool:
    """Whether a process, this one included, trains in a folder.

    To be asked within :func:`in_order`: it takes the lock for a moment, which might be
    the very one in which another process wants it.
    """
    lock = lock_of(folder)
    if not Path(lock.lock_file).exists():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except (Timeout, OSError):
        return True


@contextmanager
def in_order(parent: Path) -> Iterator[Path]:
    """Let one process at a time make and take folders; says what the disk refuses."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f"trainings{_LOCK_ENDING}"):
            yield parent
    except OSError as error:
        raise MedsagaError(
            f"The states of trainings cannot be kept in {parent} "
            f"({error.strerror or error}): make room there, or name another folder in "
            "the environment variable MEDSAGA_STATE."
        ) from error


def remove_stillborn(parent: Path) -> None:
    """Remove what was killed before its first state, and locks without a folder."""
    remove_leftovers(parent)
    for folder in folders_in(parent):
        if not is_worth_keeping(folder) and not is_held(folder):
            remove_folder(folder)
    for path in parent.glob(f"*{_LOCK_ENDING}"):
        folder = path.with_suffix("")
        is_ours = _NAME.fullmatch(folder.name) is not None
        if is_ours and not folder.exists() and not is_held(folder):
            path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a training's folder, so that no half of it is ever found."""
    doomed = folder.with_name(temporary_name())
    with suppress(OSError):
        folder.rename(doomed)
    for path in (doomed, folder):
        shutil.rmtree(path, ignore_errors=True)


def read_state_notes(folder: Path) -> Mapping[str, Any]:
    """Read what the state of a training says of itself; how it begins without one."""
    try:
        with safe_open(folder / STATE, framework="numpy") as file:
            notes: dict[str, Any] = json.loads(file.metadata()["state"])
            return notes
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return {"phase": "head", "step": 0, "plan": {"steps": 0}}


def read_target(note: Mapping[str, Any] | None) -> ModelTarget | None:
    """Read where a model is to be saved, as it is noted."""
    if note is None:
        return None
    before = note["before"]
    return ModelTarget(
        path=Path(note["path"]),
        before=None if before is None else (before[0], before[1]),
    )


def check_is_there(folder: Path) -> None:
    """Raise MedsagaError if a training's folder is gone."""
    if not folder.is_dir():
        raise MedsagaError(
            "That training has been finished or discarded elsewhere: there is nothing "
            "left to go on with."
        )


def read_notes(folder: Path) -> dict[str, Any]:
    """Read what is noted of a training when it begins.

    Raises
    ------
    MedsagaError
        If it cannot be read.
    """
    check_is_there(folder)
    try:
        notes = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        if notes["format_version"] != FORMAT_VERSION:
            raise ValueError(notes["format_version"])
        return {key: notes[key] for key in ("name", "target", "asked")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedsagaError(
            f"The interrupted training in {folder} is damaged or of another version of "
            "napari-medsaga: delete that folder, and train anew."
        ) from error

"""What all readers and writers share: errors in words, and writes that are whole."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from medsaga.data.formats.catalogue import ending
from medsaga.data.formats.leftovers import remove_leftovers, temporary_name
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


def label_dtype(array: NDArray[Any]) -> np.dtype[Any]:
    """Give the smallest integer type that holds the whole numbers in `array`.

    Unsigned; signed, of 16 bits at least, where a value is negative.
    """
    low, high = int(array.min()), int(array.max())
    unsigned = (np.uint8, np.uint16, np.uint32, np.uint64)
    kinds = (np.int16, np.int32, np.int64) if low < 0 else unsigned
    limits = ((kind, np.iinfo(kind)) for kind in kinds)
    return np.dtype(next(k for k, i in limits if i.min <= low and high <= i.max))


def storable(array: NDArray[Any]) -> NDArray[Any]:
    """Give `array` in the type that it is written in.

    Labels take the smallest integer type that holds them, maps float32.
    """
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    return array.astype(label_dtype(array), copy=False)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a format's reader raises into a MedsagaError about `path`."""
    try:
        yield
    except MedsagaError:
        raise
    except FileNotFoundError as error:
        raise MedsagaError(
            f"There is no file {error.filename or path}: check the name."
        ) from error
    except PermissionError as error:
        raise MedsagaError(
            f"{path} may not be read: ask for the permission to."
        ) from error
    except MemoryError as error:
        raise MedsagaError(
            f"{path.name} does not fit into memory: crop or downsample it."
        ) from error
    except ModuleNotFoundError as error:
        raise MedsagaError(
            f"{path.name} needs the package {error.name}: install it with "
            f"pip install {error.name}, or convert the file."
        ) from error
    except Exception as error:  # readers raise anything on a broken file
        raise MedsagaError(
            f"{path.name} cannot be read: it is broken or no image; export it again, "
            "as NIfTI, TIFF or PNG."
        ) from error


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Give a new folder in `parent`, which is deleted in the end if it is still there.

    Not by `tempfile`, whose folders are their owner's alone: what is moved out of them
    stays so on Windows. What killed processes left in `parent` is deleted too.
    """
    remove_leftovers(parent)
    folder = parent / temporary_name()
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_room(folder: Path, n_bytes: int, what: str) -> None:
    """Check that a disk has room, as far as it says.

    Parameters
    ----------
    folder
        On that disk; need not be there yet.
    n_bytes
        How much is needed.
    what
        Begins the sentence, where there is too little.

    Raises
    ------
    MedsagaError
        If there is too little.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        free = shutil.disk_usage(existing).free
    except OSError:  # to write there will say more
        return
    if n_bytes > free:
        raise MedsagaError(
            f"{what} needs {n_bytes / 1e6:.0f} MB, but {free / 1e6:.0f} MB of the disk "
            f"are free at {folder}: make room there, or choose another place."
        )


def flush(path: Path) -> None:
    """Have a file on the disk itself, or a power cut may leave its name without it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, which takes its place on success.

    Its folder is made where there is none. After an error nothing is left behind, and
    a file that was there before is untouched.

    Raises
    ------
    MedsagaError
        If the file cannot be written there.
    """
    # Short, as the file's own name may be as long as names can be; the ending stays,
    # by which writers know what to write.
    temporary = path.with_name(temporary_name(ending(path)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    # A full disk is a SafetensorError where tensors are written.
    except (OSError, SafetensorError) as error:
        raise MedsagaError(
            f"{path} cannot be written ({getattr(error, 'strerror', None) or error}): "
            "choose another place, or make room there."
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()

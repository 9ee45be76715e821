"""Image files of any format: read and write them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsaga.data.formats.atomic import label_dtype
from medsaga.data.formats.catalogue import (
    FALLBACK,
    Format,
    format_names,
    format_of,
    stand_in,
)
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsaga.data.volume import Volume

# Scaled label files miss whole numbers by a rounding error.
_WHOLE = 1e-4
# Of grey between an image's darkest and brightest voxel.
_FEWEST_LEVELS = 4096
_LARGEST_LABEL = 2**63 - 1


def read_volume(path: Path | str) -> Volume:
    """Read an image of any format.

    Parameters
    ----------
    path
        A file. Formats of volumes are known by their endings, others by content.

    Returns
    -------
    Volume
        (z, y, x) or (z, y, x, 3), volumes in canonical order. Integers keep their
        type, fractions are float32, or float64 where single precision would take their
        contrast; the lowest finite value stands for NaN and infinity.

    Raises
    ------
    MedsagaError
        If the file is absent, broken, no image, or more than one.
    """
    path = Path(path)
    volume = _read(path)
    array = volume.array
    if array.dtype == bool:
        array = array.astype(np.uint8)
    n_not_finite = 0
    if array.dtype.kind == "f":
        array, n_not_finite = _finite(_in_precision(array), path)
    return replace(volume, array=array, n_not_finite=n_not_finite)


def read_labels(path: Path | str) -> Volume:
    """Read a mask of any format.

    Parameters
    ----------
    path
        A file of whole numbers, in any numeric type.

    Returns
    -------
    Volume
        (z, y, x) integers, as `read_volume` would order them; NaN is 0.

    Raises
    ------
    MedsagaError
        If the file cannot be read, or its values are fractions, colours or blurred by
        the format's compression.
    """
    path = Path(path)
    kind = format_of(path)
    if kind is not None and kind.blurs:
        raise MedsagaError(
            f"{path.name} is a {kind.name}, which blurs label values: save the labels "
            "as PNG."
        )
    volume = _read(path, as_labels=True)
    if volume.is_rgb:
        raise MedsagaError(
            f"{path.name} is a colour image: save the labels as one whole number for "
            "each pixel, 0 for background."
        )
    if volume.array.dtype == bool:
        return volume.with_array(volume.array.astype(np.uint8))
    if volume.array.dtype.kind == "f":
        return volume.with_array(_whole_numbers(volume.array, path))
    check_label_values(volume)
    return volume


def check_label_values(labels: Volume) -> None:
    """Check that whole numbers are such as a label can be.

    Raises
    ------
    MedsagaError
        If one is 2**63 or larger.
    """
    if labels.array.dtype == np.uint64 and labels.array.max() > _LARGEST_LABEL:
        raise MedsagaError(
            f"{labels.name} holds label values of 2**63 and more: number the labels "
            "anew, from 1 upwards."
        )


def write_volume(volume: Volume, path: Path | str, *, is_labels: bool = False) -> Path:
    """Write a mask, a map or a picture, atomically, and give the path it got.

    Parameters
    ----------
    volume
        Labels take the smallest integer type that holds them, maps float32. One made
        by ``with_array`` from a NIfTI file's volume goes back into that file's axis
        order, affine and header.
    path
        Ends in ``.nii``, ``.nii.gz``, ``.png``, ``.tif`` or ``.npy``. Its folder is
        made where there is none. What PNG cannot hold gets the ending ``.tif``.
    is_labels
        Say so in the file, where its format can: NIfTI.

    Raises
    ------
    MedsagaError
        If the path has another ending or the file cannot be written.
    """
    path = Path(path)
    return _written_format(path).write(volume, path, is_labels=is_labels)


def possible_outputs(path: Path) -> tuple[Path, ...]:
    """Give the names that :func:`write_volume` may give a file that is to be `path`.

    Raises
    ------
    MedsagaError
        If nothing is written under such a name.
    """
    _written_format(path)
    return tuple(dict.fromkeys((path, stand_in(path))))


def _written_format(path: Path) -> Format:
    kind = format_of(path)
    if kind is None or kind.writer is None:
        raise MedsagaError(
            f"{path.name} is of no format that is written: end the name in .nii.gz, "
            ".png, .tif or .npy."
        )
    return kind


def _read(path: Path, *, as_labels: bool = False) -> Volume:
    if path.is_dir():
        raise MedsagaError(f"{path} is a folder: give a file in it.")
    if path.is_symlink() and not path.exists():
        raise MedsagaError(
            f"{path} is a link to a file that is not there, {os.readlink(path)}: fetch "
            "that file, or delete the link."
        )
    if not path.is_file():
        raise MedsagaError(f"There is no file {path}: check the name.")
    kind = format_of(path)
    if kind is not None:
        return kind.read(path, as_labels=as_labels)
    try:
        return FALLBACK.read(path, as_labels=as_labels)
    except MedsagaError:
        raise MedsagaError(
            f"{path.name} is no image that can be read: give {format_names()}"
            f"{_advice(path)}."
        ) from None


def _advice(path: Path) -> str:
    with path.open("rb") as file:
        is_dicom = file.read(132)[128:] == b"DICM"
    return " (dcm2niix converts DICOM to NIfTI)" if is_dicom else ""


def _in_precision(array: NDArray[Any]) -> NDArray[Any]:
    """Give numbers in single precision, if that holds them and their differences."""
    if array.dtype.itemsize <= 4:
        return array.astype(np.float32, copy=False)
    finite = (part[np.isfinite(part)] for part in array)
    ends = [end for part in finite if part.size for end in (part.min(), part.max())]
    low, high = float(min(ends, default=0)), float(max(ends, default=0))
    largest, single = max(-low, high), np.finfo(np.float32)
    levels = np.inf
    if float(single.tiny) * 2**24 <= largest <= float(single.max):
        levels = (high - low) / (largest * float(single.eps))
    elif largest:
        levels = 0.0
    is_held = levels > _FEWEST_LEVELS or low == high
    return array.astype(np.float32 if is_held else np.float64, copy=False)


def _finite(array: NDArray[Any], path: Path) -> tuple[NDArray[Any], int]:
    """Put the lowest finite value in the place of those that are not; count them."""
    finite = np.isfinite(array)
    if finite.all():
        return array, 0
    if not finite.any():
        raise MedsagaError(
            f"{path.name} holds no finite value: export the image again."
        )
    lowest = array.min(where=finite, initial=np.inf)
    array = array.copy()
    array[~finite] = lowest
    return array, int(finite.size - np.count_nonzero(finite))


def _whole_numbers(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if np.isnan(array).any():  # as some programs write where nothing is labelled
        array = np.where(np.isnan(array), 0, array)
    # Infinity is its own rounding, and float64 counts exactly only up to 2 ** 53.
    in_range = np.abs([array.min(), array.max()]).max() <= 2.0**53
    if not in_range or any(np.abs(s - np.rint(s)).max() > _WHOLE for s in array):
        raise MedsagaError(
            f"{path.name} holds values that are no whole numbers: save the labels as "
            "whole numbers, 0 for background."
        )
    rounded: NDArray[Any] = np.rint(array)
    return rounded.astype(label_dtype(rounded))

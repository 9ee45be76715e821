"""Read what nibabel reads in canonical order; write masks in the file's own order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import apply_orientation, ornt_transform
from nibabel.spatialimages import SpatialImage

from medsaga.data.formats.atomic import reading, replacing, storable
from medsaga.data.formats.canonical import (
    CANONICAL,
    FileSpace,
    canonical_volume,
    new_header,
)
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from medsaga.data.volume import Volume

_LABEL_INTENT = 1002
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI's codes for metre and micron


def read_nifti(path: Path, *, as_labels: bool = False) -> Volume:
    """Read a NIfTI, MGH, MINC, AFNI or Analyze file as a canonical volume.

    Parameters
    ----------
    path
        Anything that nibabel reads as a spatial image.
    as_labels
        Makes no difference: numbers are given as they are either way.

    Returns
    -------
    Volume
        (z, y, x), axis 0 from foot to head, 1 from back to front, 2 from left to right;
        spacing and affine in mm (an unknown unit is taken as mm). Integers without
        scaling keep their type; intensities are as in the file, NaN included. A file
        with two axes is a 2-D image, (1, y, x) in the file's own order.

    Raises
    ------
    MedsagaError
        If the file is broken or no image, holds several volumes or complex numbers, or
        its affine has no inverse.
    """
    image, data = _load(path)
    return canonical_volume(
        data,
        np.asarray(image.affine, np.float64),
        path,
        mask_header=_mask_header(image.header),
        mm_per_unit=_mm_per_unit(image.header),
        holds_labels=_says_label(image.header),
    )


def write_nifti(volume: Volume, path: Path, *, is_labels: bool = False) -> Path:
    """Write a mask or a map as NIfTI, atomically, and give its path.

    A volume whose `source` is a file that :func:`read_nifti` read is written in that
    file's axis order, affine and header; only the data type, scaling and display range
    change. Others get a header made from their affine or spacing. Labels take the
    smallest integer type that holds them, maps float32.

    Parameters
    ----------
    volume
        (z, y, x), not RGB.
    path
        Ends in ``.nii`` or ``.nii.gz``.
    is_labels
        Say in the header that these are labels, by which programs know them.

    Raises
    ------
    MedsagaError
        If the volume is RGB or the file cannot be written.
    """
    if volume.is_rgb:
        raise MedsagaError("A colour image is not written as NIfTI: choose TIFF.")
    data = storable(volume.array).transpose(2, 1, 0)  # (x, y, z)
    if isinstance(volume.source, FileSpace):
        image = _in_place_of(volume.source, data)
    else:
        image = _placed_anew(volume, data)
    if is_labels:
        image.header.set_intent("label")
    with replacing(path) as temporary:
        image.to_filename(temporary)
    return path


def _load(path: Path) -> tuple[Any, NDArray[Any]]:
    with reading(path):
        # A memory map would keep the file open, and change when it is overwritten.
        image = nib.load(path, mmap=False)
        if not isinstance(image, SpatialImage):
            raise MedsagaError(
                f"{path.name} holds no image: give a volume, such as a NIfTI file."
            )
        return image, _numbers(image.dataobj)


def _numbers(stored: Any) -> NDArray[Any]:
    """Read what a file holds; small integers that are scaled, in single precision.

    In double precision, in which nibabel scales, a CT would take four times the memory
    that it is kept in.
    """
    if type(stored) is not ArrayProxy or (stored.slope, stored.inter) == (1, 0):
        return np.asanyarray(stored)
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        return np.asanyarray(stored)
    scaled: NDArray[Any] = stored.get_unscaled().astype(np.float32)
    scaled *= np.float32(stored.slope)
    scaled += np.float32(stored.inter)
    return scaled


def _mm_per_unit(header: Any) -> float:
    if not isinstance(header, nib.Nifti1Header):
        return 1.0
    return _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def _says_label(header: Any) -> bool:
    """Whether a header's intent is label; only NIfTI's have one."""
    is_nifti = isinstance(header, nib.Nifti1Header)
    return is_nifti and int(header["intent_code"]) == _LABEL_INTENT


def _mask_header(header: Any) -> Any | None:
    if isinstance(header, nib.Nifti2Header):
        return nib.Nifti2Header.from_header(header, check=False)
    if isinstance(header, nib.Nifti1Header):
        return nib.Nifti1Header.from_header(header, check=False)
    return None


def _in_place_of(source: FileSpace, data: NDArray[Any]) -> Any:
    back = ornt_transform(CANONICAL, source.orientation)
    data = apply_orientation(data, back).reshape(source.shape)
    return _image(data, source.affine, source.header.copy())


def _placed_anew(volume: Volume, data: NDArray[Any]) -> Any:
    affine = volume.affine
    if affine is None and volume.spacing is not None:
        affine = np.diag([*volume.spacing[::-1], 1.0])
    header = new_header(affine)
    if volume.is_2d:
        data = data[..., 0]
    return _image(data, np.eye(4) if affine is None else affine, header)


def _image(data: NDArray[Any], affine: NDArray[np.float64], header: Any) -> Any:
    header.set_data_dtype(data.dtype)
    # The display range of a CT would show a mask as black.
    header["cal_min"] = header["cal_max"] = 0
    two = isinstance(header, nib.Nifti2Header)
    kind = nib.Nifti2Image if two else nib.Nifti1Image
    return kind(data, affine, header, dtype=data.dtype)

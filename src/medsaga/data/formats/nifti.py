"""Read what nibabel reads in canonical order; write masks in the file's own order."""

from __future__ import annotations

import gzip
import os
from contextlib import ExitStack
from math import prod
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError, SpatialImage

from medsaga.data.formats.atomic import reading, replacing, storable
from medsaga.data.formats.canonical import (
    FileSpace,
    canonical_volume,
    is_invertible,
    new_header,
)
from medsaga.data.formats.catalogue import ending
from medsaga.data.formats.packed import check_sum, is_gzip
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsaga.data.volume import Volume

_LABEL_INTENT = 1002
_PACKED_ENDINGS = (".gz", ".mgz")
# At most so many bytes come of one: gzip's limit. Where bzip2 does more, as with an
# empty mask, that is small.
_MOST_PACKED = 1100
_ALWAYS_TRIED = 2**28
# Formats of a single file, which nibabel packs or not as the name says.
_FAMILIES = {
    ".nii": nib.Nifti1Image,
    ".nii.gz": nib.Nifti1Image,
    ".mgh": nib.MGHImage,
    ".mgz": nib.MGHImage,
}
# From it on all numbers are within half a step of a whole one.
_LARGEST_STEP = 1.0
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI's codes for metre and micron


def read_nifti(path: Path, *, as_labels: bool = False) -> Volume:
    """Read a NIfTI, MGH, MINC, AFNI or Analyze file as a canonical volume.

    Parameters
    ----------
    path
        Anything that nibabel reads as a spatial image.
    as_labels
        Round numbers that are whole ones but for the steps in which a scaled integer
        type could store them.

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
    image, data = _load(path, as_labels)
    forms = _forms(image)
    return canonical_volume(
        data,
        forms[0] if forms else np.asarray(image.affine, np.float64),
        path,
        forms=forms,
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
    array = storable(volume.array)
    if isinstance(volume.source, FileSpace):
        image = _in_place_of(volume.source, array)
    else:
        image = _placed_anew(volume, array.transpose(2, 1, 0))
    if is_labels:
        image.header.set_intent("label")
    with replacing(path) as temporary:
        image.to_filename(temporary)
    return path


def _load(path: Path, as_labels: bool) -> tuple[Any, NDArray[Any]]:
    with reading(path), ExitStack() as stack:
        image = _open(path, stack)
        if not isinstance(image, SpatialImage):
            raise MedsagaError(
                f"{path.name} holds no image: give a volume, such as a NIfTI file."
            )
        _check_promise(image, path)
        names = {holder.filename for holder in image.file_map.values()}
        for name in {str(path), *(one for one in names if isinstance(one, str))}:
            check_sum(Path(name), _promised(image.dataobj))
        if as_labels:
            return image, _label_numbers(image.dataobj)
        return image, _numbers(image.dataobj)


def _check_promise(image: Any, path: Path) -> None:
    """Refuse an image that its file cannot hold, before memory is taken for it."""
    stored = image.dataobj
    if not isinstance(stored, ArrayProxy):
        return
    promised = _promised(stored)
    name = stored.file_like if isinstance(stored.file_like, str) else path
    there = _MOST_PACKED * os.path.getsize(name)
    if promised > max(there, _ALWAYS_TRIED):
        raise MedsagaError(
            f"{path.name} is cut off: its header promises {promised / 1e9:.1f} GB, "
            "which the file cannot hold; copy or export it again."
        )


def _promised(stored: Any) -> int:
    """Bytes that an array takes in its file; 0 of one that is in memory."""
    if not isinstance(stored, ArrayProxy):
        return 0
    n_bytes: int = prod(map(int, stored.shape)) * stored.dtype.itemsize
    return n_bytes


def _open(path: Path, stack: ExitStack) -> Any:
    """Open a file by its content: its name may say wrongly whether it is packed.

    What is opened for that is closed with the `stack`.
    """
    is_packed = is_gzip(path)
    kind = _FAMILIES.get(ending(path))
    if kind is None or is_packed == ending(path).endswith(_PACKED_ENDINGS):
        # A memory map would keep the file open, and change when it is overwritten.
        return nib.load(path, mmap=False)
    # Not unpacked in one piece: a small file may become anything.
    packed_or_not: Any = gzip.open if is_packed else open
    stream = stack.enter_context(packed_or_not(path, "rb"))
    is_nifti2 = stream.read(4) in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540 bytes
    stream.seek(0)
    return (nib.Nifti2Image if is_nifti2 else kind).from_stream(stream)


def _label_numbers(stored: Any) -> NDArray[Any]:
    """Read labels; those that were stored as steps of a scale become whole again."""
    numbers: NDArray[Any] = np.asanyarray(stored)
    if type(stored) is not ArrayProxy or stored.dtype.kind not in "iu":
        return numbers
    slope = stored.slope
    if not 0 < abs(slope) < _LARGEST_STEP:
        return numbers
    whole: NDArray[Any] = np.rint(numbers)
    is_near = bool((np.abs(numbers - whole) <= abs(slope) / 2).all())
    return whole if is_near else numbers


def _numbers(stored: Any) -> NDArray[Any]:
    """Read what a file holds; small integers that are scaled, in single precision.

    In double precision, in which nibabel scales, a CT would take four times the memory
    that it is kept in.
    """
    if type(stored) is not ArrayProxy or (stored.slope, stored.inter) == (1, 0):
        return np.asanyarray(stored)
    # Steps that lie far from 0 differ in double precision alone.
    is_far = abs(stored.inter) > abs(stored.slope) * 2**22
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2 or is_far:
        return np.asanyarray(stored)
    scaled: NDArray[Any] = stored.get_unscaled().astype(np.float32)
    scaled *= np.float32(stored.slope)
    scaled += np.float32(stored.inter)
    return scaled


def _forms(image: Any) -> list[NDArray[np.float64]]:
    """Give the affines that a file says, the one to use first; not nibabel's guess.

    Of NIfTI's two the sform comes first, unless it is broken and the qform is not.
    """
    header = image.header
    if isinstance(header, nib.Nifti1Header):
        coded = [header.get_sform(coded=True), _qform(header)]
        given = [np.asarray(form, np.float64) for form, code in coded if code]
        return [form for form in given if is_invertible(form)] or given
    says_nothing = (
        (isinstance(header, MGHHeader) and not header["goodRASFlag"])
        # SPM keeps what its Analyze files say in a file of its own.
        or (isinstance(header, nib.AnalyzeHeader) and not _has_mat_file(image))
    )
    return [] if says_nothing else [np.asarray(image.affine, np.float64)]


def _qform(header: Any) -> tuple[NDArray[np.float64] | None, int]:
    try:
        form: tuple[NDArray[np.float64] | None, int] = header.get_qform(coded=True)
    except HeaderDataError:  # no rotation
        return None, 0
    return form


def _has_mat_file(image: Any) -> bool:
    mat = image.file_map.get("mat")
    return mat is not None and mat.filename is not None and exists(mat.filename)


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


def _in_place_of(source: FileSpace, array: NDArray[Any]) -> Any:
    data = source.stored(array).reshape(source.shape)
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

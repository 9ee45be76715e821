"""Read what nibabel reads in canonical order; write masks in the file's own order."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import (
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from nibabel.spatialimages import SpatialImage

from medsaga.data.formats.atomic import reading, replacing, storable
from medsaga.data.formats.catalogue import stem
from medsaga.data.volume import Volume
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# An orientation has a row per file axis: the canonical axis, and 1 or -1 for its sense.
_CANONICAL = np.array([[0, 1], [1, 1], [2, 1]], float)
_LABEL_INTENT = 1002
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI's codes for metre and micron


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """Where a volume came from, so that a mask can be put back in the same place.

    Attributes
    ----------
    header
        A NIfTI header for the mask: the file's own, or a new one for other formats.
    affine
        4 x 4, of the file's voxels, in the file's own units.
    shape
        Of the file's array, axes of length 1 after the third included.
    orientation
        (3, 2), nibabel's orientation of the file's axes.
    """

    header: Any
    affine: NDArray[np.float64]
    shape: tuple[int, ...]
    orientation: NDArray[np.float64]


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
    shape = data.shape
    rgb = data.dtype.names is not None
    data = _three_axes(_plain(data, path), len(shape), path)
    affine = np.asarray(image.affine, np.float64)
    orientation = _orientation(affine, len(shape), path)
    source = NiftiSource(_mask_header(image, affine), affine, shape, orientation)

    scale = np.diag([*[_mm_per_unit(image.header)] * 3, 1.0])
    canonical = scale @ affine @ inv_ornt_aff(orientation, data.shape[:3])
    data = apply_orientation(data, orientation)  # (x, y, z) or (x, y, z, 3)
    data = data.transpose((2, 1, 0, 3) if rgb else (2, 1, 0))
    x, y, z = (float(size) for size in voxel_sizes(canonical))
    return Volume(
        # torch takes neither negative strides nor foreign byte orders.
        array=np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("=")),
        affine=canonical,
        spacing=(z, y, x),
        name=stem(path),
        is_2d=len(shape) == 2,
        source=source,
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
        If the volume is RGB, the path has another ending or the file cannot be written.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise MedsagaError(f"{path.name} is no NIfTI name: end it in .nii or .nii.gz.")
    if volume.is_rgb:
        raise MedsagaError("A colour image is not written as NIfTI: choose TIFF.")
    data = storable(volume.array).transpose(2, 1, 0)  # (x, y, z)
    if isinstance(volume.source, NiftiSource):
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


def _plain(data: NDArray[Any], path: Path) -> NDArray[Any]:
    """Numbers without structure: RGB24 and RGBA32 get a trailing axis of 3."""
    names = data.dtype.names
    if names is not None and names[:3] == ("R", "G", "B"):
        return np.stack([data[channel] for channel in "RGB"], axis=-1)
    if data.dtype.kind not in "biuf":
        raise MedsagaError(
            f"{path.name} holds complex or structured values: save one number for each "
            "voxel, such as the magnitude."
        )
    return data


def _three_axes(data: NDArray[Any], n_axes: int, path: Path) -> NDArray[Any]:
    """Bring (i, j[, k[, 1 ...]][, 3]) to (i, j, k[, 3])."""
    spatial, colour = data.shape[:n_axes], data.shape[n_axes:]
    if n_axes < 2 or 0 in spatial:
        raise MedsagaError(
            f"{path.name} has the shape {spatial}: give a 2-D image or a 3-D volume."
        )
    n_volumes = prod(spatial[3:])
    if n_volumes > 1:
        raise MedsagaError(
            f"{path.name} holds {n_volumes} volumes: pick one volume and save it as a "
            "file of its own."
        )
    return data.reshape(*(*spatial, 1)[:3], *colour)


def _orientation(
    affine: NDArray[np.float64], n_axes: int, path: Path
) -> NDArray[np.float64]:
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-30:
        raise MedsagaError(
            f"The affine of {path.name} has no inverse, so that its axes are unknown: "
            "give the file a valid affine."
        )
    # A 2-D image has no slice to turn: it stays as it is in the file.
    orientation = io_orientation(affine) if n_axes > 2 else _CANONICAL
    return np.asarray(orientation, np.float64)


def _mm_per_unit(header: Any) -> float:
    if not isinstance(header, nib.Nifti1Header):
        return 1.0
    return _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def _says_label(header: Any) -> bool:
    """Whether a header's intent is label; only NIfTI's have one."""
    is_nifti = isinstance(header, nib.Nifti1Header)
    return is_nifti and int(header["intent_code"]) == _LABEL_INTENT


def _mask_header(image: Any, affine: NDArray[np.float64]) -> Any:
    header = image.header
    if isinstance(header, nib.Nifti2Header):
        return nib.Nifti2Header.from_header(header, check=False)
    if isinstance(header, nib.Nifti1Header):
        return nib.Nifti1Header.from_header(header, check=False)
    return _new_header(affine)


def _new_header(affine: NDArray[np.float64] | None) -> Any:
    header = nib.Nifti1Header()
    if affine is not None:
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1)
        if not np.allclose(header.get_qform(), affine, atol=1e-3):
            header.set_qform(affine, code=0)  # a quaternion cannot say a shear
        header.set_xyzt_units("mm")
    return header


def _in_place_of(source: NiftiSource, data: NDArray[Any]) -> Any:
    back = ornt_transform(_CANONICAL, source.orientation)
    data = apply_orientation(data, back).reshape(source.shape)
    return _image(data, source.affine, source.header.copy())


def _placed_anew(volume: Volume, data: NDArray[Any]) -> Any:
    affine = volume.affine
    if affine is None and volume.spacing is not None:
        affine = np.diag([*volume.spacing[::-1], 1.0])
    header = _new_header(affine)
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

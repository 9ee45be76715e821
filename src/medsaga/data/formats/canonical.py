"""Canonical order: an oriented file's voxels as a volume, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Header
from nibabel.orientations import (
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
    ornt2axcodes,
    ornt_transform,
)

from medsaga.data.formats.catalogue import stem
from medsaga.data.volume import Volume
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# An orientation has a row per file axis: the canonical axis, and 1 or -1 for its sense.
CANONICAL = np.array([[0, 1], [1, 1], [2, 1]], float)


@dataclass(frozen=True, eq=False)
class FileSpace:
    """Where a volume came from, so that a mask can be put back in the same place.

    Attributes
    ----------
    header
        A NIfTI header for the mask: the file's own, or a new one for other formats.
    affine
        4 x 4, of the file's voxels, in the file's own units, to RAS+.
    shape
        Of the file's array, axes of length 1 after the third included.
    orientation
        (3, 2), nibabel's orientation of the file's axes.
    forms
        Every affine that the file gives, in mm, first the one that is used: NIfTI has
        room for two. Without any the file does not say how it is oriented, and the
        orientation is the format's guess.
    """

    header: Any
    affine: NDArray[np.float64]
    shape: tuple[int, ...]
    orientation: NDArray[np.float64]
    forms: tuple[NDArray[np.float64], ...] = ()

    @property
    def grid(self) -> tuple[int, int, int]:
        """Sides (i, j, k) of the voxels as stored, without axes of length 1 after."""
        i, j, k = (*self.shape, 1)[:3]
        return i, j, k

    def stored(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn grey voxels in canonical order (z, y, x) back to (i, j, k) as stored."""
        back = ornt_transform(CANONICAL, self.orientation)
        return np.asarray(apply_orientation(array.transpose(2, 1, 0), back))

    def canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn grey voxels as stored (i, j, k) to canonical order (z, y, x)."""
        return np.asarray(apply_orientation(array, self.orientation).transpose(2, 1, 0))

    def readings(self) -> list[FileSpace]:
        """Give the file as each of its forms would turn it, in mm."""
        return [
            replace(self, affine=form, orientation=io_orientation(form))
            for form in self.forms
        ]

    def canonical_affine(self) -> NDArray[np.float64]:
        """Give the affine of (x, y, z) in canonical order, in the file's own units."""
        turn: NDArray[np.float64] = inv_ornt_aff(self.orientation, self.grid)
        return self.affine @ turn

    def canonical_shape(self) -> tuple[int, int, int]:
        """Give the sides (z, y, x) in canonical order."""
        axes = self.orientation[:, 0].argsort()[::-1]
        z, y, x = (self.grid[axis] for axis in axes)
        return z, y, x

    def axis_codes(self) -> str:
        """Name where the axes lead, such as LPS: left, posterior, superior."""
        return "".join(ornt2axcodes(self.orientation))


class PlainFile:
    """Where a volume came from whose format does not say how it is oriented.

    Such a file is taken to hold (z, y, x), as programs write it that turn nothing.
    """

    forms: tuple[NDArray[np.float64], ...] = ()

    def stored(self, array: NDArray[Any]) -> NDArray[Any]:
        """Give grey voxels (z, y, x) as (i, j, k)."""
        return array.transpose(2, 1, 0)

    def canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """Give grey voxels (i, j, k) as (z, y, x)."""
        return array.transpose(2, 1, 0)


def canonical_volume(
    data: NDArray[Any],
    affine: NDArray[np.float64],
    path: Path,
    *,
    forms: Sequence[NDArray[np.float64]] = (),
    mask_header: Any | None = None,
    mm_per_unit: float = 1.0,
    holds_labels: bool = False,
) -> Volume:
    """Turn what an oriented file holds into canonical order.

    Parameters
    ----------
    data
        (i, j[, k[, 1 ...]]) as stored, numbers or structured colours.
    affine
        4 x 4, from (i, j, k) to RAS+: right, front and head are positive.
    path
        The file.
    forms
        Every affine that the file gives, `affine` first; none if it is a guess.
    mask_header
        A NIfTI header for its mask; by default a new one.
    mm_per_unit
        Of the affine's unit.
    holds_labels
        Whether the file says so.

    Returns
    -------
    Volume
        As :func:`~medsaga.data.formats.nifti.read_nifti` describes it; its source is a
        :class:`FileSpace`.

    Raises
    ------
    MedsagaError
        If there are several volumes or complex numbers, or the affine has no inverse.
    """
    shape = data.shape
    data = _three_axes(_plain(data, path), len(shape), path)
    orientation = _orientation(affine, len(shape), path)
    header = new_header(affine) if mask_header is None else mask_header
    scale = np.diag([*[mm_per_unit] * 3, 1.0])
    in_mm = tuple(scale @ form for form in forms)
    source = FileSpace(header, affine, shape, orientation, in_mm)
    canonical = scale @ source.canonical_affine()
    data = apply_orientation(data, orientation)  # (x, y, z) or (x, y, z, 3)
    data = data.transpose((2, 1, 0, 3) if data.ndim == 4 else (2, 1, 0))
    x, y, z = (float(size) for size in voxel_sizes(canonical))
    return Volume(
        # torch takes neither negative strides nor foreign byte orders.
        array=np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("=")),
        affine=canonical,
        spacing=(z, y, x),
        name=stem(path),
        is_2d=len(shape) == 2,
        source=source,
        holds_labels=holds_labels,
    )


def new_header(affine: NDArray[np.float64] | None) -> Any:
    """Make a NIfTI header that says where the voxels lie, in mm."""
    header = Nifti1Header()
    if affine is not None:
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1)
        if not np.allclose(header.get_qform(), affine, atol=1e-3):
            header.set_qform(affine, code=0)  # a quaternion cannot say a shear
        header.set_xyzt_units("mm")
    return header


def is_invertible(affine: NDArray[np.float64]) -> bool:
    """Whether an affine says where each voxel lies, and each axis leads."""
    if not np.isfinite(affine).all():
        return False
    try:
        with np.errstate(all="ignore"):
            is_singular = abs(np.linalg.det(affine[:3, :3])) < 1e-30
            # Beside one that is 1e30 times as long another axis has no direction.
            return not (is_singular or np.isnan(io_orientation(affine)).any())
    except np.linalg.LinAlgError:
        return False


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
    if not is_invertible(affine):
        raise MedsagaError(
            f"The affine of {path.name} has no inverse, so that its axes are unknown: "
            "give the file a valid affine."
        )
    # A 2-D image has no slice to turn: it stays as it is in the file.
    orientation = io_orientation(affine) if n_axes > 2 else CANONICAL
    return np.asarray(orientation, np.float64)

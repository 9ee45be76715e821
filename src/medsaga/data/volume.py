"""Volume: an image or a mask with its place in space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from medsaga.data.identity import SliceId, fingerprint
from medsaga.data.on_demand import remembered
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

AXIS_NAMES = {"axial": 0, "coronal": 1, "sagittal": 2}


@dataclass(frozen=True, eq=False, kw_only=True)
class Volume:
    """A stack of slices with its place in space.

    Attributes
    ----------
    array
        (z, y, x) or (z, y, x, 3) for RGB; a 2-D image is a stack of one slice. Files
        with an affine are read in canonical order, so that axis 0 runs from foot to
        head, axis 1 from back to front, axis 2 from left to right, whatever the order
        in the file. An array of another kind, such as a dask array or an
        :class:`~medsaga.data.on_demand.ArrayOnDemand`, is computed slice by slice.
    affine
        4 x 4, from (x, y, z, 1) voxel indices (NIfTI's i, j, k: the reverse of the
        array's axes) to mm; None where the file has none.
    spacing
        Voxel size in mm along (z, y, x); None where unknown.
    name
        What to call it: the file's name without its endings.
    is_2d
        True for a 2-D image, which is written back as one.
    source
        What the writer needs to put a mask back into the order, orientation and header
        of the file that this was read from; None for arrays.
    holds_labels
        Whether the file that this was read from says that it holds labels.
    n_not_finite
        How many of the file's voxels were NaN or infinite, for which another value
        stands here; None where they are not counted.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64] | None = None
    spacing: tuple[float, float, float] | None = None
    name: str = "image"
    is_2d: bool = False
    source: Any = None
    holds_labels: bool = False
    n_not_finite: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x): the shape without colour channels."""
        z, y, x = self.array.shape[:3]
        return z, y, x

    @property
    def is_rgb(self) -> bool:
        """True when the array has a trailing colour axis."""
        return self.array.ndim == 4

    def slice(self, axis: int, index: int) -> NDArray[Any]:
        """Slice `index` along `axis`: (rows, columns) or (rows, columns, 3)."""
        picked: NDArray[Any] = np.asarray(self.array[slice_place(axis, index)])
        return picked

    @cached_property
    def fingerprint(self) -> str:
        """What tells the image from others; see :func:`~medsaga.data.identity`."""
        return remembered(self.array, "fingerprint", lambda: fingerprint(self.array))

    def slice_id(self, axis: int, index: int) -> SliceId:
        """Say which slice is number `index` along `axis`."""
        return SliceId(
            image=self.fingerprint,
            axis=axis,
            index=index,
            image_name=self.name,
            is_2d=self.is_2d,
        )

    def slice_shape(self, axis: int) -> tuple[int, int]:
        """Rows and columns of a slice across `axis`."""
        rows, cols = (n for i, n in enumerate(self.shape) if i != axis)
        return rows, cols

    def check_slice(self, axis: int, index: int) -> None:
        """Raise MedsagaError if there is no slice `index` across `axis`."""
        last = self.shape[axis] - 1
        if not 0 <= index <= last:
            raise MedsagaError(
                f"{self.name} has no slice {index} across axis {axis}: give one from "
                f"0 to {last}."
            )

    def slice_spacing(self, axis: int) -> tuple[float, float] | None:
        """Pixel size in mm along (rows, columns) of a slice across `axis`."""
        if self.spacing is None:
            return None
        rows, columns = (s for i, s in enumerate(self.spacing) if i != axis)
        return rows, columns

    def with_array(self, array: NDArray[Any]) -> Volume:
        """Give the same place in space other values."""
        return replace(self, array=array, n_not_finite=None)


def check_axis(axis: int) -> None:
    """Raise MedsagaError if images are not sliced across such an axis."""
    if axis not in (0, 1, 2):
        raise MedsagaError(f"There is no axis {axis}: choose 0, 1 or 2.")


def slice_place(axis: int, index: int) -> tuple[slice | int, ...]:
    """Give what an array (z, y, x) is indexed with for slice `index` across `axis`."""
    return (slice(None),) * axis + (index,)


def volume_from_array(
    array: NDArray[Any],
    *,
    spacing: Sequence[float] | None = None,
    name: str = "image",
    rgb: bool | None = None,
) -> Volume:
    """Make a Volume of a plain array.

    Parameters
    ----------
    array
        (y, x), (y, x, 3), (z, y, x) or (z, y, x, 3).
    spacing
        Voxel size in mm along the array's spatial axes, or None.
    name
        What to call it.
    rgb
        Whether the last axis is colour; None takes a last axis of 3 or 4 as colour
        when the array is uint8 and no spatial axis is that short.

    Raises
    ------
    MedsagaError
        If the array is no 2-D or 3-D image, grey or RGB.
    """
    if rgb is None:
        rgb = (
            array.ndim in (3, 4)
            and array.shape[-1] in (3, 4)
            and array.dtype == np.uint8
            and min(array.shape[:-1]) > 4
        )
    if rgb:
        array = array[..., :3]
    n_spatial = array.ndim - rgb
    if n_spatial not in (2, 3) or 0 in array.shape:
        raise MedsagaError(
            f"An array of shape {array.shape} is no image: give (y, x) or (z, y, x), "
            "with a last axis of 3 for colour."
        )
    if spacing is not None and len(spacing) != n_spatial:
        raise MedsagaError(
            f"The spacing has {len(spacing)} numbers for {n_spatial} axes: "
            "give one for each spatial axis."
        )
    is_2d = n_spatial == 2
    if is_2d:
        array = array[np.newaxis]
        spacing = None if spacing is None else (1.0, *spacing)
    z_y_x = (
        None
        if spacing is None  # its numbers may be NumPy's, which no JSON takes
        else (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    )
    return Volume(array=array, spacing=z_y_x, name=name, is_2d=is_2d)

"""Where a layer lies: its file's place in the patient, and the viewer's world."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari.layers import Layer
    from numpy.typing import NDArray

    from medsaga import Volume

_PLACE = "medsaga_place"
GEOMETRY = (
    *("scale", "translate", "rotate", "shear", "affine"),
    *("units", "axis_labels"),
)
# A volume's axes run to the head, the front and the right. napari draws the second
# downwards and the third to the right, and radiologists want the front at the top and
# the patient's right on the left: so both are mirrored, on the layer, not in the array.
_RADIOLOGICAL = np.diag([1.0, -1.0, -1.0, 1.0])

# Grids that agree to this fraction of a voxel are one.
SAME_VOXEL = 0.01


@dataclass(frozen=True, eq=False)
class Place:
    """What a layer cannot hold of its file's place in space: see `Volume`.

    `shape` is that of the layer, without colour channels.
    """

    affine: NDArray[np.float64] | None
    spacing: tuple[float, float, float] | None
    is_2d: bool
    source: Any
    shape: tuple[int, ...]

    @classmethod
    def of(cls, volume: Volume) -> Place:
        """Take the place of a volume."""
        shape = volume.shape[volume.is_2d :]
        return cls(volume.affine, volume.spacing, volume.is_2d, volume.source, shape)

    def geometry(self) -> dict[str, Any]:
        """Give the keyword arguments that show a layer in this place."""
        names = ("y", "x") if self.is_2d else ("z", "y", "x")
        options: dict[str, Any] = {"axis_labels": names}
        if self.spacing is not None:
            spacing = self.spacing[self.is_2d :]
            options |= {"scale": spacing, "units": ("mm",) * len(spacing)}
            if self.affine is not None and not self.is_2d:
                options |= self._position(self.affine, np.array(self.spacing))
        return options

    def _position(
        self, affine: NDArray[np.float64], spacing: NDArray[np.float64]
    ) -> dict[str, Any]:
        # Of an oblique volume the centre stays where it is, so that it overlaps with
        # others of the same patient as well as it can.
        centre = (np.array(self.shape) - 1) / 2
        true_centre = (affine @ [*centre[::-1], 1.0])[2::-1]
        corner = (true_centre - spacing * centre).round(9)
        return {"translate": tuple(corner.tolist()), "affine": _RADIOLOGICAL}


def place_options(volume: Volume) -> dict[str, Any]:
    """Give the keyword arguments that put a layer where a file's volume is.

    A volume with an affine gets scale and translate in mm, seen as radiologists do: the
    world's axes run to the head, the back and the patient's left. What is oblique in it
    is not shown, as napari can neither slice nor paint such layers. The true affine
    stays in the metadata, for the writers.
    """
    place = Place.of(volume)
    metadata: dict[str, Any] = {_PLACE: place}
    if volume.affine is not None:
        metadata["affine"] = volume.affine
    return place.geometry() | {"metadata": metadata}


def geometry_of(layer: Layer) -> dict[str, Any]:
    """Give the keyword arguments that put another layer exactly onto this one."""
    options = {name: getattr(layer, name) for name in GEOMETRY}
    options["affine"] = np.array(layer.affine.affine_matrix)
    place = place_of(layer)
    return options | ({} if place is None else {"metadata": {_PLACE: place}})


def place_of(layer: Layer) -> Place | None:
    """Give what the layer's metadata knows of its file's place, if anything."""
    return place_in(layer.metadata)


def place_in(metadata: Mapping[str, Any]) -> Place | None:
    """Give the place of a file that a layer's metadata hold, if any."""
    place = metadata.get(_PLACE)
    return place if isinstance(place, Place) else None


def world_affine(layer: Layer) -> NDArray[np.float64]:
    """Give the homogeneous matrix from a layer's array indices to the world."""
    n = layer.ndim
    origin = np.asarray(layer.data_to_world(np.zeros(n)))
    matrix = np.eye(n + 1)
    matrix[:n, n] = origin
    for axis, unit in enumerate(np.eye(n)):
        matrix[:n, axis] = np.asarray(layer.data_to_world(unit)) - origin
    return matrix


def world_in_mm(layer: Layer) -> NDArray[np.float64]:
    """Give the matrix from a layer's array indices to the world in mm.

    Axes whose unit is no length stay in that unit.
    """
    factors = [mm_per(unit) or 1.0 for unit in layer.units]
    return np.diag([*factors, 1.0]) @ world_affine(layer)


def mm_per(unit: Any) -> float | None:
    """Give the length of a unit in mm, None if it is no length."""
    quantity = 1 * unit
    return float(quantity.to("mm").magnitude) if quantity.check("[length]") else None


def ratios(units: Sequence[Any], others: Sequence[Any]) -> NDArray[np.float64]:
    """Give how many of the other unit each unit is; 1 where one is no length."""
    lengths = [(mm_per(a), mm_per(b)) for a, b in zip(units, others, strict=True)]
    return np.array([a / b if a and b else 1.0 for a, b in lengths])


def corners(shape: Sequence[int]) -> NDArray[np.float64]:
    """Give the indices of an array's corners, one a row, with a 1 after each."""
    return np.array([[*c, 1.0] for c in product(*((0, n - 1) for n in shape))])


def mirrored_axes(
    matrix: NDArray[np.float64], shape: Sequence[int]
) -> tuple[int, ...] | None:
    """Give the axes along which a grid runs against another one of the same shape.

    Parameters
    ----------
    matrix
        From the grid's indices to those of the other, homogeneous.
    shape
        Of both.

    Returns
    -------
    tuple of int or None
        None where the voxels of the two do not lie on each other.
    """
    mirrored = np.diag(matrix)[:-1] < 0
    expected = np.diag([*np.where(mirrored, -1.0, 1.0), 1.0])
    expected[:-1, -1] = np.where(mirrored, np.array(shape) - 1, 0)
    apart = corners(shape) @ (matrix - expected).T
    if np.abs(apart).max() > SAME_VOXEL:
        return None
    return tuple(np.flatnonzero(mirrored).tolist())

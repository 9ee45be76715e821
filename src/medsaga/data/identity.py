"""Which image is which, and which slice: whatever they are called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from medsaga.data.volume import Volume

_MOST_PLANES = 32
_ROWS_AT_ONCE = 1024
# Of a model that was made before images had fingerprints: its image's name stands in.
_BY_NAME = "name:"


@dataclass(frozen=True, kw_only=True)
class SliceId:
    """One slice of one image.

    Two are equal if image, axis and index are; the names are there to be shown.

    Attributes
    ----------
    image
        What :func:`fingerprint` gives of its image.
    axis, index
        The slice is cut across this axis of (z, y, x), at this index.
    image_name
        What its image was called.
    is_2d
        Whether the image has no other slice.
    """

    image: str
    axis: int
    index: int
    image_name: str = field(compare=False)
    is_2d: bool = field(compare=False)

    @property
    def name(self) -> str:
        """What to call it: as its image, with the index in 3-D."""
        return self.image_name if self.is_2d else f"{self.image_name} [{self.index}]"

    @classmethod
    def from_name(cls, name: str, axis: int, index: int) -> SliceId:
        """Tell a slice by its name, as models of format versions 1 and 2 do."""
        image_name = name.removesuffix(f" [{index}]")
        return cls(
            image=f"{_BY_NAME}{image_name}",
            axis=axis,
            index=index,
            image_name=image_name,
            is_2d=image_name == name,
        )

    def among(self, images: Iterable[Volume]) -> SliceId:
        """Give a slice that is told by a name the fingerprint of the image so called.

        Where none of the images is called so, and where it has a fingerprint already,
        it stays as it is.
        """
        if not self.image.startswith(_BY_NAME):
            return self
        named = (v for v in images if f"{_BY_NAME}{v.name}" == self.image)
        found = next(named, None)
        return self if found is None else replace(self, image=found.fingerprint)


def fingerprint(array: Any) -> str:
    """Tell an image from others by its values, in whatever type they are.

    Parameters
    ----------
    array
        (z, y, x) or (z, y, x, 3); of another kind than NumPy's, such as a lazy one, it
        is computed plane by plane. Of a deep stack 32 planes are looked at.

    Returns
    -------
    str
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256(str(tuple(map(int, array.shape))).encode())
    n = len(array)
    for index in np.unique(np.linspace(0, n - 1, min(n, _MOST_PLANES)).astype(int)):
        plane = np.asarray(array[int(index)])
        for start in range(0, len(plane), _ROWS_AT_ONCE):
            rows = plane[start : start + _ROWS_AT_ONCE].astype("<f4") + np.float32(0)
            digest.update(np.ascontiguousarray(rows).tobytes())  # and -0 became 0
    return digest.hexdigest()

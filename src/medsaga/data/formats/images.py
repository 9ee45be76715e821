"""Read and write 2-D images and stacks: PNG, JPEG, BMP, TIFF and NumPy arrays."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
from PIL.Image import DecompressionBombError

from medsaga.data.formats.atomic import reading, replacing, storable
from medsaga.data.formats.canonical import FileSpace, PlainFile
from medsaga.data.formats.catalogue import ending, stand_in, stem
from medsaga.data.formats.tiff import Pixels, read_tiff, without_alpha, write_tiff
from medsaga.data.volume import Volume, volume_from_array
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY_MAGIC = b"\x93NUMPY"


def read_image(path: Path, *, as_labels: bool = False) -> Volume:
    """Read a 2-D image, a stack of slices in one TIFF, or an array in an ``.npy``.

    The content decides on the format, not the name. Alpha is dropped, and a colour
    image whose channels are all equal becomes grey.

    Parameters
    ----------
    path
        The file.
    as_labels
        Of an image with a palette, give the indices and not the colours: the way in
        which labels are stored in one.

    Returns
    -------
    Volume
        (z, y, x) or (z, y, x, 3), the values as in the file. Spacing is known only
        where ImageJ or OME wrote it in a unit of length: the resolution of other files
        is that of a printer or a screen.

    Raises
    ------
    MedsagaError
        If the file is broken, no image, or holds more than one stack or channel.
    """
    with reading(path):
        with path.open("rb") as file:
            magic = file.read(6)
        if magic.startswith(_TIFF_MAGIC):
            pixels = read_tiff(path)
        elif magic == _NPY_MAGIC:
            pixels = Pixels(np.load(path, allow_pickle=False), rgb=None)
        else:
            pixels = _read_picture(path, as_labels)
    if pixels.array.dtype.kind not in "biuf":
        raise MedsagaError(
            f"{path.name} holds no plain numbers: save one real number for each pixel."
        )
    volume = volume_from_array(
        _native(pixels.array), spacing=pixels.spacing, name=stem(path), rgb=pixels.rgb
    )
    array = _grey_if_equal(volume.array)
    return replace(volume, array=array, source=PlainFile())


def write_image(volume: Volume, path: Path, *, is_labels: bool = False) -> Path:
    """Write a mask, a map or a picture, atomically, and give the path it got.

    Parameters
    ----------
    volume
        Labels take the smallest integer type that holds them, maps float32.
    path
        Ends in ``.png``, ``.tif``, ``.tiff`` or ``.npy``. What PNG cannot hold (a
        stack, fractions, values below 0 or above 65535) is written as TIFF, under the
        same name with the ending ``.tif``.
    is_labels
        No such format has a place to say so.

    Raises
    ------
    MedsagaError
        If the file cannot be written.
    """
    kind, volume = ending(path), _as_stored(volume)
    array = volume.array if volume.is_rgb else storable(volume.array)
    if volume.is_2d:
        array = array[0]
    if kind == ".png" and not _fits_png(array, volume):
        path, kind = stand_in(path), ".tif"
    with replacing(path) as temporary:
        if kind == ".png":
            iio.imwrite(temporary, array, plugin="pillow", extension=".png")
        elif kind == ".npy":
            # A name in capitals would get .npy added.
            with temporary.open("wb") as file:
                np.save(file, array)
        else:
            write_tiff(temporary, array, volume)
    return path


def _as_stored(volume: Volume) -> Volume:
    """Turn a volume of an oriented file back into the order that the file stores.

    These formats do not say how they are oriented, and what does not is read in that
    order (:func:`~medsaga.data.matching.match_labels`).
    """
    space = volume.source
    if not isinstance(space, FileSpace) or volume.is_rgb or volume.is_2d:
        return volume
    array = space.stored(volume.array).transpose(2, 1, 0)
    spacing = volume.spacing
    if spacing is not None:
        k, j, i = (spacing[2 - int(axis)] for axis in space.orientation[::-1, 0])
        spacing = (k, j, i)
    return replace(volume, array=array, spacing=spacing, affine=None, source=None)


def _read_picture(path: Path, as_labels: bool) -> Pixels:
    try:
        return _read_pixels(path, as_labels)
    except OSError as error:
        if not isinstance(error.__cause__, DecompressionBombError):
            raise
        raise MedsagaError(
            f"{path.name} has more pixels than a {ending(path)} file is trusted with: "
            "save it as TIFF."
        ) from error


def _read_pixels(path: Path, as_labels: bool) -> Pixels:
    # Of what is in memory already no more is read than there is.
    content = BytesIO(path.read_bytes())
    with iio.imopen(content, "r", plugin="pillow") as file:
        mode = file.metadata()["mode"]
        n_images = file.properties(index=...).n_images
        if n_images > 1:
            raise MedsagaError(
                f"{path.name} holds {n_images} pictures: save them as one TIFF stack, "
                "or as files of their own."
            )
        if mode == "P" and as_labels:
            array = file.read(index=0, mode="P")
        elif mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            array = file.read(index=0, mode="RGB")
        else:
            array = file.read(index=0)
    return without_alpha(array, has_channels=array.ndim == 3)


def _fits_png(array: NDArray[Any], volume: Volume) -> bool:
    kinds = (np.uint8,) if volume.is_rgb else (np.uint8, np.uint16)
    return volume.is_2d and array.dtype in kinds


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _grey_if_equal(array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim < 4:
        return array
    red, green, blue = np.moveaxis(array, -1, 0)
    equal = np.array_equal(red, green) and np.array_equal(red, blue)
    return red.copy() if equal else array

"""Read and write 2-D images and stacks: PNG, JPEG, BMP, TIFF and NumPy arrays."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import imageio.v3 as iio
import numpy as np
import tifffile
from PIL.Image import DecompressionBombError

from medsaga.data.formats.atomic import reading, replacing, storable
from medsaga.data.formats.catalogue import ending, stem
from medsaga.data.volume import Volume, volume_from_array
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY_MAGIC = b"\x93NUMPY"
# ImageJ's dialect of TIFF carries the voxel size, but only for these types.
_IMAGEJ_TYPES = (np.uint8, np.uint16, np.float32)
_MOST_CLASSIC_BYTES = 2**32 - 2**25  # of pixels, where a TIFF's offsets have 32 bits
_MM_PER_UNIT = {
    "nm": 1e-6,
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "\\u00B5m", "micron"), 1e-3),
    "microns": 1e-3,
    "mm": 1.0,
    "cm": 10.0,
}


class _Pixels(NamedTuple):
    """What a file holds: rgb says if the last axis is colour; None leaves it open."""

    array: NDArray[Any]
    rgb: bool | None
    spacing: tuple[float, ...] | None = None


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
            pixels = _read_tiff(path)
        elif magic == _NPY_MAGIC:
            pixels = _Pixels(np.load(path, allow_pickle=False), rgb=None)
        else:
            pixels = _read_picture(path, as_labels)
    if pixels.array.dtype.kind not in "biuf":
        raise MedsagaError(
            f"{path.name} holds no plain numbers: save one real number for each pixel."
        )
    volume = volume_from_array(
        _native(pixels.array), spacing=pixels.spacing, name=stem(path), rgb=pixels.rgb
    )
    return volume.with_array(_grey_if_equal(volume.array))


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
        If the path has another ending or the file cannot be written.
    """
    kind = ending(path)
    array = volume.array if volume.is_rgb else storable(volume.array)
    if volume.is_2d:
        array = array[0]
    if kind == ".png" and not _fits_png(array, volume):
        path, kind = path.with_name(f"{stem(path)}.tif"), ".tif"
    if kind not in (".png", ".npy", ".tif", ".tiff", ".ome.tif", ".ome.tiff"):
        raise MedsagaError(
            f"{path.name} does not keep values: end the name in .png, .tif or .npy."
        )
    with replacing(path) as temporary:
        if kind == ".png":
            iio.imwrite(temporary, array, plugin="pillow", extension=".png")
        elif kind == ".npy":
            with temporary.open(
                "wb"
            ) as file:  # a name in capitals would get .npy added
                np.save(file, array)
        else:
            _write_tiff(temporary, array, volume)
    return path


def _read_picture(path: Path, as_labels: bool) -> _Pixels:
    try:
        return _read_pixels(path, as_labels)
    except OSError as error:
        if not isinstance(error.__cause__, DecompressionBombError):
            raise
        raise MedsagaError(
            f"{path.name} has more pixels than a {ending(path)} file is trusted with: "
            "save it as TIFF."
        ) from error


def _read_pixels(path: Path, as_labels: bool) -> _Pixels:
    with iio.imopen(path, "r", plugin="pillow") as file:
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
    return _without_alpha(array, has_channels=array.ndim == 3)


def _read_tiff(path: Path) -> _Pixels:
    with tifffile.TiffFile(path) as tif:
        series = [s for s in tif.series if not s.keyframe.is_reduced] or tif.series
        if len({(s.shape, s.axes) for s in series}) > 1:
            raise MedsagaError(
                f"{path.name} holds images of different shapes: save one of them as a "
                "file of its own."
            )
        axes, shape = series[0].axes, series[0].shape
        if len(series) > 1:
            axes, shape = f"I{axes}", (len(series), *shape)
        try:
            stacks = [s.asarray() for s in series]
            array = np.stack(stacks) if len(stacks) > 1 else stacks[0]
            array = array.reshape(shape)
        except ValueError as error:
            if "imagecodecs" not in str(error) or "S" in axes[:-1]:
                raise
            array = _read_pages(path).reshape(shape)
        pixels = _arrange(array, axes, path)
        return pixels._replace(spacing=_tiff_spacing(tif, pixels))


def _read_pages(path: Path) -> NDArray[Any]:
    """Read compressions such as LZW, which tifffile needs a further package for."""
    with iio.imopen(path, "r", plugin="pillow") as file:
        pages: NDArray[Any] = file.read(index=...)
    return pages


def _arrange(array: NDArray[Any], axes: str, path: Path) -> _Pixels:
    """Bring axes by TIFF's letters to ([z,] y, x[, colour])."""
    singles = tuple(
        i for i, a in enumerate(axes) if a not in "YXS" and array.shape[i] == 1
    )
    array = array.squeeze(singles)
    axes = "".join(a for i, a in enumerate(axes) if i not in singles)
    others = "".join(a for a in axes if a not in "YXS")
    has_channels = "S" in axes
    if "C" in others or (has_channels and array.shape[axes.index("S")] > 4):
        raise MedsagaError(
            f"{path.name} has several channels: save one of them, an RGB image, or "
            "slices with their axes named ZYX."
        )
    if len(others) > 1:
        raise MedsagaError(
            f"{path.name} has {array.ndim} axes: save one volume of it, such as one "
            "time point, as a file of its own."
        )
    order = others + "YX" + "S" * has_channels
    array = array.transpose([axes.index(a) for a in order])
    return _without_alpha(array, has_channels)


def _without_alpha(array: NDArray[Any], has_channels: bool) -> _Pixels:
    if not has_channels:
        return _Pixels(array, rgb=False)
    if array.shape[-1] < 3:  # grey, or grey and alpha
        return _Pixels(array[..., 0], rgb=False)
    return _Pixels(array[..., :3], rgb=True)


def _tiff_spacing(tif: Any, pixels: _Pixels) -> tuple[float, ...] | None:
    """Give the size in mm along the spatial axes, if the file is sure of it."""
    sizes: Mapping[str, float | None] = {}
    if tif.is_imagej:
        sizes = _imagej_sizes(tif)
    elif tif.is_ome:
        sizes = _ome_sizes(tif)
    n_spatial = pixels.array.ndim - bool(pixels.rgb)
    spacing = [sizes.get(axis) or 0.0 for axis in "ZYX"[-n_spatial:]]
    if all(size > 0 and isfinite(size) for size in spacing):
        return tuple(spacing)
    return None


def _imagej_sizes(tif: Any) -> Mapping[str, float | None]:
    metadata, tags = tif.imagej_metadata or {}, tif.pages[0].tags
    unit = _MM_PER_UNIT.get(metadata.get("unit", ""))
    if unit is None or not {"XResolution", "YResolution"} <= {t.name for t in tags}:
        return {}
    sizes = {"Z": float(metadata.get("spacing", 0)) * unit}
    for axis in "XY":
        pixels, units = tags[f"{axis}Resolution"].value
        sizes[axis] = units / pixels * unit if pixels else 0.0
    return sizes


def _ome_sizes(tif: Any) -> Mapping[str, float | None]:
    pixels = ElementTree.fromstring(tif.ome_metadata).find(".//{*}Pixels")
    if pixels is None:
        return {}
    return {
        axis: float(pixels.get(f"PhysicalSize{axis}", 0))
        * _MM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "um"), 0.0)
        for axis in "XYZ"
    }


def _write_tiff(path: Path, array: NDArray[Any], volume: Volume) -> None:
    metadata: dict[str, Any] = {
        "axes": "YX" if volume.is_2d else "ZYX",
    }
    options: dict[str, Any] = {}
    is_large = array.nbytes > _MOST_CLASSIC_BYTES
    if volume.is_rgb:
        metadata["axes"] += "S"
    elif volume.spacing is not None and array.dtype in _IMAGEJ_TYPES and not is_large:
        z, y, x = volume.spacing
        metadata |= {"spacing": z, "unit": "mm"}
        options = {"imagej": True, "resolution": (1 / x, 1 / y)}
    tifffile.imwrite(
        path,
        array,
        photometric="rgb" if volume.is_rgb else "minisblack",
        compression="zlib",
        metadata=metadata,
        ome=False,
        bigtiff=is_large,
        **options,
    )


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

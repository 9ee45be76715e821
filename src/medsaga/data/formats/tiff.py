"""TIFF: stacks, their axes, and the voxel size that ImageJ and OME write."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from math import isfinite
from struct import unpack
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import imageio.v3 as iio
import numpy as np
import tifffile

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from medsaga.data.volume import Volume

# ImageJ's dialect of TIFF carries the voxel size, but only for these types.
_IMAGEJ_TYPES = (np.uint8, np.uint16, np.float32)
_UNCOMPRESSED = 1
_MM_PER_UNIT = {
    "nm": 1e-6,
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "\\u00B5m", "micron"), 1e-3),
    "microns": 1e-3,
    "mm": 1.0,
    "cm": 10.0,
}


class Pixels(NamedTuple):
    """What a file holds: rgb says if the last axis is colour; None leaves it open."""

    array: NDArray[Any]
    rgb: bool | None
    spacing: tuple[float, ...] | None = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tifffile from logging what a sentence of ours says."""
    log = logging.getLogger("tifffile")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def read_tiff(path: Path) -> Pixels:
    """Read the one image of a TIFF: of several sizes of it the largest.

    Raises
    ------
    MedsagaError
        If it holds more than one volume, channels other than colours, or is cut off.
    """
    with _quiet(), tifffile.TiffFile(path) as tif:
        _check_is_whole(tif, path)
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


def _check_is_whole(tif: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file that ends early: tifffile gives the pages before, and no error.

    The last page says that there is none after it, and all pixels lie in the file.
    """
    size, form = tif.filehandle.size, tif.tiff
    last = tif.pages[-1]
    tif.filehandle.seek(last.offset)
    (n_tags,) = unpack(form.tagnoformat, tif.filehandle.read(form.tagnosize))
    tif.filehandle.seek(last.offset + form.tagnosize + n_tags * form.tagsize)
    has_another = any(tif.filehandle.read(form.offsetsize))
    if (
        has_another
        or any(_lacks_pixels(page, size) for page in tif.pages)
        or (_lacks_slices(tif, size))
    ):
        raise MedsagaError(
            f"{path.name} is cut off: it has {len(tif.pages)} whole pages, and says "
            "that there is more; copy or export it again."
        )


def _lacks_pixels(page: Any, size: int) -> bool:
    """Whether pixels of a page lie beyond the end of the file."""
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if all(offset + count <= size for offset, count in places):
        return False
    if page.compression != _UNCOMPRESSED or page.is_tiled:
        return True
    # The last strip may be said to be longer than what is left of the page.
    there = sum(max(0, min(offset + count, size) - offset) for offset, count in places)
    return bool(there < page.nbytes)


def _lacks_slices(tif: tifffile.TiffFile, size: int) -> bool:
    """Whether a stack that ImageJ wrote as one page and a number is shorter than that.

    tifffile takes such a one for the single page.
    """
    page: Any = tif.pages[0]
    n_slices = int((tif.imagej_metadata or {}).get("images", 1)) if tif.is_imagej else 1
    if len(tif.pages) >= n_slices:
        return False
    return bool(page.dataoffsets[0] + n_slices * page.nbytes > size)


def _read_pages(path: Path) -> NDArray[Any]:
    """Read compressions such as LZW, which tifffile needs a further package for."""
    with iio.imopen(path, "r", plugin="pillow") as file:
        pages: NDArray[Any] = file.read(index=...)
    return pages


def _arrange(array: NDArray[Any], axes: str, path: Path) -> Pixels:
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
    return without_alpha(array, has_channels)


def write_tiff(path: Path, array: NDArray[Any], volume: Volume) -> None:
    """Write what is stored of a volume, and its voxel size if that has a place."""
    metadata: dict[str, Any] = {
        "axes": "YX" if volume.is_2d else "ZYX",
    }
    options: dict[str, Any] = {}
    is_large = not fits_classic_tiff(array.nbytes)
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


def fits_classic_tiff(n_bytes: int) -> bool:
    """Whether pixels of that size fit into a TIFF whose offsets have 32 bits."""
    return n_bytes <= 2**32 - 2**25


def without_alpha(array: NDArray[Any], has_channels: bool) -> Pixels:
    """Drop what is no colour of channels that come last."""
    if not has_channels:
        return Pixels(array, rgb=False)
    if array.shape[-1] < 3:  # grey, or grey and alpha
        return Pixels(array[..., 0], rgb=False)
    return Pixels(array[..., :3], rgb=True)


def _tiff_spacing(tif: Any, pixels: Pixels) -> tuple[float, ...] | None:
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

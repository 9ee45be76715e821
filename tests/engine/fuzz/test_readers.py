"""Image files that anything has happened to: read whole, or refused in one sentence."""

from __future__ import annotations

import gzip
import io
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import nibabel as nib
import numpy as np
import pytest
import tifffile
from hypothesis import given
from nibabel.testing import data_path
from tests.engine.fuzz.mutations import edits, given_or_refused, mutate

from medsaga import Volume, read_labels, read_volume

IMAGE = np.arange(3 * 8 * 10).reshape(3, 8, 10).astype(np.int16)
AFFINE = np.diag([1.0, -2.0, 3.0, 1.0])


def nifti(kind: Any = nib.Nifti1Image) -> bytes:
    image = kind(IMAGE, AFFINE)
    return bytes(image.to_bytes())


def mgh() -> bytes:
    return bytes(nib.MGHImage(IMAGE.astype(np.int32), AFFINE).to_bytes())


def tiff(**options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, IMAGE.astype(np.uint16), **options)
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, IMAGE)
    return file.getvalue()


FILES: dict[str, bytes] = {
    "a.nii": nifti(),
    "b.nii": nifti(nib.Nifti2Image),
    "a.nii.gz": gzip.compress(nifti(), mtime=0),
    "a.mgh": mgh(),
    "a.mgz": gzip.compress(mgh(), mtime=0),
    "a.mnc": (Path(data_path) / "tiny.mnc").read_bytes(),
    "a.tif": tiff(compression="zlib"),
    "b.tif": tiff(imagej=True, metadata={"axes": "ZYX", "spacing": 2, "unit": "mm"}),
    "a.ome.tif": tiff(ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 1}),
    "c.tif": tiff(tile=(16, 16)),
    "a.png": iio.imwrite("<bytes>", IMAGE[0].astype(np.uint8), extension=".png"),
    "a.npy": npy(),
}
# What is within a packed file is edited too: else hardly anything but the packing is.
PACKED = [name for name in FILES if name.endswith((".gz", ".mgz"))]


def check(path: Path) -> None:
    """Read a file in both ways."""
    for read in (read_volume, read_labels):
        volume = given_or_refused(partial(read, path))
        if volume is not None:
            check_volume(volume, path)


def check_volume(volume: Volume, path: Path) -> None:
    """Check that nothing is in a volume that the file does not promise, or less."""
    array = volume.array
    assert array.ndim in (3, 4)
    assert array.size > 0
    assert array.dtype.kind in "iuf"
    if array.dtype.kind == "f":
        assert np.isfinite(array).all()
    if path.suffix == ".npy":
        assert np.load(path).size == array.size
    elif path.name.endswith((".nii", ".nii.gz", ".mgh", ".mgz")) and array.ndim == 3:
        assert prod(nib.load(path).shape) == array.size


@pytest.mark.parametrize("name", FILES)
@given(wanted=edits())
def test_edited_images(name, wanted, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(mutate(FILES[name], wanted))
    check(path)


@pytest.mark.parametrize("name", PACKED)
@given(wanted=edits())
def test_images_that_were_edited_before_they_were_packed(
    name, wanted, tmp_path_factory
):
    path = tmp_path_factory.getbasetemp() / name
    content = mutate(gzip.decompress(FILES[name]), wanted)
    path.write_bytes(gzip.compress(content, mtime=0))
    check(path)

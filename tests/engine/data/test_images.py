from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from PIL import Image

from medsaga.data.formats import tiff
from medsaga.data.formats.images import read_image, write_image
from medsaga.data.volume import Volume, volume_from_array
from medsaga.errors import MedsagaError

GREY = np.arange(12 * 9, dtype=np.uint8).reshape(12, 9)
COLOUR = np.stack([GREY, GREY + 50, GREY + 100], axis=-1)
STACK = np.arange(5 * 12 * 9, dtype=np.uint16).reshape(5, 12, 9) + 300
ZYX = {"axes": "ZYX"}


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.gif", "a.webp"])
def test_grey_images_are_read_as_one_slice(name: str, tmp_path: Path) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    iio.imwrite(tmp_path / name, GREY, **options)
    volume = read_image(tmp_path / name)
    assert volume.is_2d
    assert volume.name == "a"
    np.testing.assert_array_equal(volume.array, GREY[None])


def test_jpeg_is_read(tmp_path: Path) -> None:
    smooth = np.full((16, 16), 100, np.uint8)
    smooth[:, 8:] = 180
    iio.imwrite(tmp_path / "a.jpg", smooth, quality=95)
    volume = read_image(tmp_path / "a.jpg")
    np.testing.assert_allclose(volume.array[0], smooth, atol=6)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_is_kept(name: str, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / name, STACK[0])
    volume = read_image(tmp_path / name)
    assert volume.array.dtype == np.uint16
    np.testing.assert_array_equal(volume.array[0], STACK[0])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_alpha_is_dropped(name: str, tmp_path: Path) -> None:
    alpha = np.full((12, 9, 1), 7, np.uint8)
    iio.imwrite(tmp_path / name, np.concatenate([COLOUR, alpha], axis=-1))
    volume = read_image(tmp_path / name)
    assert volume.is_rgb
    np.testing.assert_array_equal(volume.array[0], COLOUR)
    Image.fromarray(np.stack([GREY, GREY * 2], -1)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "la.png").array[0], GREY)


def test_equal_channels_become_grey(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", np.stack([GREY] * 3, axis=-1))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array, GREY[None])
    nearly = np.stack([GREY] * 3, axis=-1)
    nearly[0, 0, 2] += 1
    iio.imwrite(tmp_path / "b.png", nearly)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png").array, nearly[None])


def test_other_colour_spaces_become_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (9, 12), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    volume = read_image(tmp_path / "a.jpg")
    assert volume.array.shape == (1, 12, 9, 3)
    red = volume.array[0, 5, 5].astype(int)
    assert red[0] > 200
    assert red[1:].max() < 60


def test_palette_images_give_colours_or_indices(tmp_path: Path) -> None:
    picture = Image.fromarray(np.eye(8, dtype=np.uint8) * 2, mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").array[0, 3, 3].tolist() == [0, 255, 0]
    indices = read_image(tmp_path / "a.png", as_labels=True)
    np.testing.assert_array_equal(indices.array[0], np.eye(8) * 2)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.tif", STACK)
    (tmp_path / "a.tif").rename(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array, STACK)


def write_pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for page in STACK:
            writer.write(page)


def write_lzw(path: Path) -> None:
    pages = [Image.fromarray(page) for page in STACK]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_lzw")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: tifffile.imwrite(path, STACK),
        lambda path: tifffile.imwrite(path, STACK, imagej=True, metadata=ZYX),
        lambda path: tifffile.imwrite(path, STACK, ome=True, metadata=ZYX),
        lambda path: tifffile.imwrite(
            path, STACK[:, None], ome=True, metadata={"axes": "ZCYX"}
        ),
        lambda path: tifffile.imwrite(path, STACK.astype(">u2"), byteorder=">"),
        lambda path: tifffile.imwrite(
            path, STACK, imagej=True, metadata={"axes": "TYX"}
        ),
        write_pages,
        write_lzw,
    ],
    ids=["plain", "ImageJ", "OME", "OME-C", "big endian", "time", "pages", "LZW"],
)
def test_tiffs_of_many_kinds_are_stacks(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "a.tif")
    volume = read_image(tmp_path / "a.tif")
    assert not volume.is_2d
    assert not volume.is_rgb
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, STACK)


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_rgb_tiffs(planes: str, tmp_path: Path) -> None:
    pixels = COLOUR if planes == "contig" else COLOUR.transpose(2, 0, 1)
    options = {"photometric": "rgb", "planarconfig": planes}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    volume = read_image(tmp_path / "a.tif")
    assert volume.is_2d
    np.testing.assert_array_equal(volume.array[0], COLOUR)
    tifffile.imwrite(tmp_path / "s.tif", np.stack([pixels] * 4), **options)
    volume = read_image(tmp_path / "s.tif")
    np.testing.assert_array_equal(volume.array, np.stack([COLOUR] * 4))
    Image.fromarray(COLOUR).save(tmp_path / "l.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "l.tif").array[0], COLOUR)


def test_a_thumbnail_in_a_tiff_is_passed_over(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY, metadata=None)
        writer.write(GREY[::3, ::3], metadata=None, subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], GREY)


@pytest.mark.parametrize(
    ("array", "axes", "message"),
    [
        (np.zeros((2, 5, 12, 9), np.uint16), "TZYX", "time point"),
        (np.zeros((2, 12, 9), np.uint16), "CYX", "channels"),
        (np.zeros((5, 3, 12, 9), np.uint16), "ZCYX", "channels"),
    ],
)
def test_more_than_one_volume_is_refused(
    array: np.ndarray, axes: str, message: str, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, metadata={"axes": axes})
    with pytest.raises(MedsagaError, match=message):
        read_image(tmp_path / "a.tif")


def test_images_of_different_shapes_and_animations_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY, metadata=None)
        writer.write(GREY[:5], metadata=None)
    iio.imwrite(tmp_path / "a.gif", [GREY, GREY + 20])
    with pytest.raises(MedsagaError, match="different shapes"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(MedsagaError, match="2 pictures"):
        read_image(tmp_path / "a.gif")


def test_spacing_is_known_only_where_a_unit_of_length_is_written(
    tmp_path: Path,
) -> None:
    def spacing(array: np.ndarray, **options: object) -> tuple[float, ...] | None:
        tifffile.imwrite(tmp_path / "a.tif", array, **options)
        return read_image(tmp_path / "a.tif").spacing

    sizes = {"imagej": True, "resolution": (2, 4)}  # pixels per unit along x, y
    z_y_x = spacing(STACK, **sizes, metadata=ZYX | {"spacing": 3.0, "unit": "um"})
    np.testing.assert_allclose(z_y_x, (3e-3, 0.25e-3, 0.5e-3))
    _, y, x = spacing(STACK[0], **sizes, metadata={"unit": "mm"}) or (0, 0, 0)
    assert (y, x) == pytest.approx((0.25, 0.5))
    assert spacing(STACK, **sizes, metadata=ZYX | {"spacing": 3.0}) is None
    assert (
        spacing(STACK, **sizes, metadata=ZYX | {"spacing": 3.0, "unit": "px"}) is None
    )
    assert spacing(STACK, **sizes, metadata=ZYX | {"unit": "mm"}) is None
    assert spacing(STACK[0], resolution=(72, 72), resolutionunit="INCH") is None

    size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2.0}
    z_y_x = spacing(STACK, ome=True, metadata=ZYX | size)
    np.testing.assert_allclose(z_y_x, (2e-3, 0.25e-3, 0.5e-3))
    assert spacing(STACK, ome=True, metadata=ZYX) is None


def test_a_picture_of_too_many_pixels_is_told_what_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(MedsagaError, match="save it as TIFF"):
        read_image(tmp_path / "a.png")


def test_numpy_arrays(tmp_path: Path) -> None:
    for array, is_2d in ((GREY, True), (STACK, False), (STACK * 0.5, False)):
        np.save(tmp_path / "a.npy", array)
        volume = read_image(tmp_path / "a.npy")
        assert volume.is_2d == is_2d
        np.testing.assert_array_equal(volume.array.squeeze(), array)
    np.save(tmp_path / "a.npy", COLOUR)
    assert read_image(tmp_path / "a.npy").is_rgb
    for bad in (np.array([{}], object), GREY * 1j, np.zeros((2, 3, 4, 5)), np.zeros(3)):
        np.save(tmp_path / "a.npy", bad)
        with pytest.raises(MedsagaError):
            read_image(tmp_path / "a.npy")


def test_broken_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    for name in ("a.png", "a.tif", "a.jpg", "a.bmp"):
        iio.imwrite(tmp_path / name, noise)
        whole = (tmp_path / name).read_bytes()
        for content in (whole[: len(whole) // 2], whole[:9], b"", b"no image" * 9):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(MedsagaError, match=name):
                read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "name", "written", "dtype"),
    [
        ([0, 255], "m.png", "m.png", np.uint8),
        ([0, 65_535], "m.png", "m.png", np.uint16),
        ([0, 65_536], "m.png", "m.tif", np.uint32),
        ([-1, 5], "m.png", "m.tif", np.int16),
        ([0.25, 0.75], "m.png", "m.tif", np.float32),
        ([False, True], "m.png", "m.png", np.uint8),
        ([0, 300], "m.tif", "m.tif", np.uint16),
        ([0, 300], "m.npy", "m.npy", np.uint16),
    ],
)
@pytest.mark.parametrize("shape", [(12, 9), (3, 12, 9)])
def test_masks_are_written_in_the_smallest_type_and_come_back(
    shape: tuple[int, ...],
    values: list[float],
    name: str,
    written: str,
    dtype: type,
    tmp_path: Path,
) -> None:
    array = np.resize(np.array(values), shape)
    if len(shape) == 3:
        written = written.replace(".png", ".tif")
    path = write_image(volume_from_array(array, rgb=False), tmp_path / "new" / name)
    assert path == tmp_path / "new" / written
    assert [f.name for f in path.parent.iterdir()] == [written]
    again = read_image(path)
    assert again.array.dtype == dtype
    assert again.is_2d == (len(shape) == 2)
    np.testing.assert_array_equal(again.array.reshape(shape), array)


@pytest.mark.parametrize("n_slices", [1, 3, 4])
def test_pictures_are_written(n_slices: int, tmp_path: Path) -> None:
    volume = Volume(array=np.stack([COLOUR] * n_slices), is_2d=n_slices == 1)
    for name in ("a.png", "a.tif"):
        path = write_image(volume, tmp_path / name)
        np.testing.assert_array_equal(read_image(path).array, volume.array)


def test_a_stack_keeps_its_spacing(tmp_path: Path) -> None:
    volume = volume_from_array(STACK, spacing=(3.0, 0.5, 0.75))
    again = read_image(write_image(volume, tmp_path / "a.tif"))
    np.testing.assert_allclose(again.spacing, (3.0, 0.5, 0.75), rtol=1e-6)
    np.testing.assert_array_equal(again.array, STACK)


def test_what_a_classic_tiff_cannot_hold_is_written_as_a_bigtiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not tiff.fits_classic_tiff(2**32)
    monkeypatch.setattr(tiff, "fits_classic_tiff", lambda n_bytes: False)
    volume = volume_from_array(STACK, spacing=(3.0, 0.5, 0.75))
    path = write_image(volume, tmp_path / "a.tif")
    with tifffile.TiffFile(path) as tif:
        assert tif.is_bigtiff
    np.testing.assert_array_equal(read_image(path).array, STACK)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.97])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metadata": None},
        {"compression": "zlib"},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
        {"tile": (32, 32)},
        {"bigtiff": True},
        {"bigtiff": True, "compression": "zlib", "metadata": None},
    ],
    ids=str,
)
def test_a_stack_that_is_cut_off_is_no_smaller_stack(options, share, tmp_path) -> None:
    stack = np.random.default_rng(0).integers(0, 255, (20, 64, 64), dtype=np.uint8)
    path = tmp_path / ("a.ome.tif" if options.get("ome") else "a.tif")
    tifffile.imwrite(path, stack, photometric="minisblack", **options)
    np.testing.assert_array_equal(read_image(path).array, stack)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(MedsagaError, match=r"cut off|broken"):
        read_image(path)


def imagej_stack_of_one_page(path, stack) -> None:
    """As ImageJ writes it: one page, the other slices after it, and their number."""
    with tifffile.TiffWriter(path, byteorder=">") as tif:
        tif.write(
            stack[0],
            photometric="minisblack",
            metadata=None,
            description=f"ImageJ=1.53t\nimages={len(stack)}\nslices={len(stack)}\n",
            software=False,
        )
    with path.open("ab") as file:
        file.write(stack[1:].astype(stack.dtype.newbyteorder(">")).tobytes())


def test_a_stack_of_imagej_with_one_page_is_whole_or_refused(tmp_path) -> None:
    stack = np.random.default_rng(0).integers(0, 9999, (5, 64, 64), dtype=np.uint16)
    path = tmp_path / "a.tif"
    imagej_stack_of_one_page(path, stack)
    np.testing.assert_array_equal(read_image(path).array, stack)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MedsagaError, match=r"cut off|broken"):
        read_image(path)

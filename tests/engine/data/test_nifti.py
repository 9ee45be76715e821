from __future__ import annotations

import gzip
from importlib.util import find_spec
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from tests.real_images import DATA

from medsaga.data.formats.canonical import FileSpace
from medsaga.data.formats.nifti import read_nifti, write_nifti
from medsaga.data.volume import Volume, volume_from_array
from medsaga.errors import MedsagaError

needs_data = pytest.mark.skipif(
    not (DATA / "odd-files").is_dir(), reason="the shared images are not here"
)
ODD = DATA / "odd-files" / "nibabel"
READABLE = {
    "anatomical.nii",
    "reoriented_anat_moved.nii",
    "resampled_anat_moved.nii",
    "scaled+tlrc.BRIK",
    "scaled+tlrc.HEAD",
    "standard.nii.gz",
    "tiny.mnc",
    *(["small.mnc"] if find_spec("h5py") else []),  # MINC 2
}
RAS = axcodes2ornt("RAS")
ORDERS = [
    "".join(codes)
    for axes in permutations(("LR", "PA", "IS"))
    for codes in product(*axes)
]
# Fields that only say how the values are stored.
STORAGE = {"datatype", "bitpix", "scl_slope", "scl_inter", "cal_max", "cal_min"}


def anatomy() -> tuple[np.ndarray, np.ndarray]:
    """A canonical (x, y, z) array with no symmetry, and its slightly oblique affine."""
    data = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7) - 50
    turn = nib.eulerangles.euler2mat(0.1, -0.05, 0.08)
    affine = nib.affines.from_matvec(turn @ np.diag([1.5, 2.0, 3.0]), [-20, 11, 7])
    return data, affine


def save_in_order(codes: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write the anatomy in another axis order; give the (z, y, x) truth and affine."""
    data, affine = anatomy()
    to_file = ornt_transform(RAS, axcodes2ornt(codes))
    turned = nib.orientations.apply_orientation(data, to_file)
    image = nib.Nifti1Image(turned, affine @ inv_ornt_aff(to_file, data.shape))
    image.header.set_intent("label", name="organs")
    image.header["descrip"] = b"made for a test"
    image.set_qform(image.affine, code=3)
    image.set_sform(image.affine, code=2)
    image.to_filename(path)
    return data.transpose(2, 1, 0), affine


def assert_same_header(written: Path, original: Path) -> None:
    ours, theirs = nib.load(written).header, nib.load(original).header
    for field in theirs.structarr.dtype.names:
        if field not in STORAGE:
            np.testing.assert_array_equal(ours[field], theirs[field], err_msg=field)


def test_there_are_48_orders() -> None:
    assert len(set(ORDERS)) == 48


@pytest.mark.parametrize("codes", ORDERS)
def test_every_axis_order_is_read_canonically_and_written_back(
    codes: str, tmp_path: Path
) -> None:
    truth, affine = save_in_order(codes, tmp_path / "image.nii.gz")
    volume = read_nifti(tmp_path / "image.nii.gz")

    np.testing.assert_array_equal(volume.array, truth)
    assert volume.array.dtype == np.int16
    assert volume.array.flags.c_contiguous
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    np.testing.assert_allclose(volume.spacing, (3.0, 2.0, 1.5), rtol=1e-5)
    assert volume.name == "image"

    mask = (truth > 0).astype(np.int64) * 5
    write_nifti(volume.with_array(mask), tmp_path / "mask.nii.gz")
    original, written = (nib.load(tmp_path / f"{n}.nii.gz") for n in ("image", "mask"))
    np.testing.assert_array_equal(
        np.asanyarray(written.dataobj), (original.get_fdata() > 0) * 5
    )
    assert written.get_data_dtype() == np.uint8
    assert_same_header(tmp_path / "mask.nii.gz", tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "mask.nii.gz").array, mask)


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ([0, 255], np.uint8),
        ([0, 256], np.uint16),
        ([0, 70_000], np.uint32),
        ([0, 2**40], np.uint64),
        ([-1, 5], np.int16),
        ([-40_000, 5], np.int32),
        ([False, True], np.uint8),
        ([0.25, 1.0], np.float32),
    ],
)
def test_the_smallest_type_that_holds_the_values_is_written(
    labels: list[float], dtype: type, tmp_path: Path
) -> None:
    save_in_order("LPI", tmp_path / "image.nii")
    volume = read_nifti(tmp_path / "image.nii")
    array = np.resize(np.array(labels), volume.shape)
    write_nifti(volume.with_array(array), tmp_path / "mask.nii")
    assert nib.load(tmp_path / "mask.nii").get_data_dtype() == dtype
    np.testing.assert_array_equal(read_nifti(tmp_path / "mask.nii").array, array)


def test_scaling_is_applied_and_does_not_reach_the_mask(
    tmp_path: Path,
) -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    image.header["cal_max"] = 300
    image.to_filename(tmp_path / "ct.nii")
    volume = read_nifti(tmp_path / "ct.nii")
    np.testing.assert_array_equal(
        np.sort(volume.array, axis=None), np.arange(8) * 2 - 1024
    )
    assert volume.array.dtype == np.float32  # double would take twice the memory

    write_nifti(volume.with_array(np.full((2, 2, 2), 3)), tmp_path / "mask.nii")
    written = nib.load(tmp_path / "mask.nii")
    assert (np.asanyarray(written.dataobj.get_unscaled()) == 3).all()
    assert np.asanyarray(written.dataobj).dtype == np.uint8
    assert written.header["cal_max"] == 0


@pytest.mark.parametrize(
    ("unit", "mm"), [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)]
)
def test_spacing_is_in_mm_and_the_mask_keeps_the_unit(
    unit: str, mm: float, tmp_path: Path
) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([2.0, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "image.nii")
    volume = read_nifti(tmp_path / "image.nii")
    np.testing.assert_allclose(volume.spacing, np.array([4, 3, 2]) * mm)
    np.testing.assert_allclose(volume.affine, np.diag([2 * mm, 3 * mm, 4 * mm, 1]))
    write_nifti(volume, tmp_path / "mask.nii")
    written = nib.load(tmp_path / "mask.nii")
    assert written.header.get_xyzt_units()[0] == unit
    np.testing.assert_array_equal(written.affine, image.affine)


def test_only_one_of_two_affines_is_written_where_only_one_was(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), None)
    image.set_qform(np.diag([-2.0, 2, 2, 1]), code=1)
    image.to_filename(tmp_path / "image.nii")
    write_nifti(read_nifti(tmp_path / "image.nii"), tmp_path / "mask.nii")
    assert_same_header(tmp_path / "mask.nii", tmp_path / "image.nii")
    assert nib.load(tmp_path / "mask.nii").header["sform_code"] == 0


def test_a_2d_nifti_stays_2d(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(4, 3)
    nib.Nifti1Image(pixels, np.diag([-1.0, 2, 3, 1])).to_filename(tmp_path / "i.nii")
    volume = read_nifti(tmp_path / "i.nii")
    assert volume.is_2d
    np.testing.assert_array_equal(volume.array, pixels.T[None])
    np.testing.assert_allclose(volume.slice_spacing(0), (2, 1))
    write_nifti(volume, tmp_path / "mask.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii").dataobj, pixels)


def test_a_fourth_axis_of_one_is_dropped_and_comes_back(tmp_path: Path) -> None:
    data = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    nib.Nifti1Image(data, np.diag([-1.0, -1, 1, 1])).to_filename(tmp_path / "i.nii")
    volume = read_nifti(tmp_path / "i.nii")
    np.testing.assert_array_equal(volume.array, data[::-1, ::-1, :, 0].T)
    write_nifti(volume, tmp_path / "mask.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii").dataobj, data)


@pytest.mark.parametrize("channels", ["RGB", "RGBA"])
def test_rgb_becomes_a_trailing_axis(channels: str, tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    data = np.zeros((2, 3, 4), [(c, "u1") for c in channels])
    for i, channel in enumerate(channels):
        data[channel] = values[..., i]
    nib.Nifti1Image(data, np.diag([-1.0, 1, 1, 1])).to_filename(tmp_path / "i.nii")
    volume = read_nifti(tmp_path / "i.nii")
    assert volume.is_rgb
    expected = values[::-1, :, :, :3].transpose(2, 1, 0, 3)
    np.testing.assert_array_equal(volume.array, expected)
    write_nifti(volume.with_array(volume.array[..., 1]), tmp_path / "mask.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii").dataobj, data["G"])
    with pytest.raises(MedsagaError, match="colour"):
        write_nifti(volume, tmp_path / "rgb.nii")


def test_big_endian_nifti2_pairs_and_mgh(tmp_path: Path) -> None:
    data, affine = anatomy()
    big = nib.Nifti1Header(endianness=">")
    nib.Nifti1Image(data, affine, big, dtype=">i2").to_filename(tmp_path / "big.nii")
    nib.Nifti2Image(data, affine).to_filename(tmp_path / "two.nii.gz")
    pair = nib.Nifti1Pair(data, affine)
    pair.header.set_intent("z score", name="map")
    pair.set_sform(affine, code=4)
    pair.to_filename(tmp_path / "pair.img")
    nib.MGHImage(data.astype(np.int32), affine).to_filename(tmp_path / "m.mgz")
    for name in ("big.nii", "two.nii.gz", "pair.img", "pair.hdr", "m.mgz"):
        volume = read_nifti(tmp_path / name)
        np.testing.assert_array_equal(volume.array, data.transpose(2, 1, 0))
        assert volume.array.dtype.isnative
        write_nifti(volume, tmp_path / "out.nii.gz")
        written = nib.load(tmp_path / "out.nii.gz")
        np.testing.assert_array_equal(written.dataobj, data)
        np.testing.assert_allclose(written.affine, affine, atol=1e-4)
        assert isinstance(written, nib.Nifti2Image) == (name == "two.nii.gz")
        if name.startswith("pair"):
            assert int(written.header["sform_code"]) == 4
            assert written.header.get_intent()[0] == "z score"


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4)])
def test_a_volume_without_a_file_is_written_with_its_spacing(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    volume = volume_from_array(array, spacing=(3.0, 0.5, 0.25)[-len(shape) :])
    write_nifti(volume, tmp_path / "new" / "mask.nii.gz")
    again = read_nifti(tmp_path / "new" / "mask.nii.gz")
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.is_2d == volume.is_2d
    np.testing.assert_allclose(again.slice_spacing(0), (0.5, 0.25))
    header = nib.load(tmp_path / "new" / "mask.nii.gz").header
    assert header.get_xyzt_units()[0] == "mm"


def test_a_sheared_affine_without_a_file_is_kept(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1, 2, 1])
    affine[0, 2] = 0.6
    array = np.ones((3, 4, 5), np.uint8)
    write_nifti(Volume(array=array, affine=affine), tmp_path / "mask.nii")
    written = nib.load(tmp_path / "mask.nii")
    np.testing.assert_allclose(written.affine, affine, atol=1e-6)
    assert written.header["qform_code"] == 0


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = volume_from_array(np.ones((3, 4, 5), np.uint8))
    write_nifti(volume, tmp_path / "mask.nii.gz")
    before = (tmp_path / "mask.nii.gz").read_bytes()

    def full(self: nib.Nifti1Image, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_filename", full)
    with pytest.raises(MedsagaError, match="No space left"):
        write_nifti(volume, tmp_path / "mask.nii.gz")
    assert [f.name for f in tmp_path.iterdir()] == ["mask.nii.gz"]
    assert (tmp_path / "mask.nii.gz").read_bytes() == before


def broken_affine() -> nib.Nifti1Image:
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4))
    image.header["srow_z"] = 0
    return image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (nib.Nifti1Image(np.zeros((2, 3, 4, 5), np.uint8), np.eye(4)), "5 volumes"),
        (nib.Nifti1Image(np.zeros((2, 3, 4), np.complex64), np.eye(4)), "complex"),
        (nib.Nifti1Image(np.zeros(4, np.uint8), np.eye(4)), "shape"),
        (broken_affine(), "affine"),
    ],
)
def test_what_is_no_single_image_is_refused_in_a_sentence(
    image: nib.Nifti1Image, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.nii"
    path.write_bytes(image.to_bytes())
    if message == "affine":
        raw = bytearray(path.read_bytes())
        raw[312:328] = bytes(16)  # srow_z
        path.write_bytes(raw)
    with pytest.raises(MedsagaError, match=message) as caught:
        read_nifti(path)
    assert str(caught.value).startswith(("odd.nii", "The affine of odd.nii"))


def test_broken_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    save_in_order("RAS", tmp_path / "whole.nii.gz")
    whole = (tmp_path / "whole.nii.gz").read_bytes()
    for name, content in {
        "cut.nii.gz": whole[: len(whole) // 2],
        "text.nii": b"this is no image" * 50,
        "empty.nii": b"",
        "text.mgz": b"no image",
        "text.mnc": b"no image",
        "text.HEAD": b"no image",
        "alone.img": b"no header beside it",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MedsagaError):
            read_nifti(tmp_path / name)


@needs_data
def test_the_same_head_in_48_orders_is_one_array(tmp_path: Path) -> None:
    folder = DATA / "odd-files" / "niivue_nifti_space"
    head = read_nifti(folder / "RAS.nii.gz")
    paths = sorted(folder.glob("*.nii.gz"))
    assert len(paths) == 48
    for path in paths:
        volume = read_nifti(path)
        assert volume.shape == head.shape
        # Each was resampled and scaled on its own, so only nearly the same head.
        similarity = np.corrcoef(volume.array.ravel(), head.array.ravel())[0, 1]
        assert similarity > 0.99, path.name

        mask = volume.array > volume.array.mean()
        write_nifti(volume.with_array(mask), tmp_path / path.name)
        values = nib.load(path).get_fdata()
        written = nib.load(tmp_path / path.name)
        np.testing.assert_array_equal(written.dataobj, values > volume.array.mean())
        assert_same_header(tmp_path / path.name, path)


@needs_data
def test_real_odd_files_are_read_and_written_back(tmp_path: Path) -> None:
    for name in READABLE:
        volume = read_nifti(ODD / name)
        assert isinstance(volume.source, FileSpace)
        mask = np.isfinite(volume.array)
        write_nifti(volume.with_array(mask), tmp_path / "m.nii.gz")
        again = read_nifti(tmp_path / "m.nii.gz")
        np.testing.assert_array_equal(again.array, mask)
        np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)


@needs_data
def test_other_real_odd_files_are_refused_in_a_sentence() -> None:
    others = sorted({path.name for path in ODD.iterdir()} - READABLE)
    assert {"example4d.nii.gz", "row_major.dconn.nii", "0.dcm"} <= set(others)
    for name in others:
        with pytest.raises(MedsagaError) as caught:
            read_nifti(ODD / name)
        assert "\n" not in str(caught.value)


def test_an_affine_that_gives_an_axis_no_direction_is_told(tmp_path: Path) -> None:
    image = nib.Nifti2Image(np.ones((3, 4, 5), np.int16), np.diag([2.0, 2, 2, 1]))
    image.set_qform(np.diag([2.0, 2, 2, 1]), code=1)
    image.to_filename(tmp_path / "a.nii")
    rows = np.array([1, 0, 0, 0, 0, 1, 1e45, 0, 0, 0, 1, 0], "<f8")
    with (tmp_path / "a.nii").open("r+b") as file:  # nibabel would not write it
        file.seek(400)
        file.write(rows.tobytes())
    assert read_nifti(tmp_path / "a.nii").spacing == (2, 2, 2)  # by the other form
    with (tmp_path / "a.nii").open("r+b") as file:
        file.seek(344)
        file.write(bytes(4))  # there is no other
    with pytest.raises(MedsagaError, match="has no inverse"):
        read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgh"])
def test_a_header_that_promises_more_than_the_file_can_hold_is_told(
    name: str, tmp_path: Path
) -> None:
    kind = nib.MGHImage if name == "a.mgh" else nib.Nifti1Image
    content = bytearray(kind(np.ones((3, 4, 5), np.int16), np.eye(4)).to_bytes())
    if name == "a.mgh":
        content[4:16] = np.array([10_000] * 3, ">i4").tobytes()
    else:
        content[42:48] = np.array([10_000] * 3, "<i2").tobytes()
    is_packed = name.endswith(".gz")
    (tmp_path / name).write_bytes(gzip.compress(content) if is_packed else content)
    with pytest.raises(MedsagaError, match=r"its header promises 2000\.0 GB"):
        read_nifti(tmp_path / name)


def test_of_a_file_whose_name_hides_its_packing_only_what_is_needed_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.int16), np.eye(4)).to_bytes()
    (tmp_path / "a.nii").write_bytes(gzip.compress(image + bytes(2**24)))
    read: list[int] = []
    read_from = gzip.GzipFile.read

    def counted(file: gzip.GzipFile, size: int = -1) -> bytes:
        content = read_from(file, size)
        read.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    monkeypatch.setattr(gzip, "decompress", None)
    assert (read_nifti(tmp_path / "a.nii").array == 1).all()
    assert sum(read) < 2**21

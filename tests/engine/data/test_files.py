from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import imageio.v3 as iio
import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.real_images import DATA

from medsaga.data.files import read_labels, read_volume, write_volume
from medsaga.data.folders import image_files, listed, output_path, pair_files
from medsaga.data.formats.catalogue import Format, stem
from medsaga.data.inputs import as_volume_pairs
from medsaga.data.matching import check_pair
from medsaga.data.volume import Volume, volume_from_array
from medsaga.errors import MedsagaError

GREY = np.arange(12 * 9, dtype=np.uint8).reshape(12, 9)


def save_nifti(array: np.ndarray, path: Path) -> Path:
    """Write a (z, y, x) array as a canonical NIfTI file."""
    nib.Nifti1Image(array.T, np.eye(4), dtype=array.dtype).to_filename(path)
    return path


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ct.nii.gz", "ct"),
        ("CT.NII.GZ", "CT"),
        ("sub-01.T1w.nii", "sub-01.T1w"),
        ("x.jpg", "x"),
        ("cells.ome.tif", "cells"),
        ("scaled+tlrc.BRIK.gz", "scaled+tlrc"),
        ("notes.txt", "notes"),
        ("scan", "scan"),
    ],
)
def test_stem(name: str, expected: str) -> None:
    assert stem(Path("folder.d") / name) == expected


@pytest.mark.parametrize("name", ["a.nii.gz", "a.npy", "a.tif"])
def test_not_finite_values_become_the_lowest(name: str, tmp_path: Path) -> None:
    array = np.linspace(-5, 5, 60).reshape(3, 4, 5).astype(np.float32)
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    path = tmp_path / name
    if name == "a.nii.gz":
        save_nifti(array, path)
    elif name == "a.npy":
        np.save(path, array.astype(np.float64))
    else:
        write_volume(volume_from_array(array), path)
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    expected = np.where(np.isfinite(array), array, array[0, 0, 3])
    np.testing.assert_array_equal(volume.array, expected)


@pytest.mark.parametrize(
    ("low", "high"),
    [(1e300, 2e300), (1e9, 1e9 + 200), (-1e9 - 3, -1e9), (0, 1e-320), (0, 1e-45)],
)
def test_double_precision_stays_where_single_takes_the_contrast(
    low: float, high: float, tmp_path: Path
) -> None:
    array = np.linspace(low, high, 60).reshape(3, 4, 5)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.npy").array, array)
    save_nifti(array, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, array)


def test_a_scale_that_begins_far_from_zero_keeps_its_steps(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(1, 1e9)
    nib.save(image, tmp_path / "a.nii")
    assert len(np.unique(read_volume(tmp_path / "a.nii").array)) == 60


def test_what_is_not_finite_is_counted(tmp_path: Path) -> None:
    array = np.ones((3, 4, 5), np.float32)
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    np.save(tmp_path / "a.npy", array)
    assert read_volume(tmp_path / "a.npy").n_not_finite == 3


def test_bool_is_read_as_zero_and_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(5, dtype=bool))
    for read in (read_volume, read_labels):
        volume = read(tmp_path / "a.npy")
        assert volume.array.dtype == np.uint8
        np.testing.assert_array_equal(volume.array[0], np.eye(5))


def test_an_image_of_nothing_finite_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 4), np.nan))
    with pytest.raises(MedsagaError, match="finite"):
        read_volume(tmp_path / "a.npy")


def test_what_is_no_image_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "README").write_bytes(b"")
    (tmp_path / "slice.dcm").write_bytes(bytes(128) + b"DICM" + bytes(50))
    for name, message in {
        "notes.txt": "NIfTI",
        "README": "NIfTI",
        "slice.dcm": "dcm2niix",
        "absent.nii": "no file",
        "": "folder",
    }.items():
        for read in (read_volume, read_labels):
            with pytest.raises(MedsagaError, match=message) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)


def test_an_image_without_an_ending_is_known_by_its_content(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "scan.png", GREY)
    (tmp_path / "scan.png").rename(tmp_path / "scan")
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").array[0], GREY)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (np.float32([0, 1, 117, 5]), np.uint8),
        (np.float64([0, 1, 614_454_277, 5]), np.uint32),
        (np.float64([0, 1.00001, 2, 5]), np.uint8),
        (np.float32([0, -1, 2, 5]), np.int16),
        (np.int32([0, 1, 117, 5]), np.int32),
    ],
)
def test_whole_numbers_are_labels(
    stored: np.ndarray, dtype: type, tmp_path: Path
) -> None:
    array = np.resize(stored, (3, 4, 5))
    labels = read_labels(save_nifti(array, tmp_path / "l.nii.gz"))
    assert labels.array.dtype == dtype
    np.testing.assert_array_equal(labels.array, np.rint(array))


@pytest.mark.parametrize(
    ("values", "kind"),
    [(range(1, 13), np.uint8), ((1, 5, 117), np.int16), ((3, 250), np.uint8)],
)
def test_labels_stored_as_steps_of_a_scale_are_whole_again(
    values, kind, tmp_path: Path
) -> None:
    """As numbers with a point come to lie in a file with the header of a CT."""
    labels = np.zeros((3, 8, 8))
    labels.flat[: len(values)] = values
    path = tmp_path / "seg.nii.gz"
    image = nib.Nifti1Image(labels.transpose(2, 1, 0), np.eye(4))
    image.header.set_data_dtype(kind)
    nib.save(image, path)
    np.testing.assert_array_equal(read_labels(path).array, labels)


def test_a_map_that_was_stored_so_is_no_labels(tmp_path: Path) -> None:
    chances = np.linspace(0, 1, 60).reshape(3, 4, 5)
    image = nib.Nifti1Image(chances, np.eye(4))
    image.header.set_data_dtype(np.uint8)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(MedsagaError, match="no whole numbers"):
        read_labels(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.npy", "a.tif"])
def test_not_a_number_is_no_label(name: str, tmp_path: Path) -> None:
    labels = np.full((3, 4, 5), np.nan, np.float32)
    labels[1, 2] = 7
    path = tmp_path / name
    if name == "a.nii.gz":
        save_nifti(labels, path)
    elif name == "a.npy":
        np.save(path, labels)
    else:
        tifffile.imwrite(path, labels, photometric="minisblack")
    np.testing.assert_array_equal(read_labels(path).array, np.nan_to_num(labels))


def test_labels_beyond_what_counts_are_refused(tmp_path: Path) -> None:
    labels = np.zeros((3, 4, 5), np.uint64)
    labels[1] = 2**63
    np.save(tmp_path / "a.npy", labels)
    for read in (read_labels, partial(as_volume_pairs, np.zeros((3, 4, 5)))):
        given = tmp_path / "a.npy" if read is read_labels else labels
        with pytest.raises(MedsagaError, match=r"2\*\*63"):
            read(given)
    labels[1] = 2**63 - 1
    np.save(tmp_path / "a.npy", labels)
    assert int(read_labels(tmp_path / "a.npy").array.max()) == 2**63 - 1


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_name_may_say_wrongly_that_a_file_is_packed(kind, tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for true, wrong in (("a.nii", "b.nii.gz"), ("c.nii.gz", "d.nii")):
        nib.save(kind(array, np.diag([2, 3, 4, 1])), tmp_path / true)
        (tmp_path / true).rename(tmp_path / wrong)
        volume = read_volume(tmp_path / wrong)
        assert volume.spacing == (4, 3, 2)
        np.testing.assert_array_equal(volume.array, array.transpose(2, 1, 0))


@pytest.mark.parametrize("ending", [".nii.gz", ".png", ".tif", ".npy"])
def test_a_name_may_be_as_long_as_names_can_be(ending: str, tmp_path: Path) -> None:
    path = tmp_path / ("x" * (255 - len(ending)) + ending)
    mask = volume_from_array(np.eye(5, dtype=np.uint8))
    assert write_volume(mask, path) == path
    np.testing.assert_array_equal(read_labels(path).array, mask.array)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("bad", [0.5, np.inf, 1e300])
def test_other_numbers_are_no_labels(bad: float, tmp_path: Path) -> None:
    array = np.zeros((3, 4, 5))
    array[1, 2, 3] = bad
    with pytest.raises(MedsagaError, match="whole numbers"):
        read_labels(save_nifti(array, tmp_path / "l.nii.gz"))


def test_colours_and_jpegs_are_no_labels_but_palettes_are(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "rgb.png", np.stack([GREY, GREY, GREY + 1], -1))
    iio.imwrite(tmp_path / "l.jpg", GREY)
    palette = Image.fromarray(np.eye(8, dtype=np.uint8) * 2, mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png")
    with pytest.raises(MedsagaError, match="colour"):
        read_labels(tmp_path / "rgb.png")
    with pytest.raises(MedsagaError, match="JPEG"):
        read_labels(tmp_path / "l.jpg")
    labels = read_labels(tmp_path / "palette.png")
    np.testing.assert_array_equal(labels.array[0], np.eye(8) * 2)


def test_a_mask_is_written_in_the_format_of_the_path(tmp_path: Path) -> None:
    image = read_volume(save_nifti(np.zeros((3, 4, 5), np.int16), tmp_path / "i.nii"))
    mask = image.with_array(np.arange(60).reshape(3, 4, 5))
    for name, written in (
        ("a/m.nii.gz", "m.nii.gz"),
        ("a/m.tif", "m.tif"),
        ("a/m.png", "m.tif"),
        ("a/m.npy", "m.npy"),
    ):
        path = write_volume(mask, tmp_path / name)
        assert path == tmp_path / "a" / written
        np.testing.assert_array_equal(read_labels(path).array, mask.array)


def test_formats_that_lose_values_are_not_written(tmp_path: Path) -> None:
    mask = volume_from_array(np.arange(60).reshape(3, 4, 5))
    for name in ("m.mgz", "m.jpg", "m.gif", "m"):
        with pytest.raises(MedsagaError, match=r"\.nii\.gz, \.png"):
            write_volume(mask, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_reader_that_is_not_installed_is_asked_for_by_its_extra() -> None:
    kind = Format(
        name="NRRD", endings=(".nrrd",), reader="no_such_package:read", extra="nrrd"
    )
    with pytest.raises(
        MedsagaError, match=r"NRRD file.* pip install \"napari-medsaga\[nrrd\]\""
    ):
        kind.read(Path("ct.nrrd"), as_labels=False)


def test_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("m.nii.gz", "m.png"):
        with pytest.raises(MedsagaError, match="cannot be written"):
            write_volume(volume_from_array(GREY), tmp_path / "file" / name)


def test_image_files(tmp_path: Path) -> None:
    folder = touch(
        tmp_path / "d",
        *("b.png", "a.nii.gz", "c.JPG", ".hidden.png", "notes.txt", "index.csv"),
        *("p.hdr", "p.img", "q+orig.HEAD", "q+orig.BRIK.gz", "r.hdr"),
    )
    (folder / "folder.png").mkdir()
    names = [f.name for f in image_files(folder)]
    expected = ["a.nii.gz", "b.png", "c.JPG", "p.img", "q+orig.BRIK.gz", "r.hdr"]
    assert names == expected
    assert image_files(folder / "b.png") == [folder / "b.png"]


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "empty", "notes.txt")
    with pytest.raises(MedsagaError, match="no image in the folder"):
        image_files(tmp_path / "empty")
    with pytest.raises(MedsagaError, match="no file or folder"):
        image_files(tmp_path / "absent")


def test_files_pair_up_by_name_whatever_their_endings(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "b.jpg", "a.nii.gz", "c.png", "d.tif")
    labels = touch(tmp_path / "l", "a.nii", "b.png", "d.ome.tif", "e.png")
    found = pair_files(images, labels)
    pairs = [(i.name, m.name) for i, m in found.pairs]
    expected = [("a.nii.gz", "a.nii"), ("b.jpg", "b.png"), ("d.tif", "d.ome.tif")]
    assert pairs == expected
    assert [file.name for file in found.images_alone] == ["c.png"]
    assert [file.name for file in found.labels_alone] == ["e.png"]
    one = (images / "b.jpg", labels / "e.png")
    assert pair_files(*one).pairs == (one,)


def test_what_trains_nothing_is_named_once(tmp_path: Path) -> None:
    for name in ("a", "b", "alone"):
        touch(tmp_path / "i")
        np.save(tmp_path / "i" / f"{name}.npy", np.zeros((3, 4, 5)))
    touch(tmp_path / "l", ".hidden.npy", "names.txt")
    for name, value in (("a", 1), ("b", 0), ("b_v2", 1)):
        np.save(tmp_path / "l" / f"{name}.npy", np.full((3, 4, 5), value))
    *_, notes = as_volume_pairs(tmp_path / "i", tmp_path / "l")
    assert notes == [
        "What is no image is not used: names.txt.",
        "Labels without an image of their name are not used: b_v2.npy.",
        "Images without labels are not used: alone.npy.",
        "Label files without any label are not used: b.npy.",
    ]


def test_many_names_are_counted(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.png" for n in range(13)]
    assert listed(files).endswith("8.png, 9.png and 3 more")


def test_two_forms_of_one_image_are_refused(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.nii", "a.nii.gz", "b.nii", "b.png")
    with pytest.raises(MedsagaError, match="2 files for a"):
        pair_files(images, touch(tmp_path / "l", "a.nii"))


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_link_to_what_is_not_there_is_no_gap(tmp_path: Path) -> None:
    folder = touch(tmp_path / "d", "a.png")
    (folder / "b.nii.gz").symlink_to("gone.nii.gz")
    assert [f.name for f in image_files(folder)] == ["a.png", "b.nii.gz"]
    with pytest.raises(MedsagaError, match="link to a file that is not there"):
        read_volume(folder / "b.nii.gz")


def test_what_does_not_pair_up_is_refused(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.png")
    with pytest.raises(MedsagaError, match=r"a\.png.*x\.png"):
        pair_files(images, touch(tmp_path / "l", "x.png"))
    with pytest.raises(MedsagaError, match="two files or two folders"):
        pair_files(images, tmp_path / "l" / "x.png")
    with pytest.raises(MedsagaError, match="two files or two folders"):
        pair_files(images / "a.png", tmp_path / "l")
    with pytest.raises(MedsagaError, match="2 files for a"):
        pair_files(images, touch(tmp_path / "twice", "a.png", "a.nii"))
    with pytest.raises(MedsagaError, match="folder of their own"):
        pair_files(images, images)
    with pytest.raises(MedsagaError, match="absent"):
        pair_files(images / "a.png", tmp_path / "absent.png")


@pytest.mark.parametrize(
    ("name", "suffix", "expected"),
    [
        ("ct.nii.gz", "", "ct.nii.gz"),
        ("ct.nii", "", "ct.nii"),
        ("x.mgz", "", "x.nii.gz"),
        ("x.BRIK", "_entropy", "x_entropy.nii.gz"),
        ("x.jpg", "", "x.png"),
        ("x.PNG", "_entropy", "x_entropy.png"),
        ("x.ome.tiff", "", "x.tif"),
        ("x.npy", "", "x.npy"),
    ],
)
def test_output_path(name: str, suffix: str, expected: str) -> None:
    path = output_path(Path("in") / name, Path("out"), suffix)
    assert path == Path("out") / expected


def test_outputs_never_land_on_the_inputs(tmp_path: Path) -> None:
    with pytest.raises(MedsagaError, match="another"):
        output_path(tmp_path / "x.jpg", tmp_path / "sub" / "..")
    entropy = output_path(tmp_path / "x.jpg", tmp_path, "_entropy")
    assert entropy == tmp_path / "x_entropy.png"


def placed(affine: np.ndarray | None, shape: tuple[int, ...] = (20, 30, 40)) -> Volume:
    return Volume(array=np.zeros(shape, np.uint8), affine=affine, name="ct")


def test_pairs_of_different_shapes_are_refused_with_both_shapes() -> None:
    with pytest.raises(MedsagaError, match=r"20 x 30 x 40.*20 x 30 x 41"):
        check_pair(placed(None), placed(None, (20, 30, 41)))
    with pytest.raises(MedsagaError, match=r"12 x 9,.*9 x 12"):
        check_pair(volume_from_array(GREY), volume_from_array(GREY.T))


def test_colour_images_fit_grey_labels() -> None:
    assert check_pair(placed(None, (4, 5, 6, 3)), placed(None, (4, 5, 6))) is None


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (np.zeros((4, 4)), False),
        (np.diag([1e-5, 1e-5, 1e-5, 0]), False),
        (np.diag([0.003, 0, 0, 0]), True),
        (np.array([[0, 0.003, 0, 0], *[[0.0] * 4] * 3]), True),
        (np.array([[0, 0, 0, 0.5], *[[0.0] * 4] * 3]), True),
        (np.array([[0, 0, 0, 1e-3], *[[0.0] * 4] * 3]), False),
    ],
)
def test_affines_that_nearly_agree_are_warned_of(change, differs) -> None:
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    warning = check_pair(placed(affine), placed(affine + change))
    assert (warning is not None) == differs
    assert check_pair(placed(affine), placed(None)) is None


@pytest.mark.parametrize(
    "change",
    [
        np.diag([0.01, 0, 0, 0]),
        np.array([[0, 0.01, 0, 0], *[[0.0] * 4] * 3]),
        np.array([[0, 0, 0, 1.0], *[[0.0] * 4] * 3]),
        np.array([[0, 0, 0, -40.0], *[[0.0] * 4] * 3]),
    ],
)
def test_labels_that_lie_elsewhere_are_refused_with_both_affines(change) -> None:
    """They trained on other voxels than they were drawn on, with a word of doubt."""
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    with pytest.raises(MedsagaError, match=r"Affine of the image: .* of the labels"):
        check_pair(placed(affine), placed(affine + change))


def test_a_picture_and_a_single_slice_that_was_turned_are_no_pair(tmp_path) -> None:
    """Only the axes of the volume are brought to the usual order."""
    turned, pixels = np.diag([-1.0, -1.0, 1.0, 1.0]), np.eye(8, dtype=np.uint8)
    for name, array in (("flat", pixels), ("slice", pixels[:, :, None])):
        nib.save(nib.Nifti1Image(array, turned), tmp_path / f"{name}.nii")
    flat = read_volume(tmp_path / "flat.nii")
    with pytest.raises(MedsagaError, match="save both as the same"):
        check_pair(flat, read_labels(tmp_path / "slice.nii"))
    assert check_pair(flat, read_labels(tmp_path / "flat.nii")) is None


@pytest.mark.skipif(
    not (DATA / "spleen-ct").is_dir(), reason="the shared images are not here"
)
def test_real_pairs_fit() -> None:
    for image, labels in (
        ("spleen-ct/image.nii.gz", "spleen-ct/label.nii.gz"),
        (
            "multi-organ-ct-3mm/example_ct_sm.nii.gz",
            "multi-organ-ct-3mm/example_seg.nii.gz",
        ),
        ("spinal-cord-mri/t2.nii.gz", "spinal-cord-mri/t2_seg-manual.nii.gz"),
        ("chest-xray/images/cxr_012.png", "chest-xray/masks/cxr_012.png"),
    ):
        volume, mask = read_volume(DATA / image), read_labels(DATA / labels)
        assert check_pair(volume, mask) is None
        assert mask.array.any()
    pairs = pair_files(DATA / "chest-xray/images", DATA / "chest-xray/masks")
    assert len(pairs.pairs) == 41
    assert len(image_files(DATA / "nuclei-microscopy/images")) == 66


def test_minc_holds_labels_too() -> None:
    tiny = Path(nib.__file__).parent / "tests" / "data" / "tiny.mnc"
    if not tiny.exists():
        pytest.skip("this nibabel comes without its test data")
    with pytest.raises(MedsagaError, match="no whole numbers"):
        read_labels(tiny)
    assert read_volume(tiny).shape == (10, 20, 20)

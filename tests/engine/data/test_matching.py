"""Labels train on the voxels that they were drawn on, or are refused."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import imageio.v3 as iio
import nibabel as nib
import numpy as np
import pytest
import tifffile
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    ornt_transform,
)

from medsaga import (
    MedsagaError,
    drain,
    evaluate,
    read_labels,
    read_volume,
    write_volume,
)
from medsaga.data.inputs import as_volume_pairs

# No two sides are as long, but the last two, so that shapes alone give nothing away.
SHAPE = (7, 9, 9)  # (x, y, z)
CODES = [
    "".join(codes)
    for axes in permutations(("LR", "PA", "IS"))
    for codes in product(*axes)
]
SPACING = np.diag([1.5, 2.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Values on half of the voxels, (x, y, z) to RAS: no turned copy is the same."""
    random = np.random.default_rng(0)
    return random.integers(1, 6, SHAPE) * (random.random(SHAPE) < 0.5)


def stored(array: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """Turn (x, y, z) to an order of axes; gives the array and its true affine."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(codes)))
    return apply_orientation(array, turn), SPACING @ inv_ornt_aff(turn, array.shape)


def save(path: Path, array, affine=None, *, qform=None, codes=(1, 1)) -> Path:
    image = nib.Nifti1Image(array.astype(np.int16), affine)
    if affine is not None:
        image.set_sform(affine, codes[0])
        image.set_qform(affine if qform is None else qform, codes[1])
    nib.save(image, path)
    return path


def assert_matched(image: Path, labels: Path) -> list[str]:
    """The image is the labels times ten: what trains must be the same voxels."""
    images, masks, notes = as_volume_pairs(image, labels)
    np.testing.assert_array_equal(images[0].array, masks[0].array * 10)
    return notes


def mirror(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Give the place with the first two axes mirrored within the same box."""
    flips = np.array([[0, -1], [1, -1], [2, 1]], float)
    return affine @ inv_ornt_aff(flips, shape)


@pytest.mark.parametrize("codes", CODES)
def test_labels_whose_header_says_nothing_are_matched_as_stored(
    labels, codes, tmp_path
):
    array, affine = stored(labels, codes)
    image = save(tmp_path / "ct.nii.gz", array * 10, affine)
    notes = assert_matched(image, save(tmp_path / "seg.nii.gz", array))
    (note,) = notes or [""]
    assert "seg does not say how it is oriented" in note or codes == "LAS" or not note


def test_it_is_said_where_that_turns_them_otherwise(labels, tmp_path):
    array, affine = stored(labels, "LPS")
    image = save(tmp_path / "ct.nii.gz", array * 10, affine)
    (note,) = assert_matched(image, save(tmp_path / "seg.nii.gz", array))
    assert note == (
        "seg does not say how it is oriented: ct and its labels are matched in the "
        "order in which both are stored, not as images are shown; check that they line "
        "up, or save both as NIfTI."
    )


def test_an_image_whose_header_says_nothing_keeps_its_order(labels, tmp_path):
    array, affine = stored(labels, "PIR")
    image = save(tmp_path / "ct.nii.gz", array * 10)
    (note,) = assert_matched(image, save(tmp_path / "seg.nii.gz", array, affine))
    assert note.startswith("ct does not say")


@pytest.mark.parametrize(("codes", "other"), [("LPS", "RAS"), ("PIR", "LAI")])
def test_two_headers_that_say_are_believed(labels, codes, other, tmp_path):
    image, affine = stored(labels * 10, codes)
    mask, place = stored(labels, other)
    save(tmp_path / "ct.nii.gz", image, affine)
    assert not assert_matched(
        tmp_path / "ct.nii.gz", save(tmp_path / "seg.nii.gz", mask, place)
    )


class TestTwoForms:
    """NIfTI has room for two places, and programs differ in the one they go by."""

    @pytest.fixture
    def arrays(self, labels):
        """An array, and two places for it, which are not the same box."""
        array, affine = stored(labels, "LPS")
        other = mirror(affine, array.shape)
        other[:3, 3] += 30
        return array, affine, other

    def test_labels_saved_by_the_qform_of_the_image(self, arrays, tmp_path):
        array, affine, other = arrays
        image = save(tmp_path / "ct.nii.gz", array * 10, affine, qform=other)
        (note,) = assert_matched(image, save(tmp_path / "seg.nii.gz", array, other))
        assert "sform and qform" in note

    def test_an_image_saved_by_the_qform_of_the_labels(self, arrays, tmp_path):
        array, affine, other = arrays
        image = save(tmp_path / "ct.nii.gz", array * 10, other)
        mask = save(tmp_path / "seg.nii.gz", array, affine, qform=other)
        assert_matched(image, mask)

    def test_labels_turned_since_they_were_saved_by_the_qform(self, arrays, tmp_path):
        array, affine, other = arrays
        image = save(tmp_path / "ct.nii.gz", array * 10, affine, qform=other)
        turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt("PSR"))
        turned = apply_orientation(array, turn)
        place = other @ inv_ornt_aff(turn, array.shape)
        assert_matched(image, save(tmp_path / "seg.nii.gz", turned, place))

    @pytest.mark.parametrize("whose", ["image", "labels"])
    def test_where_both_fit_neither_is_taken(self, arrays, whose, tmp_path):
        """A stale form, such as a program leaves that turns voxels and one affine."""
        array, affine, other = arrays
        other[:3, 3] -= 30  # the same box
        forms = {"image": (affine, other), "labels": (other, affine)}[whose]
        both = {"image": other, "labels": affine}[whose]
        stale, whole = save(tmp_path / "a.nii", array, forms[0], qform=forms[1]), None
        whole = save(tmp_path / "b.nii", array, both)
        pair = (stale, whole) if whose == "image" else (whole, stale)
        with pytest.raises(MedsagaError, match="fit both"):
            as_volume_pairs(*pair)

    def test_a_broken_sform_leaves_the_qform(self, arrays, tmp_path):
        array, affine, _ = arrays
        image = save(tmp_path / "ct.nii", array * 10, affine)
        raw = bytearray(image.read_bytes())
        raw[280:328] = bytes(48)  # srow_x to srow_z
        image.write_bytes(raw)
        assert read_volume(image).spacing == pytest.approx((3.0, 2.0, 1.5))
        assert not assert_matched(image, save(tmp_path / "seg.nii.gz", array, affine))


def test_what_fits_no_place_of_the_image_is_refused_with_both(labels, tmp_path):
    array, affine = stored(labels, "LPS")
    moved = mirror(affine, array.shape)
    moved[:3, 3] += 50
    image = save(tmp_path / "ct.nii.gz", array * 10, affine)
    with pytest.raises(MedsagaError, match=r"LPS and RAS.*Affine of the image: \[-1.5"):
        as_volume_pairs(image, save(tmp_path / "seg.nii.gz", array, moved))


@pytest.mark.parametrize("ending", [".tif", ".npy"])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR"])
def test_labels_of_a_format_that_says_nothing(labels, codes, ending, tmp_path):
    """As programs write them that turn nothing: slice by slice, row by row."""
    array, affine = stored(labels, codes)
    image = save(tmp_path / "ct.nii.gz", array * 10, affine)
    path = tmp_path / f"seg{ending}"
    mask = np.ascontiguousarray(array.transpose(2, 1, 0).astype(np.uint8))
    if ending == ".tif":
        tifffile.imwrite(path, mask, photometric="minisblack")
    else:
        np.save(path, mask)
    notes = assert_matched(image, path)
    assert [note.split(" says")[0] for note in notes] == [
        "seg does not say how it is oriented: ct and its labels are matched in the "
        "order in which both are stored, not as images are shown; check that they line "
        "up, or save both as NIfTI."
    ] * (codes != "RAS")


def test_labels_that_fit_only_as_the_image_is_shown(labels, tmp_path):
    shown = labels[:, :, :8]  # (x, y, z) of three different lengths
    array, affine = stored(shown * 10, "PIR")
    image = save(tmp_path / "ct.nii.gz", array, affine)
    np.save(tmp_path / "seg.npy", shown.transpose(2, 1, 0))
    (note,) = assert_matched(image, tmp_path / "seg.npy")
    assert "the shapes fit only in the order in which images are shown" in note
    np.save(tmp_path / "seg.npy", shown.transpose(1, 0, 2))
    with pytest.raises(MedsagaError, match="shape"):
        as_volume_pairs(image, tmp_path / "seg.npy")


def test_a_picture_of_the_labels_of_a_single_slice(labels, tmp_path):
    array, affine = stored(labels[:, :, :1], "LPS")
    image = save(tmp_path / "ct.nii.gz", array * 10, affine)
    iio.imwrite(tmp_path / "seg.png", array[:, :, 0].T.astype(np.uint8))
    assert_matched(image, tmp_path / "seg.png")


def test_evaluation_matches_in_the_same_way(labels, tmp_path):
    array, affine = stored(labels, "LPS")
    truth = save(tmp_path / "truth.nii.gz", array, affine)
    mask = save(tmp_path / "mask.nii.gz", array)
    for pair in ((mask, truth), (truth, mask)):
        notices = []
        found = drain(evaluate(*pair), notices.append)
        assert found.mean_dice == 1
        assert any("does not say" in str(notice) for notice in notices)


def test_volumes_that_were_read_are_matched_too(labels, tmp_path):
    array, affine = stored(labels, "LPS")
    image = read_volume(save(tmp_path / "ct.nii.gz", array * 10, affine))
    mask = read_labels(save(tmp_path / "seg.nii.gz", array))
    _, (matched,), _ = as_volume_pairs(image, mask)
    np.testing.assert_array_equal(image.array, matched.array * 10)
    # But labels made of the image's own volume lie on it as they are.
    own = image.with_array(image.array // 10)
    _, (kept,), notes = as_volume_pairs(image, own)
    assert not notes
    np.testing.assert_array_equal(kept.array, own.array)


@pytest.mark.parametrize("ending", [".tif", ".npy"])
@pytest.mark.parametrize("codes", CODES)
def test_what_we_write_without_orientation_is_read_as_it_was(
    labels, codes, ending, tmp_path
):
    """A TIFF of an oriented file's mask was in the order that we show it in."""
    array, affine = stored(labels, codes)
    nib.save(nib.Nifti1Image(array.astype(np.uint8), affine), tmp_path / "a.nii.gz")
    mask = read_labels(tmp_path / "a.nii.gz")
    written = write_volume(mask, tmp_path / f"a{ending}", is_labels=True)
    scores = drain(evaluate(written, tmp_path / "a.nii.gz")).scores["a"]
    assert set(scores.dice.values()) == {1.0}

"""Files open as the right kind of layer, where they are in the patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.errors import ReaderPluginError
from napari.layers import Image, Labels

from medsaga import MedsagaError
from napari_medsaga.files.readers import get_reader

SaveVolume = Callable[..., np.ndarray]
PLUGIN = "napari-medsaga"

pytestmark = pytest.mark.usefixtures("plugins")


def opened(path: Path) -> Any:
    (layer,) = ViewerModel().open(path, plugin=PLUGIN)
    return layer


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "a.mgz", "a.mgh"])
def test_volumes_are_taken_without_looking_into_them(name: str) -> None:
    assert get_reader(f"/nowhere/{name}") is not None
    assert get_reader([f"/nowhere/{name}"] * 2) is not None


@pytest.mark.parametrize("name", ["a.tif", "a.gz", "nii", "a.nii.txt"])
def test_other_files_are_left_to_others(name: str) -> None:
    assert get_reader(name) is None
    assert get_reader(["a.nii", name]) is None


def test_an_image_opens_grey_scaled_to_mm_with_its_true_affine(
    save_volume: SaveVolume, tmp_path: Path
) -> None:
    truth = save_volume(tmp_path / "knee.nii.gz", "PSL", angles=(0.1, 0.2, 0.3))
    layer = opened(tmp_path / "knee.nii.gz")
    assert isinstance(layer, Image)
    np.testing.assert_array_equal(layer.data, truth)
    assert layer.name == "knee"
    assert layer.colormap.name == "gray"
    np.testing.assert_allclose(layer.scale, (3, 2, 1.5), rtol=1e-5)
    assert {str(unit) for unit in layer.units} == {"millimeter"}
    assert layer.axis_labels == ("z", "y", "x")
    # Shown straight, mirrored as radiologists see it.
    np.testing.assert_array_equal(layer.affine.affine_matrix, np.diag([1.0, -1, -1, 1]))
    file = nib.as_closest_canonical(nib.load(tmp_path / "knee.nii.gz"))
    np.testing.assert_allclose(layer.metadata["affine"], file.affine, atol=1e-5)
    # A few dark and bright specks do not set the contrast.
    assert truth.min() < layer.contrast_limits[0] < layer.contrast_limits[1]
    assert layer.contrast_limits[1] < truth.max()


def test_a_ct_opens_in_the_soft_tissue_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(40, 20, (20, 20, 20)).astype(np.int16)
    data[:5] = -1000
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "ct.nii")
    assert list(opened(tmp_path / "ct.nii").contrast_limits) == [-160, 240]


LABEL_NAMES = [
    *("seg", "ct_seg", "CT-Seg", "liver.seg", "case01_seg2", "segmentation", "aseg"),
    *("t2s_gmseg_manual", "heart_segmented", "labels", "labelsTr_01", "my_labelmap"),
    *("labelled", "Labeled", "mask", "brainmask", "roi_masks", "liverSeg", "maskLiver"),
    *("t2_lesion_lesion_seg", "CT - Labels", "wmparc label", "labelfield"),
    *("maskLesion", "Herzsegmentierung"),
]
IMAGE_NAMES = [
    *("ct", "t1_unlabelled", "unlabeled", "unsegmented", "brain_masked", "unmasked"),
    *("phase", "sag", "lab_scan"),
]


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((n, Labels) for n in LABEL_NAMES), *((n, Image) for n in IMAGE_NAMES)],
)
def test_the_name_tells_labels_from_images(
    name: str, kind: type, save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / f"{name}.nii", dtype="uint8")
    assert get_reader(str(tmp_path / f"{name}.nii")) is not None
    assert type(opened(tmp_path / f"{name}.nii")) is kind


def test_an_image_of_a_labels_name_stays_an_image(
    save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "seg_many.nii", dtype="int16")  # 504 values
    save_volume(tmp_path / "seg_float.nii", dtype="float32")
    scaled = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    scaled.header.set_slope_inter(0.5, 0)
    scaled.to_filename(tmp_path / "seg_scaled.nii")
    for name in ("seg_many", "seg_float", "seg_scaled"):
        assert isinstance(opened(tmp_path / f"{name}.nii"), Image)


def test_labels_that_numpy_saved_with_a_point_are_labels(tmp_path: Path) -> None:
    data = np.zeros((8, 8, 4))
    data[2:5, 2:5, 1:3] = 2
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "ct_seg.nii.gz")
    layer = opened(tmp_path / "ct_seg.nii.gz")
    assert isinstance(layer, Labels)
    assert set(np.unique(layer.data)) == {0, 2}


def test_as_many_values_as_256_are_labels(tmp_path: Path) -> None:
    for n in (256, 257):
        data = np.arange(n, dtype=np.int32)[:, None, None] * np.ones((1, 3, 3))
        image = nib.Nifti1Image(data.astype(np.int32) - 5, np.eye(4))
        image.to_filename(tmp_path / f"seg_{n}.nii")
    assert isinstance(opened(tmp_path / "seg_256.nii"), Labels)
    assert isinstance(opened(tmp_path / "seg_257.nii"), Image)


def test_the_intent_in_the_header_says_labels(
    save_volume: SaveVolume, tmp_path: Path
) -> None:
    truth = save_volume(tmp_path / "organs.nii", "LPI", dtype="int32", intent="label")
    save_volume(tmp_path / "atlas.nii", dtype="float32", intent="label")
    save_volume(tmp_path / "map.nii", dtype="int16", intent="z score")
    layer = opened(tmp_path / "organs.nii")
    assert isinstance(layer, Labels)
    np.testing.assert_array_equal(layer.data, truth)
    assert layer.name == "organs"
    atlas = opened(tmp_path / "atlas.nii")  # whole numbers, stored as fractions
    assert isinstance(atlas, Labels)
    np.testing.assert_array_equal(atlas.data, truth)
    assert isinstance(opened(tmp_path / "map.nii"), Image)


def test_fractions_are_an_image_whatever_the_intent(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.full((4, 4, 4), 0.5, np.float32), np.eye(4))
    image.header.set_intent("label")
    image.to_filename(tmp_path / "organs.nii")
    assert isinstance(opened(tmp_path / "organs.nii"), Image)


@pytest.mark.parametrize("name", ["aseg.mgz", "aparc+aseg.mgh", "orig.mgz"])
def test_freesurfer_volumes_open(name: str, tmp_path: Path) -> None:
    data = np.zeros((4, 5, 6), np.int32)
    data[1, 2, 3] = 17
    nib.MGHImage(data, np.diag([-1.0, 1, 2, 1])).to_filename(tmp_path / name)
    layer = opened(tmp_path / name)
    assert isinstance(layer, Image if name == "orig.mgz" else Labels)
    assert layer.data[3, 2, 2] == 17
    np.testing.assert_allclose(layer.scale, (2, 1, 1))


def test_a_2d_file_opens_as_it_is(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(4, 3)
    for name in ("xray", "xray_mask"):
        file = nib.Nifti1Image(pixels, np.diag([2.0, 3, 1, 1]))
        file.to_filename(tmp_path / f"{name}.nii")
        layer = opened(tmp_path / f"{name}.nii")
        assert layer.ndim == 2
        np.testing.assert_array_equal(layer.data, pixels.T)
        np.testing.assert_allclose(layer.scale, (3, 2))


def test_colours_open_as_rgb(tmp_path: Path) -> None:
    data = np.zeros((2, 3, 4), [(c, "u1") for c in "RGB"])
    data["G"][1, 2, 3] = 200
    file = nib.Nifti1Image(data, np.diag([1.0, 1, 2, 1]))
    file.to_filename(tmp_path / "stained_mask.nii")
    layer = opened(tmp_path / "stained_mask.nii")
    assert layer.rgb
    assert layer.ndim == 3
    assert layer.data[3, 2, 1].tolist() == [0, 200, 0]


def test_several_files_open_as_a_layer_each(
    save_volume: SaveVolume, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("ct.nii.gz", "ct_mask.nii.gz")]
    for path in paths:
        save_volume(path, dtype="uint8")
    for stack in (False, True):
        layers = ViewerModel().open(paths, plugin=PLUGIN, stack=stack)
        assert [layer.name for layer in layers] == ["ct", "ct_mask"]
        assert [type(layer) for layer in layers] == [Image, Labels]


def test_image_and_labels_of_any_order_lie_on_each_other(
    save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "ct.nii", "RAS", angles=(0.2, 0.1, 0))
    save_volume(tmp_path / "seg.nii", "IPL", angles=(0.2, 0.1, 0), dtype="uint8")
    image, labels = (opened(tmp_path / n) for n in ("ct.nii", "seg.nii"))
    ends = np.array([[0, 0, 0], [6, 7, 8]])
    for index in ends:
        np.testing.assert_allclose(
            image.data_to_world(index), labels.data_to_world(index), atol=1e-4
        )


def test_several_volumes_in_a_file_are_refused_with_the_engines_sentence(
    tmp_path: Path,
) -> None:
    data = np.zeros((3, 4, 5, 6), np.uint8)
    for name in ("fmri.nii", "fmri.mgz"):
        kind = nib.MGHImage if name.endswith("mgz") else nib.Nifti1Image
        kind(data, np.eye(4)).to_filename(tmp_path / name)
        with pytest.raises(MedsagaError, match="holds 6 volumes: pick one"):
            opened(tmp_path / name)
    # Dragged into the viewer, where no plugin is named, napari tells what it said.
    with pytest.raises(ReaderPluginError, match="holds 6 volumes: pick one"):
        ViewerModel().open(tmp_path / "fmri.mgz", plugin=None)


def test_a_broken_file_is_refused_with_the_engines_sentence(tmp_path: Path) -> None:
    (tmp_path / "ct.nii.gz").write_bytes(b"no image")
    with pytest.raises(MedsagaError, match=r"ct\.nii\.gz cannot be read"):
        opened(tmp_path / "ct.nii.gz")

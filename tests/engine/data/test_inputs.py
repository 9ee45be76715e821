from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medsaga.data.inputs import as_volume, as_volume_pairs
from medsaga.data.volume import Volume
from medsaga.errors import MedsagaError


def _write(folder, name, array):
    folder.mkdir(exist_ok=True)
    path = folder / name
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        image = rng.normal(size=(8, 8, 4)).astype(np.float32)
        label = np.zeros((8, 8, 4), np.uint8)
        label[2:5, 2:5, 1] = 0 if name == "b" else 3
        _write(tmp_path / "images", f"{name}.nii.gz", image)
        _write(tmp_path / "labels", f"{name}.nii.gz", label)
    return tmp_path / "images", tmp_path / "labels"


def test_files_arrays_and_volumes_become_volumes(folders):
    path = folders[0] / "a.nii.gz"
    volume = as_volume(path)
    assert volume.shape == (4, 8, 8)
    assert as_volume(volume) is volume
    assert as_volume(volume.array).shape == (4, 8, 8)


def test_of_folders_only_the_labelled_pairs_are_read(folders):
    volumes, labels, warnings = as_volume_pairs(*folders)
    assert [v.name for v in volumes] == ["a", "c"]
    assert all(np.any(m.array) for m in labels)
    assert not any("affine" in warning for warning in warnings)


def test_single_files_and_sequences_pair_up(folders):
    images, labels = folders
    volumes, _, _ = as_volume_pairs(images / "a.nii.gz", str(labels / "a.nii.gz"))
    assert len(volumes) == 1
    volumes, masks, _ = as_volume_pairs(
        [images / "a.nii.gz", np.zeros((2, 8, 8))],
        [labels / "a.nii.gz", np.ones((2, 8, 8), int)],
    )
    assert [v.shape for v in volumes] == [m.shape for m in masks]


def test_a_three_wide_label_array_is_no_colour_image():
    labels = np.ones((8, 8, 3), np.uint8)
    _, masks, _ = as_volume_pairs(Volume(array=np.zeros((8, 8, 3))), labels)
    assert masks[0].shape == (8, 8, 3)


def test_what_does_not_fit_is_refused(folders, tmp_path):
    with pytest.raises(MedsagaError, match="one label image for each"):
        as_volume_pairs([np.zeros((4, 4))], [np.ones((4, 4), int)] * 2)
    with pytest.raises(MedsagaError, match="shape"):
        as_volume_pairs(np.zeros((4, 4)), np.ones((4, 5), int))
    colour = Volume(array=np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(MedsagaError, match="colour image"):
        as_volume_pairs(np.zeros((8, 8)), colour)
    for path in sorted(folders[1].iterdir()):
        _write(folders[1], path.name, np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(MedsagaError, match="carries a label"):
        as_volume_pairs(*folders)

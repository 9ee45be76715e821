"""Many files: each is read once, and no more is kept of it than trains."""

from __future__ import annotations

from collections import Counter

import nibabel as nib
import numpy as np
import pytest

from medsaga.data import on_demand, pairs
from medsaga.data.files import read_labels, read_volume
from medsaga.data.inputs import as_volume_pairs
from medsaga.data.intensity import image_doubts
from medsaga.data.intensity.rule import PERCENTILES, looks_like_hounsfield
from medsaga.data.intensity.values import extremes, sample_values
from medsaga.data.on_demand import ArrayOnDemand, HeldArrays
from medsaga.data.pairs import WantedSlices, forget_slices
from medsaga.data.volume import Volume
from medsaga.errors import MedsagaError

LABELLED = (2, 5)


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        image = rng.integers(-1000, 400, (24, 20, 8)).astype(np.int16)
        labels = np.zeros(image.shape, np.uint8)
        labels[3:9, 4:11, LABELLED] = 3
        for folder, array in (("images", image), ("labels", labels)):
            file = nib.Nifti1Image(array, np.diag([1, 1, 2, 1]))
            nib.save(file, tmp_path / folder / f"{name}.nii.gz")
    return tmp_path / "images", tmp_path / "labels"


@pytest.fixture
def reads(monkeypatch):
    """How often each file is read, with room for the last alone."""
    counts = Counter()

    def read(path):
        counts[path.name] += 1
        return read_volume(path)

    monkeypatch.setattr(pairs, "read_volume", read)
    monkeypatch.setattr(on_demand, "_HELD_SHARE", 0)
    return counts


def test_what_trains_takes_one_reading_of_each_image(folders, reads):
    wanted = WantedSlices(axis=0, with_neighbours=True)
    volumes, labels, _ = as_volume_pairs(*folders, wanted)
    for volume, mask in zip(volumes, labels, strict=True):
        looks_like_hounsfield(volume)
        PERCENTILES.limits(volume)
        image_doubts(volume, PERCENTILES)
        assert volume.fingerprint
        for index in (1, 2, 3, 4, 5, 6):
            volume.slice(0, index)
        for index in LABELLED:
            assert mask.slice(0, index).any()
    assert reads == {f"{name}.nii.gz": 1 for name in "abc"}
    forget_slices(volumes)
    for volume in volumes:
        volume.slice(0, 2)
    assert set(reads.values()) == {2}


def test_what_is_on_demand_is_what_is_in_memory(folders, reads):
    volumes, labels, _ = as_volume_pairs(*folders)
    for volume, mask in zip(volumes, labels, strict=True):
        name = f"{volume.name}.nii.gz"
        whole, marks = read_volume(folders[0] / name), read_labels(folders[1] / name)
        np.testing.assert_array_equal(np.asarray(volume.array), whole.array)
        np.testing.assert_array_equal(np.asarray(mask.array), marks.array)
        assert (volume.shape, mask.shape) == (whole.shape, marks.shape)
        assert volume.fingerprint == whole.fingerprint
        assert PERCENTILES.limits(volume) == PERCENTILES.limits(whole)
        assert extremes(volume) == extremes(whole)
        np.testing.assert_array_equal(
            sample_values(volume, 99), sample_values(whole, 99)
        )
        for axis in range(3):
            for index in range(whole.shape[axis]):
                ours, theirs = volume.slice(axis, index), whole.slice(axis, index)
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_kept_along_the_axis_with_the_fewest_labels(axis):
    labels = Volume(array=np.zeros((6, 7, 8), np.uint8))
    np.moveaxis(labels.array, axis, 0)[3, 1:5, 1:5] = 1
    of_labels, of_image = WantedSlices().places(labels)
    assert of_labels == of_image == [(slice(None),) * axis + (3,)]
    beside = WantedSlices(besides=(0,), with_neighbours=True)
    assert [place[-1] for place in beside.places(labels)[0]] == [0, 3]
    assert [place[-1] for place in beside.places(labels)[1]] == [0, 1, 2, 3, 4]


def test_a_file_that_changes_meanwhile_is_not_taken_for_itself(folders, reads):
    volumes, _, _ = as_volume_pairs(*folders)
    nib.save(nib.Nifti1Image(np.zeros((24, 20, 8)), np.eye(4)), folders[0] / "a.nii.gz")
    (folders[0] / "b.nii.gz").unlink()
    with pytest.raises(MedsagaError, match=r"a\.nii\.gz has changed"):
        volumes[0].slice(0, 0)
    with pytest.raises(MedsagaError, match="There is no file"):
        volumes[1].slice(0, 0)


def test_no_more_is_held_than_there_is_room_for():
    made = Counter()

    def array_of(number, held):
        def make():
            made[number] += 1
            return np.full(100, number, np.uint8)

        return ArrayOnDemand(make, np.full(100, number, np.uint8), held)

    held = HeldArrays(250)
    arrays = [array_of(number, held) for number in range(3)]
    for _ in range(5):  # the last two have room
        assert [int(array[0]) for array in arrays[1:]] == [1, 2]
    assert not made
    assert int(arrays[0][0]) == 0
    assert made == {0: 1}
    assert int(arrays[1][0]) == 1  # was used longest ago
    assert made == {0: 1, 1: 1}

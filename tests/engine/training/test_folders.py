"""A training on a folder of volumes, of which no more is held than trains."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from tests.engine.training.conftest import weights_equal
from tests.phantom import keep_slices, make_phantom, train

from medsaga.data import on_demand
from medsaga.data.files import read_labels, read_volume
from medsaga.events import Notice, Preview


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(on_demand, "_HELD_SHARE", 0)
    array, marks = make_phantom()
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        pair = np.roll(array, number, 1), keep_slices(np.roll(marks, number, 1), [2, 8])
        for folder, one in zip(("images", "labels"), pair, strict=True):
            file = nib.Nifti1Image(one.transpose(), np.diag([1, 1, 2, 1]))
            nib.save(file, tmp_path / folder / f"{number}.nii.gz")
    return tmp_path / "images", tmp_path / "labels"


def test_weights_are_those_of_volumes_in_memory(folders, quick, on_cpu):
    settings = replace(quick, agreed_slices=2)
    images, labels = folders
    ours, _ = train(images, labels, settings)
    volumes = [read_volume(path) for path in sorted(images.iterdir())]
    masks = [read_labels(path) for path in sorted(labels.iterdir())]
    theirs, _ = train(volumes, masks, settings)
    assert weights_equal(ours, theirs)
    assert ours.card.metrics == theirs.card.metrics


def test_a_training_outlives_the_file_that_is_previewed(folders, quick):
    images, labels = folders

    def wanted():
        (images / "0.nii.gz").unlink(missing_ok=True)
        return 0, 5

    preview = {"preview_at": wanted, "preview_interval": 0.0}
    model, events = train(images, labels, quick, preview=preview)
    assert model.card.training_slices
    notices = [e.message for e in events if isinstance(e, Notice)]
    assert len([one for one in notices if "are shown" in one]) == 1
    assert any("without the paint beside it" in one for one in notices)
    assert not any(isinstance(e, Preview) for e in events)

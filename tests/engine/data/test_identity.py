"""An image is known by what it shows, and a slice by its image, axis and index."""

from __future__ import annotations

import json
from dataclasses import replace

import dask.array
import nibabel as nib
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from tests.engine.training.conftest import begin
from tests.phantom import keep_slices, make_phantom, slice_of, train

from medsaga import FineTuneSettings, ModelLibrary, Volume, load_card, load_model
from medsaga.data.identity import fingerprint
from medsaga.frontend import SliceId, kept_labels
from medsaga.training.plan.head import is_of_one_image


@pytest.fixture
def whole_numbers() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (40, 9, 7))


def test_the_type_of_the_values_makes_no_difference(whole_numbers):
    known = fingerprint(whole_numbers)
    for kind in (np.int16, np.float32, ">i4"):
        assert fingerprint(whole_numbers.astype(kind)) == known
    assert fingerprint(np.asfortranarray(whole_numbers)) == known
    assert fingerprint(dask.array.from_array(whole_numbers, chunks=3)) == known


@pytest.mark.parametrize("change", ["value", "shape", "order"])
def test_another_image_is_another(whole_numbers, change):
    other = whole_numbers.copy()
    if change == "value":
        other[0, 3, 3] += 1
    elif change == "shape":
        other = other.reshape(40, 7, 9)
    else:
        other = other[::-1]
    assert fingerprint(other) != fingerprint(whole_numbers)


def test_a_zero_has_no_sign():
    zeros = np.zeros((2, 3, 4), np.float32)
    assert fingerprint(-zeros) == fingerprint(zeros)


def test_the_name_is_there_to_be_shown():
    one = slice_of("ct", 3)
    assert one.name == "ct [3]"
    assert replace(one, is_2d=True).name == "ct"
    assert replace(one, image_name="another name") == one
    assert len({one, replace(one, axis=1), replace(one, index=4)}) == 3


def test_a_slice_of_an_older_model_is_found_by_its_name():
    volume = Volume(array=np.zeros((2, 3, 4)), name="ct")
    old = SliceId.from_name("ct [3]", 0, 3)
    assert (old.image_name, old.is_2d) == ("ct", False)
    assert old != volume.slice_id(0, 3)
    assert old.among([volume]) == volume.slice_id(0, 3)
    assert old.among([replace(volume, name="mr")]) == old
    flat = SliceId.from_name("photo [3]", 0, 0)
    assert (flat.name, flat.is_2d) == ("photo [3]", True)


@pytest.fixture
def two_patients(tmp_path):
    """Two patients' image.nii.gz, each in a folder of its own, and their labels."""
    pairs = []
    for number, patient in enumerate(("anna", "bert")):
        folder = tmp_path / patient
        folder.mkdir()
        image, labels = make_phantom()
        pair = {"image": image + number, "labels": keep_slices(labels, [3, 6])}
        for name, array in pair.items():
            nib.save(nib.Nifti1Image(array.T, np.eye(4)), folder / f"{name}.nii.gz")
        pairs.append((folder / "image.nii.gz", folder / "labels.nii.gz"))
    return pairs


def test_two_patients_images_of_one_name_are_two(two_patients, quick, tmp_path):
    images, labels = zip(*two_patients, strict=True)
    setup, *_ = begin(images, labels, quick)
    assert not is_of_one_image(setup)
    model, _ = train(images, labels, quick)
    library = ModelLibrary(tmp_path / "library")
    kept = library.add(model, "two")
    assert library.entries()[0].n_images == 2
    assert len(kept_labels(kept)) == 4


def test_another_patients_slices_do_not_give_way(two_patients, quick, tmp_path):
    """Both are called image, and their slices have the same numbers."""
    (image, labels), (other_image, other_labels) = two_patients
    model, _ = train(image, labels, quick)
    kept = ModelLibrary(tmp_path / "library").add(model, "first")
    earlier = model.card.training_slices
    again, _ = train(other_image, other_labels, quick, start=kept, earlier=earlier)
    slices = [*again.card.training_slices, *again.card.held_out_slices]
    assert len(slices) == len(set(slices)) == 4
    assert len({one.image for one in slices}) == 2
    setup, *_ = begin(other_image, other_labels, quick, start=kept, earlier=earlier)
    assert not is_of_one_image(setup)


@pytest.fixture
def of_version_2(image, labels, quick, tmp_path):
    """A model as it was saved before slices had identities."""
    model, _ = train(image, labels, quick)
    library = ModelLibrary(tmp_path / "library")
    folder = library.add(model, "old")
    card = json.loads((folder / "card.json").read_text())
    for part in ("training_slices", "held_out_slices"):
        named = ((f"{s['image_name']} [{s['index']}]", s["index"]) for s in card[part])
        card[part] = list(named)
    card["format_version"] = 2
    card["settings"]["early_stop"] = 8
    (folder / "card.json").write_text(json.dumps(card))
    path = folder / "slices.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        notes = json.loads(file.metadata()["slices"])
    for note in notes:
        one = note.pop("slice")
        name = f"{one['image_name']} [{one['index']}]"
        note |= {"name": name, "slice_index": one["index"]}
    save_file(tensors, path, {"slices": json.dumps(notes)})
    return folder


def test_a_model_of_version_2_is_read_and_trains_on(of_version_2, image, labels, quick):
    card = load_card(of_version_2)
    assert [s.name for s in card.training_slices] == [
        f"phantom [{index}]" for index in (1, 4, 7, 10)
    ]
    assert set(kept_labels(of_version_2)) == set(card.training_slices)
    (entry,) = ModelLibrary(of_version_2.parent).entries()
    assert entry.n_images == 1
    assert load_model(of_version_2).card.training_slices == card.training_slices
    assert FineTuneSettings(**card.settings).seed == quick.seed  # one is gone since
    new = keep_slices(labels.array, [4])
    more, *_ = begin(
        image, new, quick, start=of_version_2, earlier=card.training_slices[:1]
    )
    # They are recognised as slices of this very image.
    assert {s.id for s in more.training} == {
        image.slice_id(0, 1),
        image.slice_id(0, 4),
    }
    assert is_of_one_image(more)

"""`propagate`, and `segment` with painted slices, on files."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from tests.engine.cli.test_cli import AFFINE, TINY, listing, refusal, run, write
from tests.phantom import keep_slices

PAINTED = [1, 4, 7, 10]


@pytest.fixture
def files(phantom, tmp_path):
    image, labels = phantom
    return (
        write(tmp_path / "ct.nii.gz", image),
        write(tmp_path / "painted" / "ct.nii.gz", keep_slices(labels, PAINTED)),
    )


def voxels(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)


def test_the_mask_lies_where_the_image_lies(files, phantom, tmp_path):
    out = tmp_path / "made" / "filled.nii.gz"
    result = run("propagate", *files, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    np.testing.assert_allclose(nib.load(out).affine, AFFINE)
    found, truth = voxels(out), phantom[1]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[PAINTED], truth[PAINTED])
    assert (found == truth).mean() > 0.98
    assert listing(out.parent) == {"filled.nii.gz"}


def test_json_tells_what_was_carried_how_far(files, tmp_path):
    out = tmp_path / "filled.nii.gz"
    result = run("propagate", *files, "--out", out, "--axis", "axial", "--json")
    document = json.loads(result.stdout)
    assert document["mask"] == str(out)
    assert document["axis"] == 0
    assert [one["index"] for one in document["slices"]] == list(range(12))
    assert [one["gap"] for one in document["slices"]][:3] == [4.0, 0.0, 4.0]
    assert document["slices"][0]["agreement"] is None
    assert 0.5 < document["slices"][2]["agreement"] <= 1


def test_suggest_takes_slices_and_strokes(files, phantom, tmp_path):
    out = tmp_path / "suggested.nii.gz"
    result = run("suggest", *files, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"mask": str(out), "axis": 0}
    np.testing.assert_allclose(nib.load(out).affine, AFFINE)
    assert (voxels(out) == phantom[1]).mean() > 0.95
    strokes = keep_slices(phantom[1], [4])
    strokes[4][::4][strokes[4][::4] == 0] = 255
    write(files[1], strokes)
    again = ("--background-value", "255", "--overwrite")
    assert run("suggest", *files, "--out", out, *again).exit_code == 0
    assert 255 not in voxels(out)
    refused = run("suggest", *files, "--out", out)
    assert "is there already" in refusal(refused)


def test_slices_that_are_chosen_or_empty(files, phantom, tmp_path):
    out, painted = tmp_path / "filled.nii.gz", keep_slices(phantom[1], PAINTED)
    painted[[1, 10]] = 1  # nonsense, which is not chosen
    write(files[1], painted)
    chosen = ("--slices", "4,7", "--empty", "11", "--axis", "0")
    assert run("propagate", *files, "--out", out, *chosen).exit_code == 0
    found = voxels(out)
    np.testing.assert_array_equal(found[[4, 7]], phantom[1][[4, 7]])
    assert (found[1] == phantom[1][1]).mean() > 0.95
    assert not found[11].any()


def test_what_is_there_is_not_replaced_unasked(files, tmp_path):
    out = tmp_path / "filled.nii.gz"
    assert run("propagate", *files, "--out", out).exit_code == 0
    before = out.read_bytes()
    assert "is there already" in refusal(run("propagate", *files, "--out", out))
    assert out.read_bytes() == before
    assert run("propagate", *files, "--out", out, "--overwrite").exit_code == 0
    for target in files:
        result = run("propagate", *files, "--out", target, "--overwrite")
        assert "would be replaced" in refusal(result)
    stacked = tmp_path / "filled.tif"
    stacked.write_bytes(b"mine")
    as_png = run("propagate", *files, "--out", tmp_path / "filled.png")
    assert "filled.tif is there already" in refusal(as_png)
    assert stacked.read_bytes() == b"mine"
    unwritten = run("propagate", *files, "--out", tmp_path / "filled.mha")
    assert "no format that is written" in refusal(unwritten)
    assert "is a folder" in refusal(run("propagate", *files, "--out", tmp_path))


def test_a_model_is_told_what_is_painted(files, phantom, tmp_path):
    model = tmp_path / "model"
    assert run("finetune", *files, "--out", model, *TINY).exit_code == 0
    painted = files[1].parent
    for number, labels in enumerate((files[1], painted)):
        out = tmp_path / f"masks {number}"
        done = run("segment", model, files[0], "--labels", labels, "--out", out)
        assert done.exit_code == 0, done.output
        assert "4 painted slices are carried" in done.stderr
        found = voxels(out / "ct.nii.gz")
        np.testing.assert_array_equal(found[PAINTED], phantom[1][PAINTED])
    alone = tmp_path / "alone"
    assert run("segment", model, files[0], "--out", alone).exit_code == 0
    assert not np.array_equal(voxels(alone / "ct.nii.gz"), found)


def test_what_is_left_out_of_folders_is_named(files, phantom, tmp_path):
    model, scans, painted = tmp_path / "model", tmp_path / "scans", files[1].parent
    assert run("finetune", *files, "--out", model, *TINY).exit_code == 0
    for name in ("ct.nii.gz", "alone.nii.gz"):
        write(scans / name, phantom[0])
    write(painted / "other.nii.gz", phantom[1])
    (painted / "notes.txt").touch()
    masks = scans / "masks"
    masks.mkdir()
    done = run("segment", model, scans, "--labels", painted, "--out", masks)
    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    assert "as it is no image: notes.txt." in said
    assert "Labels without an image of their name are not used: other.nii.gz." in said
    assert "of which what the model knows is carried: alone.nii.gz." in said
    assert said.count("Not looked at") == 1  # where the masks go is none of it


def test_labels_of_other_images_are_refused(files, phantom, tmp_path):
    model = tmp_path / "model"
    assert run("finetune", *files, "--out", model, *TINY).exit_code == 0
    others = write(tmp_path / "others" / "mr.nii.gz", phantom[1]).parent
    result = run(
        "segment", model, files[0], "--labels", others, "--out", tmp_path / "o"
    )
    assert "no labels for any of" in refusal(result)
    assert not (tmp_path / "o").exists()

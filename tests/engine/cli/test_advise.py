"""The command `advise`, on files."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from tests.engine.cli.test_cli import AFFINE, refusal, run, write
from tests.phantom import TINY, keep_slices, train

from medsaga import save_model

PAINTED = [1, 4, 10]


@pytest.fixture(scope="module")
def folder(phantom, tmp_path_factory):
    image, labels = phantom
    model, _ = train(image, keep_slices(labels, PAINTED), TINY)
    return save_model(model, tmp_path_factory.mktemp("advise") / "model")


@pytest.fixture
def files(phantom, tmp_path):
    image, labels = phantom
    return (
        write(tmp_path / "ct.nii.gz", image),
        write(tmp_path / "painted.nii.gz", keep_slices(labels, PAINTED)),
    )


def test_it_names_slices_to_paint_and_to_look_at(folder, files):
    result = run("advise", folder, *files)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Paint next: ")
    named = result.stdout.splitlines()[0].removeprefix("Paint next: ").rstrip(".")
    chosen = [int(one) for one in named.split(", ")]
    assert len(chosen) == 3
    assert not set(chosen) & set(PAINTED)
    assert "Pixels expected wrong" in result.stdout


def test_the_map_lies_where_the_image_lies(folder, files, tmp_path):
    out = tmp_path / "doubts.nii.gz"
    result = run("advise", folder, *files, "--uncertainty", out, "--json")
    document = json.loads(result.stdout)
    assert document["uncertainty"] == str(out)
    assert document["painted"] == PAINTED
    assert sorted(document["to_review"]) == [0, 2, 3, 5, 6, 7, 8, 9, 11]
    np.testing.assert_allclose(nib.load(out).affine, AFFINE)
    doubts = np.asarray(nib.load(out).dataobj).transpose(2, 1, 0)
    np.testing.assert_allclose(
        doubts.sum(axis=(1, 2)), document["errors"], rtol=1e-3, atol=0.01
    )


def test_nothing_is_replaced_unasked(folder, files, tmp_path):
    before = files[0].read_bytes()
    said = refusal(run("advise", folder, *files, "--uncertainty", files[0]))
    assert "would be replaced" in said
    assert files[0].read_bytes() == before
    out = write(tmp_path / "doubts.nii.gz", np.zeros((2, 2, 2), np.uint8))
    said = refusal(run("advise", folder, *files, "--uncertainty", out))
    assert "--overwrite" in said
    again = run("advise", folder, *files, "--uncertainty", out, "--overwrite")
    assert again.exit_code == 0, again.output

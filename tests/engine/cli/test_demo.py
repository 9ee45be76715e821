from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import medsaga
from medsaga.cli import app
from medsaga.cli.display import Display

SHORT = shlex.split(
    "--backbone tiny --steps 2 --head-views 4 --head-steps 60 --batch-size 1 --rank 8 "
    "--precision fp32 --long-side 64"
)


def run(out: Path, *options: str):
    return CliRunner().invoke(app, ["demo", "--out", str(out), *SHORT, *options])


@pytest.fixture(scope="module")
def sample(repository) -> Path:
    return repository / "sample_data"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    result = run(out, "--json")
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def test_the_demo_names_all_it_has_written(done):
    out, document = done
    assert document["stopped"] is False
    for name in ("model", "mask", "sheet"):
        assert Path(document[name]).exists()
        assert Path(document[name]).parent == out
    written = [Path(document[name]).name for name in ("model", "mask", "sheet")]
    assert sorted(path.name for path in out.iterdir()) == sorted(written)


def test_the_mask_lies_where_the_image_lies(done, sample):
    image = nib.load(sample / "phantom_ct.nii.gz")
    mask = nib.load(done[1]["mask"])
    assert mask.shape == image.shape
    np.testing.assert_array_equal(mask.affine, image.affine)


def test_dice_is_that_of_the_slices_that_were_not_annotated(done, sample):
    _, document = done
    labels = medsaga.read_labels(sample / "phantom_labels.nii.gz").array
    unlabelled = np.flatnonzero(~labels.any((1, 2))).tolist()
    assert document["scored_slices"] == unlabelled
    truth = medsaga.read_labels(sample / "phantom_truth.nii.gz").array[unlabelled]
    mask = medsaga.read_labels(Path(document["mask"])).array[unlabelled]
    assert list(document["classes"]) == [str(v) for v in np.unique(truth) if v]
    scores = []
    for value, row in document["classes"].items():
        predicted, true = mask == int(value), truth == int(value)
        overlap = 2 * (predicted & true).sum() / (predicted.sum() + true.sum())
        assert row["dice"] == pytest.approx(overlap)
        scores.append(overlap)
    assert document["mean_dice"] == pytest.approx(np.mean(scores))
    classes = json.loads((sample / "phantom_classes.json").read_text())
    for value, row in classes.items():
        assert document["classes"][value]["name"] == row["name"]


def test_the_model_knows_names_and_colours(done, sample):
    card = medsaga.load_model(done[1]["model"]).card
    classes = json.loads((sample / "phantom_classes.json").read_text())
    assert card.classes.values == (0, *map(int, classes))
    assert card.classes.names[1:] == tuple(row["name"] for row in classes.values())
    assert card.classes.colours[1:] == tuple(row["colour"] for row in classes.values())


def test_the_sheet_shows_the_classes_over_the_image(done):
    with Image.open(done[1]["sheet"]) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    assert min(height, width) > 500
    thirds = np.array_split(pixels[: int(0.9 * height)], 3)
    coloured = [(np.ptp(third, axis=-1) > 40).mean() for third in thirds]
    # The image alone is grey; truth and prediction lie over it in colour.
    assert coloured[0] < 0.002
    assert min(coloured[1:]) > 0.03
    assert all((third.mean(-1) > 60).mean() > 0.1 for third in thirds)


def test_an_earlier_demo_is_replaced_and_other_files_stay(done, tmp_path):
    out, _ = done
    (out / "notes.txt").write_text("mine")
    before = (out / "phantom_model" / "card.json").read_text()
    result = run(out, "--seed", "3")
    assert result.exit_code == 0, result.output
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "phantom_model" / "card.json").read_text() != before
    assert "Dice on the 35 slices that were not annotated" in result.stdout
    assert "liver" in result.stdout
    assert str(out / "phantom_mask.nii.gz") in result.stdout


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (medsaga.events.Notice, set()),
        (medsaga.events.SegmentedSlice, {"phantom_model"}),
    ],
)
def test_a_stop_keeps_what_is_whole(wanted, left, tmp_path, monkeypatch):
    show = Display.show

    def show_and_interrupt(display, event):
        show(display, event)
        if isinstance(event, wanted) and not pressed:
            pressed.append(event)
            signal.raise_signal(signal.SIGINT)

    pressed: list[medsaga.events.Event] = []
    monkeypatch.setattr(Display, "show", show_and_interrupt)
    result = run(tmp_path, "--json")
    assert result.exit_code == 130
    assert {path.name for path in tmp_path.iterdir()} == left
    document = json.loads(result.stdout)
    assert document["stopped"] is True
    assert (document["model"] is not None) == bool(left)
    assert document["mask"] is None
    if left:
        medsaga.load_model(document["model"])


def test_a_file_in_the_way_is_refused_at_once(tmp_path):
    (tmp_path / "demo").write_text("mine")
    result = run(tmp_path / "demo")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error:")
    assert (tmp_path / "demo").read_text() == "mine"

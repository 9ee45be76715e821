"""`finetune --from-card`: the same again, or a word of what is not the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine.cli.test_cli import TINY, refusal, run, write
from tests.engine.training.conftest import weights_equal
from tests.phantom import keep_slices, make_phantom

from medsaga import load_card, load_model


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    image, truth = make_phantom()
    return (
        write(folder / "ct.nii.gz", image),
        write(folder / "labels.nii.gz", keep_slices(truth, [1, 4, 7, 10])),
    )


@pytest.fixture(scope="module")
def model(pair, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("models") / "model"
    options = [
        "--slices",
        "1,4,7",
        "--empty",
        "0",
        "--window",
        "0",
        "255",
        "--seed",
        "7",
    ]
    names = ["--name", "1=liver", "--threads", "1"]
    result = run("finetune", *pair, "--out", out, *TINY, *options, *names)
    assert result.exit_code == 0, result.output
    return out


def test_it_is_the_same_again(pair, model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "again"
    card = model / "card.json"
    result = run("finetune", "--from-card", card, *pair, "--out", out)
    assert result.exit_code == 0, result.output
    assert "repeated with all as it was" in result.stderr
    assert weights_equal(load_model(out), load_model(model))
    first, again = load_card(model), load_card(out)
    for name in ("settings", "classes", "training_slices", "data_fingerprint"):
        assert getattr(again, name) == getattr(first, name)
    assert again.run.pairs == first.run.pairs


def test_the_card_says_what_it_was_given(pair, model):
    record = load_card(model).run
    assert record.slices == (1, 4, 7)
    assert record.empty_slices == ((-1, 0),)
    assert record.window == (0.0, 255.0)
    assert record.start is None
    (one,) = record.pairs
    assert one.name == "ct"
    assert {len(one.image_sha256), len(one.labels_sha256)} == {64}
    assert record.command  # of pytest, here
    assert not any("/" in word for word in record.command)


def test_what_is_not_the_same_is_named(pair, model, tmp_path):
    image, truth = make_phantom()
    image[3, 3, 3] += 1
    truth[4, 20, 20:23] = 5
    changed = (
        write(tmp_path / "ct.nii.gz", image),
        write(tmp_path / "labels.nii.gz", keep_slices(truth, [1, 4, 7, 10])),
    )
    result = run(
        *("finetune", "--from-card", model, *changed, "--out", tmp_path / "again"),
        *("--rank", "4"),
    )
    assert result.exit_code == 0, result.output
    (told,) = (line for line in result.stderr.splitlines() if "not the same" in line)
    assert "the image ct" in told
    assert "the labels of ct" in told
    assert "rank 4 in place of 8" in told


def test_a_training_on_more_threads_than_there_are_says_so(pair, model, tmp_path):
    card = json.loads((model / "card.json").read_text())
    card["settings"]["threads"] = 1000
    other = tmp_path / "model"
    other.mkdir()
    (other / "card.json").write_text(json.dumps(card))
    result = run("finetune", "--from-card", other, *pair, "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert "Of the 1000 threads that are asked for" in result.stderr


@pytest.mark.parametrize(
    ("run_record", "words"),
    [(None, "was made before"), ({"start": "liver"}, "went on from the model liver")],
)
def test_what_cannot_be_repeated_is_refused(pair, model, tmp_path, run_record, words):
    card = json.loads((model / "card.json").read_text())
    card["run"] = run_record and card["run"] | run_record
    (tmp_path / "card.json").write_text(json.dumps(card))
    told = refusal(run("finetune", "--from-card", tmp_path, *pair, "--out", "other"))
    assert words in told


def test_the_labels_are_told_apart_wherever_they_are_painted(tmp_path):
    """Of the image 32 planes are looked at, of the labels all that train."""
    from medsaga.data.annotation import annotated_slices
    from medsaga.data.volume import volume_from_array
    from medsaga.models.run_record import _labels_sha256

    array = np.zeros((100, 8, 8), np.uint8)
    hashes = set()
    for value in (1, 2):
        array[33, 2, 2] = value
        labels = volume_from_array(array.copy())
        hashes.add(_labels_sha256(labels, annotated_slices([labels]), 0))
    assert len(hashes) == 2


def test_what_is_asked_for_otherwise_is_named(pair, model, tmp_path):
    for options, words in (
        (["--window", "90", "110"], "the intensities"),
        (["--slices", "1,4"], "which slices train"),
    ):
        out = tmp_path / words
        command = ["finetune", "--from-card", model, *pair, "--out", out, *options]
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert words in result.stderr


def test_what_the_card_decides_cannot_be_asked_for(pair, model):
    for options in (["--preset", "quick"], ["--minutes", "3"]):
        command = ["finetune", "--from-card", model, *pair, "--out", "other"]
        assert "leave --preset and --minutes out" in refusal(run(*command, *options))


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/opt/bin/medsaga", "a=b/ct.nii", "--out=/x=y/model"], ["medsaga", "ct.nii"]),
        (["/lib/medsaga/__main__.py", "finetune"], ["medsaga", "finetune"]),
        (["/opt/bin/napari", "/patients/doe.nii"], ["napari"]),
        (["/lib/napari_medsaga/__main__.py", "doe.nii"], ["napari_medsaga"]),
    ],
)
def test_a_command_names_no_folders_and_nothing_that_napari_opened(
    monkeypatch, argv, command
):
    from medsaga.models import run_record

    monkeypatch.setattr(run_record.sys, "argv", argv)
    assert list(run_record._command()[: len(command)]) == command
    assert not any("/" in word for word in run_record._command())

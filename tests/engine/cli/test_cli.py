from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer.main
from tests.phantom import VALUES, keep_slices, make_phantom
from typer.testing import CliRunner

import medsaga
from medsaga import PRESETS, FineTuneSettings, MedsagaError, SegmentSettings, Stop
from medsaga.cli import app
from medsaga.cli.display import Display
from medsaga.cli.finetune import make_settings
from medsaga.cli.options import parse_axis, parse_names, parse_slices
from medsaga.cli.run import check_writable, start_run
from medsaga.events import Notice
from medsaga.frontend import describe
from medsaga.segmentation import batch

# Mirrored, anisotropic and off the origin: nothing that a default would give.
AFFINE = np.array([[-1.5, 0, 0, 20], [0, 2, 0, -7], [0, 0, 4, 3], [0, 0, 0, 1.0]])
TINY = shlex.split(
    "--backbone tiny --steps 2 --head-views 4 --head-steps 5 --batch-size 1 --rank 8 "
    "--precision fp32 --long-side 64"
)
HEAVY = {"torch", "monai", "nibabel", "numpy", "matplotlib", "timm", "scipy"}


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Write (z, y, x) as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), path)
    return path


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refusal(result) -> str:
    """The one sentence of a run that was refused."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1
    assert result.stderr.splitlines()[-1] == errors[0]
    return errors[0]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder with one volume, and beside it the folders `labels` and `truth`."""
    folder = tmp_path_factory.mktemp("data")
    image, truth = make_phantom()
    write(folder / "images" / "ct.nii.gz", image)
    write(folder / "labels" / "ct.nii.gz", keep_slices(truth, [1, 4, 7, 10]))
    write(folder / "truth" / "ct.nii.gz", truth)
    return folder / "images"


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """What `finetune --json` has printed, and where its model is."""
    model = tmp_path_factory.mktemp("models") / "model"
    image, labels = (images.parent / f / "ct.nii.gz" for f in ("images", "labels"))
    names = "--name", "1=liver", "--name", "5=left kidney", "--name", "9=none"
    result = run("finetune", image, labels, "--out", model, *TINY, *names, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), model, result


@pytest.fixture(scope="module")
def model(trained) -> Path:
    return trained[1]


# finetune, and the chain from it


def test_finetune_writes_the_model_that_it_reports(trained):
    document, model, result = trained
    assert document["model"] == str(model)
    assert document["stopped"] is False
    assert document["card"] == json.loads((model / "card.json").read_text())
    card = medsaga.load_model(model).card
    assert card.classes.values == (0, *VALUES)
    assert card.classes.names == ("background", "liver", "left kidney", "class 117")
    assert [one.index for one in card.training_slices] == [1, 4, 7, 10]
    assert "'none' is unused" in result.stderr
    assert "GaLore stage 2/2" in result.stderr


def test_options_change_the_preset_and_nothing_else(trained):
    settings = trained[0]["card"]["settings"]
    planned = {"long_side", "negatives", "feature_cache_mb", "threads", "validations"}
    planned |= {"checkpointing", "lean"}
    given = {
        "backbone": "tiny",
        "steps": 2,
        "head_views": 4,
        "head_steps": 5,
        "batch_size": 1,
        "rank": 8,
        "precision": "fp32",
    }
    for name, default in dataclasses.asdict(PRESETS["balanced"]).items():
        if name not in planned:
            assert settings[name] == given.get(name, default), name


def test_segment_writes_what_the_engine_gives_in_the_image_s_place(
    model, images, tmp_path
):
    result = run("segment", model, images, "--out", tmp_path / "masks", "--json")
    assert result.exit_code == 0, result.output
    (item,) = json.loads(result.stdout)["images"]
    assert item["status"] == "written"
    assert item["mask"] == str(tmp_path / "masks" / "ct.nii.gz")
    written = nib.load(item["mask"])
    np.testing.assert_array_equal(written.affine, AFFINE)
    expected = medsaga.drain(medsaga.segment(model, images / "ct.nii.gz")).mask
    np.testing.assert_array_equal(
        medsaga.read_labels(Path(item["mask"])).array, expected.array
    )
    assert listing(tmp_path) == {"masks", "masks/ct.nii.gz"}

    scores = run("evaluate", item["mask"], images.parent / "truth" / "ct.nii.gz")
    assert scores.exit_code == 0
    truth = medsaga.read_labels(images.parent / "truth" / "ct.nii.gz").array
    mean = medsaga.score(expected.array, truth).mean_dice
    assert f"{mean:.3f}" in scores.stdout.splitlines()[-1]


def test_segment_votes_and_cleans_as_the_engine_does(model, images, tmp_path):
    options = ("three_planes", "largest_component", "fill_holes")
    flags = [f"--{name.replace('_', '-')}" for name in options]
    result = run("segment", model, images, "--out", tmp_path, *flags)
    assert result.exit_code == 0, result.output
    settings = medsaga.SegmentSettings(**dict.fromkeys(options, True))
    image = images / "ct.nii.gz"
    expected = medsaga.drain(medsaga.segment(model, image, settings))
    written = medsaga.read_labels(tmp_path / "ct.nii.gz").array
    np.testing.assert_array_equal(written, expected.mask.array)
    # Slices of all planes are counted.
    n_slices = sum(expected.mask.shape)
    assert f"{n_slices}/{n_slices}" in result.stderr


def test_info_tells_what_the_card_holds(model):
    result = run("info", model)
    assert result.exit_code == 0
    assert result.stderr == ""
    card = json.loads((model / "card.json").read_text())
    for text in ("tiny", "left kidney", "64 pixels", "axial", "rank 8", "Peak memory"):
        assert text in result.stdout
    assert f"{card['measured']['projected_share']:.0%} of the encoder's" in (
        result.stdout
    )
    assert json.loads(run("info", model, "--json").stdout) == card


def test_a_head_alone_takes_no_steps_and_says_so(images, tmp_path):
    labels = images.parent / "labels"
    result = run(
        *("finetune", images, labels, "--out", tmp_path / "model", *TINY),
        *("--stages", "head", "--steps", 500),
    )
    assert result.exit_code == 0, result.output
    assert "without the 500 steps" in " ".join(result.stderr.split())
    told = run("info", tmp_path / "model").stdout
    assert "the head alone" in told
    assert "GaLore" not in told


def test_a_model_is_replaced_only_if_asked_for(model, images, tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    for file in model.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    card = (target / "card.json").read_bytes()
    image, labels = images / "ct.nii.gz", images.parent / "labels" / "ct.nii.gz"
    arguments = ("finetune", image, labels, "--out", target, *TINY, "--slices", "4,7-7")
    assert "--overwrite" in refusal(run(*arguments))
    assert (target / "card.json").read_bytes() == card
    result = run(*arguments, "--overwrite", "--axis", "axial")
    assert result.exit_code == 0, result.output
    slices = medsaga.load_model(target).card.training_slices
    assert [one.index for one in slices] == [4, 7]
    assert f"Model: {target}" in result.stdout


def test_folders_are_paired_by_name(images, tmp_path):
    for folder in ("images", "labels"):
        source = images.parent / folder / "ct.nii.gz"
        for name in ("a", "b"):
            (tmp_path / folder).mkdir(exist_ok=True)
            target = tmp_path / folder / f"{name}.nii.gz"
            target.write_bytes(source.read_bytes())
    result = run(
        *("finetune", tmp_path / "images", tmp_path / "labels"),
        *("--out", tmp_path / "model", *TINY, "--window", -50, 300),
    )
    assert result.exit_code == 0, result.output
    card = medsaga.load_model(tmp_path / "model").card
    slices = card.training_slices + card.held_out_slices
    assert {one.image_name for one in slices} == {"a", "b"}
    assert (card.intensity.low, card.intensity.high) == (-50, 300)


def test_strokes_and_empty_slices_train(images, tmp_path):
    labels = keep_slices(make_phantom()[1], [1, 4, 7, 10])
    labels[4, 30:] = 200
    strokes = write(tmp_path / "ct.nii.gz", labels)
    result = run(
        *("finetune", images / "ct.nii.gz", strokes, "--out", tmp_path / "model"),
        *(*TINY, "--sparse", "--background-value", 200, "--empty", "0,11"),
    )
    assert result.exit_code == 0, result.output
    card = medsaga.load_card(tmp_path / "model")
    assert card.classes.values == (0, *VALUES)
    assert [one.index for one in card.training_slices] == [0, 1, 4, 7, 10, 11]
    assert "sparse, background 200" in run("info", tmp_path / "model").stdout


# Bad input


def _no_label(folder: Path) -> tuple[Path, Path]:
    image, labels = make_phantom()
    empty = np.zeros_like(labels)
    return write(folder / "a.nii.gz", image), write(folder / "b.nii.gz", empty)


def _other_shape(folder: Path) -> tuple[Path, Path]:
    image, labels = make_phantom()
    return write(folder / "a.nii.gz", image), write(folder / "b.nii.gz", labels[1:])


def _no_image(folder: Path) -> tuple[Path, Path]:
    (folder / "a.nii.gz").write_text("no image")
    return folder / "a.nii.gz", write(folder / "b.nii.gz", make_phantom()[1])


def _no_file(folder: Path) -> tuple[Path, Path]:
    return folder / "absent.nii.gz", write(folder / "b.nii.gz", make_phantom()[1])


def _empty_folder(folder: Path) -> tuple[Path, Path]:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    return folder / "images", folder / "labels"


def _file_and_folder(folder: Path) -> tuple[Path, Path]:
    image, labels = make_phantom()
    write(folder / "labels" / "a.nii.gz", labels)
    return write(folder / "a.nii.gz", image), folder / "labels"


BAD_INPUT = {
    _no_label: "label",
    _other_shape: "shape",
    _no_image: "a.nii.gz",
    _no_file: "absent.nii.gz",
    _empty_folder: "images",
    _file_and_folder: "two folders",
}


@pytest.mark.parametrize("make", BAD_INPUT, ids=lambda make: make.__name__)
def test_bad_input_gets_one_sentence_and_leaves_nothing(make, tmp_path):
    image, labels = make(tmp_path)
    before = listing(tmp_path)
    result = run("finetune", image, labels, "--out", tmp_path / "model", *TINY)
    assert BAD_INPUT[make] in refusal(result)
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--slices", "3,x"], "'x'"),
        (["--slices", "5-3"], "5-3"),
        (["--slices", "400"], "400"),
        (["--empty", "0,x"], "--empty has 'x'"),
        (["--empty", "0,4"], "ct [4] is said to be empty"),
        (["--sparse"], "Nothing is painted as background"),
        (["--axis", "up"], "'up'"),
        (["--name", "liver"], "1=liver"),
        (["--name", "1=a", "--name", "1=b"], "twice"),
        (["--preset", "best"], "quick, balanced"),
        (["--minutes", "1"], "--minutes and --steps"),
        (["--window", "240", "-160"], "empty"),
        (["--backbone", "no/such.pth"], "no/such.pth"),
        (["--preset", "paper", "--stages", "head"], "detail_head"),
    ],
)
def test_bad_options_get_one_sentence(options, part, images, tmp_path):
    image, labels = images / "ct.nii.gz", images.parent / "labels" / "ct.nii.gz"
    result = run(
        "finetune", image, labels, "--out", tmp_path / "model", *TINY, *options
    )
    assert part in refusal(result)
    assert listing(tmp_path) == set()


@pytest.mark.parametrize(
    "option", [["--rank", "0"], ["--projection", "up"], ["--nope"]]
)
def test_values_out_of_bounds_are_bad_usage(option, images, tmp_path):
    image, labels = images / "ct.nii.gz", images.parent / "labels" / "ct.nii.gz"
    result = run("finetune", image, labels, "--out", tmp_path / "m", *option)
    assert result.exit_code == 2
    assert option[0] in result.stderr
    assert listing(tmp_path) == set()


@pytest.mark.parametrize("target", ["full", "file", "file/below"])
def test_a_place_that_no_model_can_go_to_is_refused_first(target, images, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = listing(tmp_path)
    image, labels = images / "ct.nii.gz", images.parent / "labels" / "ct.nii.gz"
    result = run(
        "finetune", image, labels, "--out", tmp_path / target, *TINY, "--overwrite"
    )
    refusal(result)
    assert "stage" not in result.stderr, "it was refused only after the training"
    assert listing(tmp_path) == before


@pytest.mark.parametrize("command", ["segment", "info"])
def test_what_is_no_model_is_refused(command, images, tmp_path):
    options = [images, "--out", tmp_path / "out"] if command == "segment" else []
    assert "no model folder" in refusal(run(command, tmp_path, *options))
    (tmp_path / "card.json").write_bytes(b"\xff\xfe{")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    refusal(run("info", tmp_path))
    assert not (tmp_path / "out").exists()


# segment


@pytest.fixture
def two_images(tmp_path) -> Path:
    for name in ("one", "two"):
        write(tmp_path / "two" / f"{name}.nii.gz", make_phantom(n_slices=4)[0])
    return tmp_path / "two"


def test_a_bad_image_does_not_cost_the_others(model, two_images, tmp_path):
    (two_images / "bad.nii.gz").write_text("no image")
    result = run("segment", model, two_images, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    items = {Path(i["image"]).name: i for i in json.loads(result.stdout)["images"]}
    assert {name: item["status"] for name, item in items.items()} == {
        "bad.nii.gz": "failed",
        "one.nii.gz": "written",
        "two.nii.gz": "written",
    }
    assert items["bad.nii.gz"]["error"] in result.stderr
    assert listing(tmp_path / "out") == {"one.nii.gz", "two.nii.gz"}


def test_too_little_memory_for_one_image_does_not_cost_the_others(
    model, two_images, tmp_path, monkeypatch
):
    segment, errors = batch.segment, [RuntimeError("CUDA out of memory")]

    def fail_once(*arguments, **options):
        if errors:
            raise errors.pop()
        return segment(*arguments, **options)

    monkeypatch.setattr(batch, "segment", fail_once)
    result = run("segment", model, two_images, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert "one.nii.gz failed: The memory is not enough" in result.stderr
    assert listing(tmp_path / "out") == {"two.nii.gz"}
    errors.append(MemoryError())
    image = two_images / "one.nii.gz"
    refusal(run("segment", model, image, "--out", tmp_path / "out"))
    errors.append(RuntimeError("a defect"))
    result = run("segment", model, image, "--out", tmp_path / "out")
    assert isinstance(result.exception, RuntimeError)


def test_home_is_where_the_masks_go(model, two_images, tmp_path, monkeypatch):
    """No shell puts it in the place of the ~ of --out=~/masks."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = run("segment", model, two_images / "one.nii.gz", "--out=~/masks")
    assert result.exit_code == 0
    assert listing(tmp_path / "masks") == {"one.nii.gz"}
    assert not (tmp_path / "~").exists()


def test_one_bad_image_alone_is_bad_input(model, tmp_path):
    (tmp_path / "bad.nii.gz").write_text("no image")
    out = tmp_path / "out"
    refusal(run("segment", model, tmp_path / "bad.nii.gz", "--out", out))
    refusal(run("segment", model, tmp_path / "absent.nii.gz", "--out", out))
    assert not out.exists()


def test_masks_that_are_there_are_kept_unless_told_otherwise(
    model, two_images, tmp_path
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "one.nii.gz").write_text("mine")
    result = run("segment", model, two_images, "--out", out)
    assert result.exit_code == 0
    assert (out / "one.nii.gz").read_text() == "mine"
    assert result.stdout.splitlines() == [str(out / "two.nii.gz")]
    assert "one.nii.gz is there already" in result.stderr
    result = run("segment", model, two_images, "--out", out, "--overwrite")
    assert result.exit_code == 0
    first, second = (nib.load(out / f"{n}.nii.gz") for n in ("one", "two"))
    np.testing.assert_array_equal(first.dataobj, second.dataobj)


def test_probabilities_and_entropy_are_files_of_their_own(model, images, tmp_path):
    arguments = ("segment", model, images, "--out", tmp_path, "--json")
    assert run(*arguments).exit_code == 0
    # The mask is there: what is asked for now is still written.
    result = run(*arguments, "--probabilities", "--entropy")
    assert result.exit_code == 0, result.output
    assert "only what was not there is written" in result.stderr
    (item,) = json.loads(result.stdout)["images"]
    assert listing(tmp_path) == {
        *("ct.nii.gz", "ct_entropy.nii.gz", "ct_prob-background.nii.gz"),
        *("ct_prob-liver.nii.gz", "ct_prob-left-kidney.nii.gz"),
        "ct_prob-class-117.nii.gz",
    }
    assert list(item["probabilities"]) == [
        *("background", "liver", "left kidney", "class 117")
    ]
    maps = [nib.load(path) for path in item["probabilities"].values()]
    np.testing.assert_array_equal(maps[1].affine, AFFINE)
    stacked = np.stack([np.asarray(m.dataobj) for m in maps])
    np.testing.assert_allclose(stacked.sum(0), 1, atol=0.01)
    mask = np.asarray(nib.load(item["mask"]).dataobj)
    values = np.array((0, *VALUES))[stacked.argmax(0)]
    assert (values == mask).mean() > 0.99  # rounding to float16 makes a few ties
    entropy = np.asarray(nib.load(item["entropy"]).dataobj)
    assert 0 <= entropy.min() < entropy.max() <= 1
    assert [i["status"] for i in json.loads(run(*arguments).stdout)["images"]] == [
        "kept"
    ]


def test_no_output_replaces_an_image_or_another_output(model, two_images, tmp_path):
    before = listing(tmp_path)
    refusal(run("segment", model, two_images, "--out", two_images, "--overwrite"))
    one = two_images / "one.nii.gz"
    derived = tmp_path / "derived"
    derived.mkdir()
    for name in ("one.nii.gz", "one_entropy.nii.gz"):
        (derived / name).write_bytes(one.read_bytes())
    refusal(run("segment", model, derived, "--out", tmp_path / "out", "--entropy"))
    assert not (tmp_path / "out").exists()
    assert before <= listing(tmp_path)


def test_an_image_that_is_given_twice_is_segmented_once(model, images, tmp_path):
    result = run(
        "segment", model, images, images / "ct.nii.gz", "--out", tmp_path, "--json"
    )
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["images"]) == 1


# evaluate


@pytest.fixture
def masks(tmp_path) -> tuple[Path, Path]:
    """Predictions whose scores are known, and the truths."""
    truth = np.zeros((8, 20, 20), np.uint8)
    truth[2:6, 4:10, 4:10] = 1
    truth[2:6, 12:16, 12:16] = 2
    shifted = np.zeros_like(truth)
    shifted[2:6, 4:10, 6:12] = 1
    shifted[0, 0, 0] = 7
    for name, mask in (("a", shifted), ("b", truth)):
        write(tmp_path / "masks" / f"{name}.nii.gz", mask)
        write(tmp_path / "truth" / f"{name}.nii.gz", truth)
    return tmp_path / "masks", tmp_path / "truth"


def test_evaluate_scores_one_file_in_mm(masks, model):
    result = run(
        *("evaluate", masks[0] / "a.nii.gz", masks[1] / "a.nii.gz"),
        *("--model", model, "--json"),
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["unit"] == "mm"
    classes = document["classes"]
    assert classes["1"]["name"] == "liver"
    assert classes["1"]["dice"] == pytest.approx(2 / 3)
    assert classes["1"]["hd95"] == pytest.approx(3.0)  # two voxels of 1.5 mm
    assert classes["2"]["missing"] == {"not predicted": 1}
    assert classes["7"]["missing"] == {"not in the truth": 1}
    assert classes["2"]["hd95"] is None
    assert document["mean_dice"] == pytest.approx(2 / 9)


def test_evaluate_averages_each_class_over_the_files_that_have_it(masks):
    write(masks[1] / "c.nii.gz", np.ones((2, 4, 4), np.uint8))
    result = run("evaluate", *masks, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["without_prediction"] == ["c.nii.gz"]
    assert "c.nii.gz" in result.stderr
    assert document["classes"]["1"]["dice"] == pytest.approx(5 / 6)
    assert document["classes"]["1"]["hd95"] == pytest.approx(1.5)
    assert document["classes"]["2"] == {
        "name": None,
        "dice": 0.5,
        "hd95": 0.0,
        "surface_dice": 1.0,
        "files": 2,
        "missing": {"not predicted": 1},
    }
    assert document["files"]["b"]["mean_dice"] == 1
    table = run("evaluate", *masks).stdout
    assert "not predicted: 1" in table
    assert "HD95 (mm)" in table
    assert "Surface Dice (1 mm)" in table


def test_a_pair_that_cannot_be_scored_does_not_cost_the_others(masks):
    write(masks[0] / "a.nii.gz", np.ones((2, 4, 4), np.uint8))
    result = run("evaluate", *masks, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert list(document["files"]) == ["b"]
    assert "shape" in document["failed"]["a.nii.gz"]
    alone = run("evaluate", masks[0] / "a.nii.gz", masks[1] / "a.nii.gz")
    assert "shape" in refusal(alone)


def test_of_two_masks_for_one_truth_none_is_dropped_silently(masks):
    array = np.zeros((8, 20, 20), np.uint8)
    nib.save(nib.Nifti1Image(array, AFFINE), masks[0] / "a.nii")
    assert "2 files for a" in refusal(run("evaluate", *masks))


# Ctrl-C


def test_the_first_interrupt_stops_a_stream_in_order():
    done = []

    def stream() -> Iterator[Notice]:
        try:
            for step in range(10):
                done.append(step)
                if step == 3:
                    signal.raise_signal(signal.SIGINT)
                yield Notice(message=f"step {step}")
        except Stop:
            yield Notice(message="tidying up")
            return "the best so far"
        return "all"

    before = signal.getsignal(signal.SIGINT)
    with start_run() as started:
        assert started.drain(stream()) == "the best so far"
        assert started.is_stopped
    assert done == [0, 1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_interrupt_aborts_at_once():
    def stream() -> Iterator[Notice]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second interrupt came to nothing")
        yield Notice(message="")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), start_run() as started:
        started.drain(stream())
    assert signal.getsignal(signal.SIGINT) is before


def interrupt_at(monkeypatch, wanted: type, n_before: int = 0) -> None:
    """Press Ctrl-C when an event of a kind has come more than `n_before` times."""
    seen = []
    show = Display.show

    def show_and_interrupt(display, event):
        if isinstance(event, wanted):
            seen.append(event)
            if len(seen) == n_before + 1:
                signal.raise_signal(signal.SIGINT)
        show(display, event)

    monkeypatch.setattr(Display, "show", show_and_interrupt)


def test_a_training_that_has_learned_nothing_leaves_nothing(
    images, tmp_path, monkeypatch
):
    interrupt_at(monkeypatch, Notice)
    image, labels = images / "ct.nii.gz", images.parent / "labels" / "ct.nii.gz"
    result = run(
        "finetune", image, labels, "--out", tmp_path / "model", *TINY, "--json"
    )
    assert result.exit_code == 130
    assert json.loads(result.stdout) == {"model": None, "stopped": True, "card": None}
    assert "nothing is written" in result.stderr
    assert listing(tmp_path) == set()


def test_a_stopped_segmentation_can_be_continued(
    model, two_images, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt_at(patch, medsaga.events.SegmentedSlice, n_before=4 + 2)
        result = run("segment", model, two_images, "--out", out, "--json")
    assert result.exit_code == 130
    document = json.loads(result.stdout)
    assert document["stopped"] is True
    assert [i["status"] for i in document["images"]] == ["written", "stopped"]
    assert listing(out) == {"one.nii.gz"}
    result = run("segment", model, two_images, "--out", out, "--json")
    assert result.exit_code == 0
    statuses = [i["status"] for i in json.loads(result.stdout)["images"]]
    assert statuses == ["kept", "written"]
    assert listing(out) == {"one.nii.gz", "two.nii.gz"}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process there")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_keeps_the_best_model_so_far(name, images, tmp_path):
    """Ctrl-C, a batch scheduler or a shutdown, and a logout."""
    image, labels = images / "ct.nii.gz", images.parent / "labels" / "ct.nii.gz"
    arguments = ["finetune", image, labels, "--out", tmp_path / "model", *TINY]
    process = subprocess.Popen(
        [sys.executable, "-m", "medsaga", *map(str, arguments), "--steps", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    killer = threading.Timer(500, process.kill)
    killer.start()
    try:
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith("GaLore stage"):
                break
        process.send_signal(getattr(signal, name))
        stdout, stderr = process.communicate()
    finally:
        killer.cancel()
        process.kill()
    assert process.returncode == 130, (seen, stderr)
    assert "best model so far is saved" in stderr
    assert "Traceback" not in stderr
    assert f"Model: {tmp_path / 'model'}" in stdout
    assert listing(tmp_path) == {
        *("model", "model/card.json", "model/weights.safetensors")
    }
    assert medsaga.load_model(tmp_path / "model").card.classes.values == (0, *VALUES)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGHUP there")
def test_under_nohup_a_hangup_is_nothing(images, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with start_run() as running:
            signal.raise_signal(signal.SIGHUP)
            assert not running.is_stopped
    finally:
        signal.signal(signal.SIGHUP, before)


# The options themselves


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("finetune", FineTuneSettings),
        ("demo", FineTuneSettings),
        ("segment", SegmentSettings),
    ],
)
def test_every_setting_is_an_option(command, settings):
    presets = [SegmentSettings()] if command == "segment" else PRESETS.values()
    parameters = {
        p.name: p for p in typer.main.get_command(app).commands[command].params
    }
    for setting in describe(settings):
        flag = f"--{setting.name.replace('_', '-')}"
        parameter = parameters[setting.name]
        assert flag in parameter.opts
        assert parameter.help == setting.help
        assert parameter.default is None, "it would override the preset"
        if setting.type is bool:
            is_ever_on = any(getattr(values, setting.name) for values in presets)
            off = [flag.replace("--", "--no-", 1)] if is_ever_on else []
            assert parameter.secondary_opts == off


@pytest.mark.parametrize(
    "setting",
    [s for s in describe(FineTuneSettings) if "min" in s.metadata],
    ids=lambda setting: setting.name,
)
def test_bounds_are_those_of_the_settings(setting):
    option = f"--{setting.name.replace('_', '-')}"
    low, high = setting.metadata["min"], setting.metadata["max"]
    for value, is_allowed in ((low - 1, 0), (low, 1), (high, 1), (high + 1, 0)):
        result = run("finetune", "no", "no", "--out", "no", f"{option}={value}")
        assert result.exit_code == 2
        assert (f"Invalid value for '{option}'" in result.stderr) == (not is_allowed)


def test_the_help_shows_defaults_and_groups(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = run("finetune", "--help").stdout
    groups = {setting.metadata["group"] for setting in describe(FineTuneSettings)}
    assert all(f"─ {group} ─" in text for group in groups)
    assert "lite_medsam; paper: vit_b" in text
    assert "0.0003; paper: 0.001" in text


@pytest.mark.parametrize("name", PRESETS)
def test_without_options_the_preset_is_used_as_it_is(name):
    assert make_settings(name, {}) == PRESETS[name]


def test_on_a_gpu_images_are_larger_and_more_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(medsaga.frontend, "has_gpu", lambda: True)
    settings = make_settings("balanced", {"batch_size": 3})
    expected = dataclasses.replace(PRESETS["balanced"], max_long_side=256, batch_size=3)
    assert settings == expected
    assert make_settings("paper", {}) == PRESETS["paper"]


def test_paper_takes_the_paper_s_backbone_unless_another_is_given():
    assert make_settings("paper", {}).backbone == "vit_b"
    assert make_settings("paper", {"backbone": "vit_l"}).backbone == "vit_l"


def test_texts_of_options_are_understood():
    assert parse_slices(["9,3", "15-17", "3"], "--slices") == [3, 9, 15, 16, 17]
    assert parse_slices(None, "--slices") is None
    assert [parse_axis(t) for t in ("axial", "Coronal", "2")] == [0, 1, 2]
    assert parse_axis(None) is None
    assert parse_names(["1=liver", "-3=a = b"]) == {1: "liver", -3: "a = b"}
    for broken in ("", ",", "1,,2", "-3", "1-2-3", "²"):
        with pytest.raises(MedsagaError, match="--empty has"):
            parse_slices([broken], "--empty")


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys\n"
        "from medsaga.cli import app\n"
        "app(['finetune', '--help'], standalone_mode=False)\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--backbone" in done.stdout
    loaded = {module.partition(".")[0] for module in done.stderr.split()}
    assert "medsaga" in loaded
    assert not loaded & HEAVY
    assert time.monotonic() - started < 10


def test_a_table_can_go_to_a_file_that_does_not_hold_its_characters(model):
    """As a redirected file on a Western Windows."""
    done = subprocess.run(
        [sys.executable, "-m", "medsaga", "info", model],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "cp1252:strict", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert b"left kidney" in done.stdout


def test_a_drive_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(MedsagaError, match="There is no"):
        check_writable(Path("/masks"))


def test_the_version_is_printed_by_the_module_too():
    done = subprocess.run(
        [sys.executable, "-m", "medsaga", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout == f"medsaga {medsaga.__version__}\n"
    assert run("--version").stdout == done.stdout

"""`finetune --resume`, and models that cannot be saved where they belong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.engine.cli.test_cli import TINY, refusal, run, write
from tests.phantom import keep_slices, make_phantom

from medsaga import (
    Journal,
    drain,
    interrupted_trainings,
    load_model,
    save_model,
)
from medsaga.frontend import ModelTarget

# So many steps that a test always comes before the end.
LONG = [*TINY, "--steps", "100000"]


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    image, truth = make_phantom()
    return (
        write(tmp_path / "ct.nii.gz", image),
        write(tmp_path / "labels.nii.gz", keep_slices(truth, [1, 4, 7, 10])),
    )


def start_and_abort(pair, out: Path, *options: str) -> None:
    """Begin a training in a process of its own, and abort it once it learns."""
    arguments = ["finetune", *map(str, pair), "--out", str(out), *LONG, *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "medsaga", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("GaLore stage"):
            break
    process.kill()
    process.wait()


def test_an_aborted_training_goes_on(pair, tmp_path):
    out = tmp_path / "model"
    start_and_abort(pair, out)
    assert not out.exists()
    (entry,) = interrupted_trainings()
    assert entry.target.path == out

    told = refusal(run("finetune", *pair, "--out", out, *TINY, "--resume"))
    assert "other images, labels or settings" in told
    anew = run("finetune", *pair, "--out", tmp_path / "other", *TINY, "--resume")
    assert anew.exit_code == 0, anew.output  # there is none to go on with

    again = run("finetune", *pair, "--out", out, *TINY)
    assert again.exit_code == 0
    assert "run medsaga finetune --resume --out" in again.stderr
    assert interrupted_trainings() == [entry]


def shorten(entry, n_steps: int) -> None:
    """Let an interrupted training of many steps be over after a few."""
    from medsaga.training.resuming.setup_file import read_setup
    from medsaga.training.state import Plan, TrainingState

    setup, network = read_setup(entry.folder)
    state = TrainingState(network=network, plan=Plan.of(setup.settings))
    state.read(entry.folder / "state.safetensors", setup.settings)
    state.revise(steps=state.step + n_steps)
    state.write(entry.folder / "state.safetensors")


def test_resume_alone_takes_the_only_one(pair, tmp_path):
    assert "No training was interrupted" in refusal(run("finetune", "--resume"))
    start_and_abort(pair, tmp_path / "model")
    (entry,) = interrupted_trainings()
    shorten(entry, 2)
    result = run("finetune", "--resume", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["model"] == str(tmp_path / "model")
    assert document["card"] == json.loads((tmp_path / "model/card.json").read_text())
    assert interrupted_trainings() == []


def test_what_has_come_to_its_place_meanwhile_is_not_replaced(
    pair, tmp_path, model_of_the_shell
):
    start_and_abort(pair, tmp_path / "model")
    shorten(interrupted_trainings()[0], 2)
    save_model(load_model(model_of_the_shell), tmp_path / "model")
    before = (tmp_path / "model" / "card.json").read_text()
    result = run("finetune", "--resume", "--json")
    assert json.loads(result.stdout)["model"] == str(tmp_path / "model 2")
    assert (tmp_path / "model" / "card.json").read_text() == before


def test_of_several_one_is_chosen_by_its_out(pair, tmp_path):
    for name in ("one", "two"):
        start_and_abort(pair, tmp_path / name)
    told = refusal(run("finetune", "--resume"))
    assert "Several trainings were interrupted" in told
    assert str(tmp_path / "one") in told
    shorten(next(e for e in interrupted_trainings() if e.target.path.name == "one"), 1)
    result = run("finetune", "--resume", "--out", tmp_path / "one")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "one" / "card.json").is_file()
    (left,) = interrupted_trainings()
    assert left.target.path.name == "two"


@pytest.fixture
def model_of_the_shell(pair, tmp_path) -> Path:
    out = tmp_path / "made" / "model"
    assert run("finetune", *pair, "--out", out, *TINY).exit_code == 0
    return out


def test_a_second_training_into_one_folder_is_told(pair, tmp_path):
    target = ModelTarget.choose(tmp_path / "model")
    with Journal.begin("model", target):
        result = run("finetune", *pair, "--out", tmp_path / "model", *TINY)
    assert result.exit_code == 0
    assert "Another training is to be saved to" in result.stderr


def test_a_folder_that_goes_during_the_training_loses_nothing(pair, tmp_path):
    """It becomes a file: as good as a disk that is gone."""
    from medsaga.training import course

    out = tmp_path / "results" / "model"
    finish = course._finish

    def lose_the_folder(*arguments):
        out.parent.write_text("in the way")
        return finish(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "_finish", lose_the_folder)
        result = run("finetune", *pair, "--out", out, *TINY, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert load_model(document["model"]).card.axis == 0
    assert document["model"] in result.stderr
    assert "Traceback" not in result.output

    out.parent.unlink()
    result = run("finetune", "--resume", "--out", tmp_path / "elsewhere")
    assert result.exit_code == 0, result.output
    assert load_model(tmp_path / "elsewhere").card.axis == 0
    assert interrupted_trainings() == []


def test_what_is_missing_is_asked_for(pair):
    for arguments in ([], [pair[0]], [*pair], ["--resume", pair[0]]):
        assert "--out FOLDER" in refusal(run("finetune", *arguments))


@pytest.mark.parametrize("module", ["typer", "rich.console", "torch", "nibabel"])
def test_ctrl_c_while_something_is_imported_gives_no_traceback(pair, tmp_path, module):
    package, _, name = f"{module}.__init__".partition(".")
    path = tmp_path / "first" / package / f"{name.partition('.')[0]}.py"
    path.parent.mkdir(parents=True)
    (path.parent / "__init__.py").touch()
    path.write_text("raise KeyboardInterrupt")
    arguments = ["finetune", *map(str, pair), "--out", str(tmp_path / "model")]
    ended = subprocess.run(
        [sys.executable, "-m", "medsaga", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "first")},
    )
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == "Aborted."


def test_labels_that_were_painted_on_are_not_passed_over(pair, tmp_path):
    start_and_abort(pair, tmp_path / "model")
    labels = make_phantom()[1]
    write(tmp_path / "labels.nii.gz", keep_slices(labels, [1, 4, 7, 8, 10]))
    options = ["--out", tmp_path / "model", *LONG, "--resume"]
    assert "other images, labels or settings" in refusal(
        run("finetune", *pair, *options)
    )


def test_what_a_training_has_been_told_is_not_told_again():
    for options in (["--steps", "3"], ["--axis", "0"], ["--preset", "quick"]):
        told = refusal(run("finetune", "--resume", *options))
        assert "leave the other options out" in told


def test_one_that_goes_on_may_replace_a_model(pair, tmp_path, model_of_the_shell):
    start_and_abort(pair, tmp_path / "model")
    shorten(interrupted_trainings()[0], 1)
    options = ["--resume", "--out", model_of_the_shell]
    assert "--overwrite" in refusal(run("finetune", *options))
    assert run("finetune", *options, "--overwrite").exit_code == 0
    assert interrupted_trainings() == []


def test_a_stop_before_anything_is_learned_leaves_nothing(pair, tmp_path, monkeypatch):
    from medsaga.cli import run as running

    monkeypatch.setattr(
        running.Run,
        "drain",
        lambda run, stream: drain(stream, should_stop=lambda: True),
    )
    result = run("finetune", *pair, "--out", tmp_path / "model", *TINY)
    assert "nothing is written" in result.stderr
    assert interrupted_trainings() == []

"""What the README says works as it says it."""

from __future__ import annotations

import dataclasses
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from npe2 import PluginManifest
from typer.testing import CliRunner

import medsaga
from medsaga.cli import app

# A training of seconds rather than minutes.
SHORT = {
    "backbone": "tiny",
    "rank": 8,
    "steps": 2,
    "head_views": 4,
    "head_steps": 5,
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def readme(repository) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(repository, tmp_path, monkeypatch) -> Path:
    """Where one works: with the files that the README's commands name."""
    names = {"ct": "ct", "labels": "labels", "truth": "truth"}
    for source, target in names.items():
        shutil.copy(
            repository / "sample_data" / f"phantom_{source}.nii.gz",
            tmp_path / f"{target}.nii.gz",
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_shell_commands_run_one_after_the_other(readme, folder):
    commands = re.findall(r"^ *(medsaga [a-z]+ .*)$", readme, re.MULTILINE)
    assert [shlex.split(c)[1] for c in commands] == [
        "finetune",
        "segment",
        "evaluate",
        "info",
        "propagate",
        "suggest",
        "advise",
    ]
    for command in commands:
        words = shlex.split(command)[1:]
        if words[0] == "finetune":
            for name, value in SHORT.items():
                words += [f"--{name.replace('_', '-')}", str(value)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    assert (folder / "masks" / "ct.nii.gz").is_file()
    assert (folder / "filled.nii.gz").is_file()
    assert (folder / "doubts.nii.gz").is_file()


def test_the_python_example_runs_as_it_stands(readme, folder, monkeypatch):
    preset = medsaga.preset
    monkeypatch.setattr(
        medsaga, "preset", lambda name: dataclasses.replace(preset(name), **SHORT)
    )
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert "preset(" in example
    (folder / "example.py").write_text(example)
    runpy.run_path("example.py")
    assert (folder / "mask.nii.gz").is_file()


def test_every_option_that_it_names_exists(readme):
    named = set(re.findall(r"`(--[a-z-]+)`", readme))
    assert named
    helps = ""
    for command in ("finetune", "segment", "evaluate", "advise"):
        helps += subprocess.run(
            [sys.executable, "-m", "medsaga", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert {option for option in named if option not in helps} == set()


def test_the_menus_that_it_names_are_those_of_the_manifest(readme, repository):
    manifest = PluginManifest.from_file(repository / "napari.yaml")
    named = re.findall(r"\*\*Plugins > (\w+) > ([\w-]+)\*\*", readme)
    widgets = {w.display_name for w in manifest.contributions.widgets}
    assert {dock for _, dock in named} == widgets
    assert {plugin for plugin, _ in named} == {manifest.display_name}
    (sample,) = re.findall(r"Open\s+Sample > MedSAGa > ([\w ]+)\*\*", readme)
    assert sample in {s.display_name for s in manifest.contributions.sample_data}


def test_every_bootstrap_command_that_it_names_exists(readme, repository):
    named = set(re.findall(r"bootstrap\.py (\w+)", readme))
    assert named == {"napari", "demo", "test", "lint"}
    usage = subprocess.run(
        [sys.executable, repository / "bootstrap.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(f"bootstrap.py {command}" in usage for command in named)

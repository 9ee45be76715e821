"""The command `doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def run(tmp_path: Path):
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "medsaga", "doctor", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "MEDSAGA_MODELS": str(tmp_path), **environment},
        )

    return run


def test_the_doctor_says_what_is_here(run, tmp_path):
    done = run(OMP_NUM_THREADS="1")
    assert "Traceback" not in done.stderr
    rows = [line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line]
    table = {title.strip(): text.strip() for title, text in rows}
    assert {"Python", "torch", "CPU", "Memory", "Weights vit_b"} <= set(table)
    assert table["OMP_NUM_THREADS"] == "1"
    assert table["Models are in"].startswith(str(tmp_path))
    wrong = "Problem: " in done.stdout
    assert done.returncode == wrong
    assert wrong == ("No problem was found." not in done.stdout)


def test_a_problem_is_told_and_gives_exit_code_1(run, tmp_path):
    (tmp_path / "file").write_text("")
    done = run("--json", MEDSAGA_MODELS=str(tmp_path / "file" / "models"))
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert any("cannot be written to" in said for said in document["problems"])
    assert document["places"][0]["path"] == str(tmp_path / "file" / "models")
    assert document["versions"]["torch"]
    assert document["weights"][0]["state"] == "here"

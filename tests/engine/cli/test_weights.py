"""The commands `weights`, with fake official weights on a server of this computer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from tests.weights_server import CONTENT, NAME, hold, offer_fake, serving, status
from typer.testing import CliRunner

from medsaga.cli import app
from medsaga.cli.display import Display
from medsaga.events import FileProgress
from medsaga.frontend import weights_folder

COMMAND = """
import pytest, sys
from tests.weights_server import offer
from medsaga.cli import main
with pytest.MonkeyPatch.context() as patch:
    offer(patch, sys.argv.pop(1))
    main()
"""


def run(*arguments: object):
    return CliRunner().invoke(app, ["weights", *map(str, arguments)])


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving() as server:
        offer_fake(monkeypatch, server.url, tmp_path / "home")
        yield server


def test_weights_are_listed_downloaded_and_verified(server):
    listed = run("list")
    assert listed.exit_code == 0
    assert "medsaga weights download vit_b" in listed.stdout
    path = str(weights_folder() / NAME)
    downloaded = run("download", "vit_b", "lite_medsam", "--json")
    assert downloaded.exit_code == 0, downloaded.output
    assert json.loads(downloaded.stdout)["weights"]["vit_b"] == path
    assert "vit_b (MB) 3/3" in downloaded.stderr
    assert run("download", "vit_b").stdout.strip() == path
    document = json.loads(run("list", "--json").stdout)
    assert document["folder"] == str(weights_folder())
    rows = {row["name"]: row for row in document["weights"]}
    assert (rows["vit_b"]["state"], rows["vit_b"]["path"]) == ("here", path)
    assert (rows["vit_l"]["state"], rows["vit_l"]["path"]) == ("missing", None)
    assert rows["vit_b"]["licence"] == "Apache-2.0"
    verified = run("verify")
    assert verified.exit_code == 0
    assert "Checking vit_b (MB) 3/3" in verified.stderr


def test_a_download_is_shown_in_megabytes(capsys):
    with Display() as display:
        display.show(
            FileProgress(
                name="vit_b", doing="Fetching", done=120_400_000, total=375_042_383
            )
        )
    assert capsys.readouterr().err == "Fetching vit_b (MB) 120/375\n"


def test_damaged_weights_are_told(server):
    run("download", "vit_b")
    (weights_folder() / NAME).write_bytes(CONTENT[1:] + b"x")
    assert json.loads(run("list", "--json").stdout)["weights"][1]["state"] == "here"
    for names in ([], ["vit_b"]):
        verified = run("verify", *names)
        assert verified.exit_code == 1
        assert "is not the official file of that name: run medsaga" in verified.stdout
    assert run("verify", "lite_medsam").exit_code == 0
    assert run("verify", "vit_l").exit_code == 1


def test_a_file_is_imported(server, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    imported = run("import", tmp_path / "file", "--json")
    assert imported.exit_code == 0, imported.output
    path = str(weights_folder() / NAME)
    assert json.loads(imported.stdout)["weights"] == {str(tmp_path / "file"): path}
    (tmp_path / "medsam.pth").write_bytes(b"of someone else")
    refused = run("import", tmp_path / "medsam.pth")
    assert refused.exit_code == 2
    assert f"--backbone {tmp_path / 'medsam.pth'}" in refused.stderr


def test_what_cannot_be_downloaded_is_one_sentence(server):
    server.answers += [status(404)]
    refused = run("download", "vit_b", "vit_l")
    assert refused.exit_code == 2
    assert refused.stdout == ""
    (error,) = [line for line in refused.stderr.splitlines() if "Error:" in line]
    assert server.url in error
    assert run("download", "vit_x").exit_code == 2
    assert run("download").exit_code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_ctrl_c_stops_a_download_in_order(server, repository):
    server.answers += [hold(len(CONTENT) // 2)]
    arguments = [server.url, "weights", "download", "vit_b", "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        part = weights_folder() / f".{NAME}.part"
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopping in order" in err
    assert "Traceback" not in err
    assert json.loads(out) == {"stopped": True, "weights": {"vit_b": None}}
    assert not (weights_folder() / NAME).exists()
    server.go_on.set()
    assert run("download", "vit_b").exit_code == 0
    assert server.asked[-1].startswith("bytes=")


def test_a_training_names_the_way_to_get_missing_weights(server, tmp_path):
    import numpy as np

    for name in ("image", "labels"):
        np.save(tmp_path / f"{name}.npy", np.eye(32, dtype=np.uint8)[None])
    paths = [str(tmp_path / f"{name}.npy") for name in ("image", "labels")]
    options = ["--out", str(tmp_path / "model"), "--backbone", "vit_b"]
    result = CliRunner().invoke(app, ["finetune", *paths, *options])
    assert result.exit_code == 2
    assert "run medsaga weights download vit_b" in result.stderr
    assert "Models dock" in result.stderr
    assert server.asked == []

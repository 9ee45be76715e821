"""What the doctor finds out, and what it says of it."""

from __future__ import annotations

import dataclasses
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import pytest
import torch

from medsaga import Stop, drain
from medsaga.doctor import examination
from medsaga.doctor.facts import Facts, Need, Place, Torch
from medsaga.frontend import examine, notes, problems, weight_files, weights_folder
from medsaga.network.backbones.checkpoints import PackagedCheckpoint

GB = 10**9


@pytest.fixture(scope="module")
def found() -> Facts:
    """What is found out here."""
    environment = {"OMP_NUM_THREADS": "2", "KMP_BLOCKTIME": "0", "HOME": "/home/me"}
    return drain(examine(environment=environment))


@pytest.fixture
def healthy() -> Facts:
    """A computer on which all is well."""
    return Facts(
        python="3.11.9",
        system="Linux",
        versions={"napari": "0.9.2", "PySide6": "6.11.3"},
        needs=(Need(name="torch", wanted=">=2.6", found="2.14.1", is_met=True),),
        torch=Torch(cpu="AVX512", cuda="13.0", gpus=(), own_threads=2, threads=2),
        free_memory=8 * GB,
        total_memory=16 * GB,
        weights=tuple(weight_files()),
        places=(
            Place(
                title="Models",
                path=Path("/m"),
                free_bytes=5 * GB,
                is_writable=True,
                variable="MEDSAGA_MODELS",
            ),
        ),
    )


def test_what_is_here_is_found_out(found):
    assert found.unknown == {}
    assert found.versions["torch"] == version("torch")
    assert found.versions["napari-medsaga"] == version("napari-medsaga")
    assert found.torch.cuda == torch.version.cuda
    assert found.torch.threads >= 1
    assert 0 < found.free_memory < found.total_memory
    assert found.variables == {"KMP_BLOCKTIME": "0", "OMP_NUM_THREADS": "2"}
    assert [file.name for file in found.weights] == [f.name for f in weight_files()]
    assert found.weights[0].state == "here"
    assert [place.title for place in found.places][:2] == ["Models", "Weights"]
    assert found.places[1].path == weights_folder()
    assert {need.name for need in found.needs} >= {"torch", "pooch", "nibabel"}
    assert all(need.name != "pytest" for need in found.needs)


def test_a_healthy_computer_has_no_problem(healthy):
    assert problems(healthy) == []
    assert notes(healthy) == []


def fake_version(**versions: str | None):
    def find(name: str) -> str:
        given = versions.get(name, "1.0")
        if given is None:
            raise PackageNotFoundError(name)
        return given

    return find


def test_versions_out_of_bounds_are_named(monkeypatch):
    find = fake_version(torch="2.5.1+cpu", nibabel=None, napari=None, timm="1.0.22")
    needs = {n.name: n for n in examination._needs(find)}
    assert needs["torch"].found == "2.5.1+cpu"
    assert needs["timm"].is_met
    text = " ".join(
        problems(Facts(python="3.12", system="", versions={}, needs=(*needs.values(),)))
    )
    assert 'torch is at 2.5.1+cpu, and torch>=2.6 is needed: run pip install "' in text
    assert "nibabel is not installed, and nibabel>=5.2 is needed" in text
    assert "timm" not in text


@pytest.mark.parametrize(
    ("python", "binding", "is_bad"),
    [
        ("3.11.7", "6.12.0", True),
        ("3.12.1", "6.12.0", False),
        ("3.11.7", "6.12.1", False),
        ("3.11.7", None, False),
    ],
)
def test_the_pair_that_crashes_is_named(healthy, python, binding, is_bad):
    versions = {"napari": "0.9.2", "PySide6": binding, "PyQt6": "6.11"}
    said = problems(dataclasses.replace(healthy, python=python, versions=versions))
    assert len(said) == is_bad
    if is_bad:
        assert 'pip install "PySide6!=6.12.0"' in said[0]
        assert "Python 3.11" in said[0]


def change_torch(facts: Facts, **changes) -> Facts:
    changed = dataclasses.replace(facts.torch, **changes)
    return dataclasses.replace(facts, torch=changed, sees_nvidia=True)


def test_what_is_wrong_with_torch(healthy):
    (said,) = problems(change_torch(healthy, cuda=None))
    assert "a build without CUDA" in said
    (said,) = problems(change_torch(healthy))
    assert "update its driver" in said
    assert problems(change_torch(healthy, gpus=(("H200", 1, 2),))) == []
    broken = {"PyTorch": "OSError: libtorch.so"}
    (said,) = problems(dataclasses.replace(healthy, torch=None, unknown=broken))
    assert "PyTorch cannot be imported (OSError: libtorch.so): run pip" in said


def test_what_is_wrong_with_memory_and_disk(healthy):
    (said,) = problems(dataclasses.replace(healthy, free_memory=GB))
    assert said.startswith("Only 1.0 GB of memory are free")
    (models,) = healthy.places
    full = dataclasses.replace(models, free_bytes=GB // 2)
    other = dataclasses.replace(full, title="Weights", is_writable=False)
    said = problems(dataclasses.replace(healthy, places=(full, other)))
    assert len(said) == 2
    assert "/m cannot be written to (weights are kept there)" in said[0]
    assert "Only 0.5 GB are free at /m" in said[1]


def test_what_is_wrong_with_weights(healthy):
    lite, vit_b, *rest = healthy.weights
    assert problems(dataclasses.replace(healthy, weights=(lite, *rest))) == []
    lost = dataclasses.replace(lite, state="missing", problem="Lost: run pip.")
    cut = dataclasses.replace(vit_b, state="damaged", problem="Cut: fetch it.")
    said = problems(dataclasses.replace(healthy, weights=(lost, cut, *rest)))
    assert said == ["Lost: run pip.", "Cut: fetch it."]


def test_an_engine_without_windows_is_no_problem(healthy):
    for versions, word in (({}, "napari-medsaga[all]"), ({"napari": "1"}, "Qt bind")):
        changed = dataclasses.replace(healthy, versions=versions)
        assert problems(changed) == []
        assert word in notes(changed)[0]


def test_whatever_fails_is_a_row_that_says_so(monkeypatch, tmp_path):
    def fail(*_: object, **__: object):
        raise OSError("it broke")

    for module, name in (
        (psutil, "virtual_memory"),
        (shutil, "disk_usage"),
        (torch, "get_num_threads"),
        (examination, "_sees_nvidia"),
        (examination, "requires"),
    ):
        monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr(PackagedCheckpoint, "is_whole", fail)
    (tmp_path / "file").write_text("")
    facts = drain(examine(find_version=fail, environment={}))
    assert facts.unknown["Memory"] == "OSError: it broke"
    assert {"PyTorch", "NVIDIA", "Requirements", "Places", "torch"} <= {*facts.unknown}
    assert "cannot be read (it broke)" in facts.unknown["Weights of lite_medsam"]
    assert any("cannot be imported" in said for said in problems(facts))
    assert any("cannot be read" in said for said in problems(facts))


def test_a_folder_that_cannot_be_written_to_is_seen(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDSAGA_MODELS", str(tmp_path / "file" / "models"))
    facts = Facts(
        python="",
        system="",
        versions={"napari": "1", "PyQt6": "1"},
        places=tuple(examination._look_at(*p) for p in examination._places()),
    )
    assert [place.is_writable for place in facts.places] == [False, True, True]
    assert any(f"{tmp_path / 'file' / 'models'} cannot" in p for p in problems(facts))


def test_a_stop_ends_the_reading_of_weights():
    stream = examine()
    next(stream)
    with pytest.raises(StopIteration) as ended:
        stream.throw(Stop())
    assert len(ended.value.value.weights) <= 1

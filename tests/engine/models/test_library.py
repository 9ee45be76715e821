from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from math import isnan
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.phantom import slice_of

from medsaga import FineTuneSettings, ModelLibrary, TrainingData, drain, fine_tune
from medsaga.data.volume import Volume
from medsaga.errors import MedsagaError
from medsaga.models import archive
from medsaga.models import folder as saving
from medsaga.models.card import load_card
from medsaga.models.folder import TrainedModel, save_model
from medsaga.models.loading import load_model

CARD, WEIGHTS = "card.json", "weights.safetensors"


@pytest.fixture(scope="session")
def model(phantom) -> TrainedModel:
    """Train on two volumes, which takes a second."""
    image, labels = phantom
    annotated = labels.copy()
    annotated[2:] = 0
    settings = replace(
        FineTuneSettings(),
        backbone="tiny",
        steps=1,
        head_views=2,
        head_steps=5,
        long_side=64,
        rank=8,
        precision="fp32",
    )
    images = [
        Volume(array=image + i, name=name) for i, name in enumerate(("one", "two [2]"))
    ]
    masks = [Volume(array=annotated, name="labels")] * 2
    return drain(fine_tune(TrainingData(images, masks), settings))


@pytest.fixture
def library(tmp_path) -> ModelLibrary:
    return ModelLibrary(tmp_path / "library")


@pytest.fixture
def folder(model, tmp_path) -> Path:
    """Return a model folder outside the library."""
    return save_model(model, tmp_path / "elsewhere" / "CT")


def contents(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def dated(model: TrainedModel, created: str) -> TrainedModel:
    return replace(model, card=replace(model.card, created=created))


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.fixture
def parts(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (CARD, WEIGHTS)}


def test_the_folder_is_the_one_given_the_environment_s_or_the_user_s(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("MEDSAGA_MODELS", str(tmp_path / "mine"))
    assert ModelLibrary().folder == tmp_path / "mine"
    assert ModelLibrary(tmp_path / "given").folder == tmp_path / "given"
    monkeypatch.delenv("MEDSAGA_MODELS")
    assert ModelLibrary().folder.parts[-2:] == ("medsaga", "models")
    assert not (tmp_path / "mine").exists()


def test_listing_loads_no_torch(library, model):
    library.add(model, "CT")
    code = (
        "import sys, medsaga; "
        f"entries = medsaga.ModelLibrary({str(library.folder)!r}).entries(); "
        "assert [e.name for e in entries] == ['CT'] and entries[0].card; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_model_that_is_added_is_listed_and_loads(library, model):
    assert library.entries() == []
    path = library.add(model, "CT")
    (entry,) = library.entries()
    assert (entry.path, entry.name, entry.problem) == (path, "CT", None)
    assert path == library.folder / "CT"
    assert entry.card == load_model(path).card == model.card
    # Beside the model are the slices that trained it.
    assert contents(library.folder) == [
        "CT",
        f"CT/{CARD}",
        "CT/slices.safetensors",
        f"CT/{WEIGHTS}",
    ]


def test_the_entry_tells_images_and_mean_dice(library, model):
    library.add(model, "CT")
    (entry,) = library.entries()
    assert entry.n_images == 2
    dice = model.card.metrics["dice"].values()
    assert entry.mean_dice == pytest.approx(sum(dice) / len(dice))
    # Two patients' files may have one name, and what was held out counts as well.
    ct, other_ct = slice_of("ct", 7), replace(slice_of("ct", 8), image="another")
    card = replace(
        model.card,
        training_slices=(slice_of("scan", 0), ct, replace(ct, index=8), other_ct),
        held_out_slices=(slice_of("other", 0),),
        metrics=model.card.metrics | {"dice": {}},
    )
    entry = replace(entry, card=card)
    assert entry.n_images == 4
    assert isnan(entry.mean_dice)


def test_the_newest_is_first_whatever_the_time_zone(library, model):
    for name, created in {
        "old": "2026-01-01T12:00:00+00:00",
        "new": "2026-01-01T11:00:00-05:00",
        "middle": "2026-01-01T13:00:00",
    }.items():
        library.add(dated(model, created), name)
    assert [e.name for e in library.entries()] == ["new", "middle", "old"]


def test_a_taken_name_gets_a_number_and_nothing_is_replaced(library, model):
    first = library.add(model, "CT")
    before = (first / WEIGHTS).read_bytes()
    (library.folder / "CT 3").write_text("a file that is in the way")
    names = [library.add(dated(model, "2020-01-01"), n).name for n in ("CT", "ct")]
    assert names == ["CT 2", "ct 4"]
    assert (first / WEIGHTS).read_bytes() == before
    assert load_card(first) == model.card


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("liver & spleen", "liver & spleen"),
        ("../../etc/passwd", "-..-etc-passwd"),
        ('a<b>c:d"e\\f|g?h*i', "a-b-c-d-e-f-g-h-i"),
        ("  two\n lines\t ", "two lines"),
        (".hidden", "hidden"),
        ("dots at the end ...", "dots at the end"),
        ("con", "_con"),
        ("NUL .txt", "_NUL .txt"),
        ("COM7", "_COM7"),
        ("console", "console"),
        ("v1.2", "v1.2"),
        ("Mu\u0308ller", "M\u00fcller"),
        ("x\ud800\u202e\x00y", "xy"),
        ("肝" * 100, "肝" * 40),
        ("", "model"),
        ("...", "model"),
    ],
)
def test_names_are_made_safe_for_every_system(library, model, given, expected):
    path = library.add(model, given)
    assert path.parent == library.folder
    assert path.name == expected
    assert [e.name for e in library.entries()] == [expected]


def test_a_failed_save_is_told_and_leaves_nothing(library, model, monkeypatch):
    from safetensors import SafetensorError

    for error in (OSError(28, "No space left on device"), SafetensorError("no space")):

        def full_disk(weights, path, error=error):
            path.write_bytes(b"half a fi")
            raise error

        monkeypatch.setattr(saving, "save_file", full_disk)
        with pytest.raises(MedsagaError, match=r"(?i)no space.*can be written") as told:
            library.add(model, "CT")
        assert ".medsaga-" not in str(told.value)
        assert contents(library.folder) == []


def test_a_model_is_renamed(library, model):
    path = library.rename(library.add(model, "CT"), " liver: new ")
    assert path == library.folder / "liver- new"
    assert [e.name for e in library.entries()] == ["liver- new"]
    assert load_model(path).card == model.card
    assert library.rename(path, path.name) == path
    assert library.rename(path, "LIVER- new").name == "LIVER- new"


def test_names_that_are_taken_or_empty_are_refused(library, model):
    path, _ = library.add(model, "CT"), library.add(model, "MR")
    for name, expected in {
        "MR": "choose another name",
        "mr": "choose another name",
        " .": "at least one letter",
    }.items():
        with pytest.raises(MedsagaError, match=expected):
            library.rename(path, name)
    assert {e.name for e in library.entries()} == {"CT", "MR"}


def test_only_models_directly_in_the_library_are_touched(library, model, folder):
    library.add(model, "CT")
    (library.folder / "photos").mkdir()
    (library.folder / "photos" / "me.png").write_bytes(b"")
    shutil.copytree(folder, library.folder / "photos" / "CT")
    shutil.copytree(folder, library.folder / ".hidden")
    before = contents(library.folder.parent)
    for path in (
        folder,
        library.folder,
        library.folder.parent,
        library.folder / "photos",
        library.folder / "photos" / "CT",
        library.folder / ".hidden",
        library.folder / "CT" / "..",
        library.folder / "CT" / ".." / ".." / "elsewhere" / "CT",
        library.folder / "missing",
    ):
        for act in (
            library.delete,
            lambda p: library.rename(p, "other"),
            lambda p: library.export(p, library.folder / "x.zip"),
        ):
            with pytest.raises(MedsagaError, match="no model of the library"):
                act(path)
    assert contents(library.folder.parent) == before


def test_a_model_is_deleted_whole(library, model):
    path, other = library.add(model, "CT"), library.add(model, "MR")
    (path / "notes.txt").write_text("mine")
    library.delete(path)
    assert [e.path for e in library.entries()] == [other]
    assert [p.name for p in library.folder.iterdir()] == ["MR"]


def test_a_model_that_cannot_be_deleted_stays(library, model, monkeypatch):
    path = library.add(model, "CT")
    rmtree = shutil.rmtree

    def refuse(folder, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError(13, "Permission denied")
        rmtree(folder, ignore_errors=True)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(MedsagaError, match="could not be deleted"):
        library.delete(path)
    assert load_model(path).card == model.card
    assert [p.name for p in library.folder.iterdir()] == ["CT"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_is_never_followed_by_delete(library, folder):
    library.folder.mkdir()
    (library.folder / "link").symlink_to(folder)
    assert [e.name for e in library.entries()] == ["link"]
    with pytest.raises(MedsagaError, match="link"):
        library.delete(library.folder / "link")
    assert (folder / WEIGHTS).exists()


def test_models_with_an_unreadable_card_are_listed_last_with_the_reason(
    library, model, parts
):
    library.add(dated(model, "1999-01-01"), "good")
    card = json.loads(parts[CARD])
    damaged = {
        "created": {"created": "yesterday"},
        "dice": {"metrics": {"dice": {"1": "good"}}},
        "no dice": {"metrics": {}},
        "slices": {"training_slices": [1, 2]},
        "index": {"training_slices": [["image", 1.5]]},
        "image": {"training_slices": [{"image": 3}]},
        "year": {"created": "0001-01-01T00:00:00+14:00"},
        "names": {"classes": card["classes"] | {"names": [1, 2, 3, 4]}},
        "newer": {"format_version": 99},
    }
    for name, change in damaged.items():
        (library.folder / name).mkdir()
        (library.folder / name / CARD).write_text(json.dumps(card | change))
    (library.folder / "garbage").mkdir()
    (library.folder / "garbage" / CARD).write_bytes(b"\xff\x00")
    entries = library.entries()
    assert entries[0].name == "good"
    assert {e.name for e in entries[1:]} == {*damaged, "garbage"}
    for entry in entries[1:]:
        assert entry.card is None
        assert entry.problem.endswith(".")
        assert entry.created is None
        assert entry.n_images == 0
        assert isnan(entry.mean_dice)
        library.rename(entry.path, f"{entry.name} again")
    for entry in library.entries()[1:]:
        library.delete(entry.path)
    assert [e.name for e in library.entries()] == ["good"]


def test_what_is_no_model_is_not_listed(library, model):
    library.add(model, "CT")
    (library.folder / "empty").mkdir()
    (library.folder / "notes.txt").write_text("")
    shutil.copytree(library.folder / "CT", library.folder / ".hidden")
    assert [e.name for e in library.entries()] == ["CT"]


def test_an_exported_model_is_imported_elsewhere(library, model, tmp_path):
    path = library.add(model, "Müller 1")
    (path / "notes.txt").write_text("private")
    os.utime(path / CARD, (0, 0))  # 1970, before a zip file's calendar begins
    target = library.export(path, tmp_path / "out.zip")
    with zipfile.ZipFile(target) as file:
        assert sorted(file.namelist()) == [f"Müller 1/{n}" for n in (CARD, WEIGHTS)]
    other = ModelLibrary(tmp_path / "other")
    imported = other.import_model(target)
    assert imported == other.folder / "out"
    assert other.import_model(target).name == "out 2"
    found, expected = load_model(imported), load_model(path)
    assert found.card == model.card
    for name, tensor in expected.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], tensor)
    assert sorted(p.name for p in other.folder.iterdir()) == ["out", "out 2"]


def test_export_replaces_a_file_whole_or_not_at_all(
    library, model, tmp_path, monkeypatch
):
    path = library.add(model, "CT")
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "CT.zip"
    target.write_bytes(b"old")

    def full_disk(folder, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("medsaga.models.library.pack", full_disk)
        with pytest.raises(MedsagaError, match=r"No space left.*choose another place"):
            library.export(path, target)
    assert target.read_bytes() == b"old"
    assert contents(target.parent) == ["CT.zip"]
    library.export(path, target)
    assert zipfile.is_zipfile(target)
    for wrong in (tmp_path / "missing" / "CT.zip", tmp_path / "out"):
        with pytest.raises(MedsagaError, match="choose another place"):
            library.export(path, wrong)
    assert contents(target.parent) == ["CT.zip"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes there")
def test_what_is_written_gets_ordinary_rights(library, model, folder, tmp_path):
    target = library.export(library.add(model, "CT"), tmp_path / "CT.zip")
    imported = library.import_model(folder)
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    mode = stat.S_IMODE(plain.stat().st_mode)
    written = (target, imported / CARD, imported / WEIGHTS)
    assert [stat.S_IMODE(p.stat().st_mode) for p in written] == [mode] * 3


def test_damaged_models_are_not_exported(library, model, tmp_path):
    path = library.add(model, "CT")
    (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(MedsagaError, match="weights of CT are missing or damaged"):
        library.export(path, tmp_path / "CT.zip")
    assert not (tmp_path / "CT.zip").exists()


def test_a_folder_is_imported_without_its_other_files(library, model, folder):
    (folder / "virus.exe").write_bytes(b"")
    path = library.import_model(folder)
    assert contents(library.folder) == ["CT", f"CT/{CARD}", f"CT/{WEIGHTS}"]
    assert load_model(path).card == model.card
    assert library.import_model(path).name == "CT 2"


def test_no_name_in_a_zip_file_becomes_a_path(library, parts, tmp_path):
    hostile = make_zip(
        tmp_path / "model.zip",
        {
            f"../../../{CARD}": parts[CARD],
            f"C:\\Windows\\{WEIGHTS}": parts[WEIGHTS],
            "../../evil.py": b"",
            "__MACOSX/._card.json": b"",
        },
    )
    before = contents(tmp_path)
    path = library.import_model(hostile)
    made = set(contents(tmp_path)) - set(before)
    assert path.name == "model"
    assert {p for p in made if not p.startswith("library")} == set()
    assert contents(library.folder) == ["model", f"model/{CARD}", f"model/{WEIGHTS}"]


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_what_is_not_exactly_one_model_is_refused_and_leaves_nothing(
    library, parts, folder, tmp_path
):
    card, weights = parts[CARD], parts[WEIGHTS]
    header_only = weights[: 8 + int.from_bytes(weights[:8], "little")]
    sources = {
        "holds no card.json": {WEIGHTS: weights},
        "holds no weights.safetensors": {f"a/{CARD}": card},
        "several models": {f"a/{CARD}": card, f"b/{CARD}": card, WEIGHTS: weights},
        "is a link": {CARD: card, link(WEIGHTS): b"/etc/passwd"},
        "is a link,": {f"{CARD}/": b"", WEIGHTS: weights},
        "too large": {CARD: card + b" " * 2**24, WEIGHTS: weights},
        "no model card": {CARD: b"{}", WEIGHTS: weights},
        "card of wrong.zip is damaged": {
            CARD: card.replace(b'"index": 1,', b'"index": 1.5,'),
            WEIGHTS: weights,
        },
        "weights of wrong.zip are missing or damaged": {
            CARD: card,
            WEIGHTS: header_only,
        },
    }
    for expected, members in sources.items():
        with pytest.raises(MedsagaError, match=expected) as told:
            library.import_model(make_zip(tmp_path / "wrong.zip", members))
        assert str(told.value).endswith(".")
        assert contents(library.folder) == []
    (folder / WEIGHTS).unlink()
    for expected, source in {
        r"holds no weights\.safetensors": folder,
        "holds no card": tmp_path,
        "does not exist": tmp_path / "missing.zip",
    }.items():
        with pytest.raises(MedsagaError, match=expected):
            library.import_model(source)
    assert contents(library.folder) == []


def test_damaged_zip_files_are_refused_and_leave_nothing(library, parts, tmp_path):
    whole = make_zip(tmp_path / "CT.zip", parts).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    lying = bytearray(whole)
    at = whole.rindex(b"PK\x01\x02")  # the last member's entry in the directory
    lying[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    for content in (whole[: len(whole) // 2], b"", b"text", flipped, lying):
        (tmp_path / "CT.zip").write_bytes(content)
        with pytest.raises(MedsagaError, match="damaged"):
            library.import_model(tmp_path / "CT.zip")
        assert contents(library.folder) == []


def test_encrypted_members_are_refused(library, parts, tmp_path):
    path = make_zip(tmp_path / "CT.zip", parts)
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(MedsagaError, match="encrypted"):
        library.import_model(path)


def test_a_model_larger_than_the_free_disk_is_refused(library, folder, monkeypatch):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(MedsagaError, match="make room"):
        library.import_model(folder)
    assert contents(library.folder) == []


def test_a_library_that_cannot_be_written_to_is_told(tmp_path, model, folder):
    (tmp_path / "file").write_text("in the way")
    library = ModelLibrary(tmp_path / "file")
    for act in (lambda: library.add(model, "CT"), lambda: library.import_model(folder)):
        with pytest.raises(MedsagaError, match="check that"):
            act()
    with pytest.raises(MedsagaError, match="cannot be listed"):
        library.entries()


def test_both_modules_mean_the_same_file() -> None:
    assert archive.WEIGHTS == saving.WEIGHTS

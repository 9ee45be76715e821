"""Archives and folders from elsewhere: imported whole, or refused in one sentence."""

from __future__ import annotations

import json
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cards import make_model

from medsaga import MedsagaError, ModelLibrary, load_model, save_model

CARD, WEIGHTS = "card.json", "weights.safetensors"
HEAD = "detail_head.reduce.0.weight"
TOKENS = "decoder.mask_tokens.weight"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(make_model(), tmp_path_factory.mktemp("model") / "CT")


@pytest.fixture
def library(tmp_path: Path) -> ModelLibrary:
    return ModelLibrary(tmp_path / "library")


def refused(library: ModelLibrary, source: Path) -> str:
    """The sentence with which an import is refused, which leaves nothing behind."""
    with pytest.raises(MedsagaError) as told:
        library.import_model(source)
    assert list(library.folder.iterdir()) == []
    sentence = str(told.value)
    assert sentence.endswith(".")
    assert sentence.isprintable()
    assert ".medsaga-" not in sentence
    return sentence


def edited(
    folder: Path, target: Path, edit: Callable[[dict[str, Any]], object]
) -> Path:
    """Copy a model folder with other weights."""
    shutil.copytree(folder, target)
    weights = load_file(target / WEIGHTS)
    edit(weights)
    save_file(weights, target / WEIGHTS)
    return target


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda w: w.pop(HEAD), rf"do not belong to its card \({HEAD} is missing\)"),
        (lambda w: w.update(x=torch.ones(1)), r"\(x is none of its network's\)"),
        (
            lambda w: w.update({TOKENS: torch.ones(5, 256)}),
            r"mask_tokens\.weight is \(5, 256\), not \(2, 256\)",
        ),
        (lambda w: w.update({HEAD: w[HEAD].long()}), "is of the type torch.int64"),
        (
            lambda w: w.update({HEAD: w[HEAD] * float("nan")}),
            f"not finite .* in {HEAD}",
        ),
        (
            lambda w: w.update({HEAD: torch.full_like(w[HEAD].double(), 1e300)}),
            f"not finite .* in {HEAD}",
        ),
        (lambda w: w.update({HEAD: torch.tensor(1.0)}), r"is \(\), not "),
        (
            lambda w: w.update({HEAD: w[HEAD].to(torch.float8_e4m3fn)}),
            "missing or damaged",
        ),
        (lambda w: w.clear(), "is missing"),
    ],
)
def test_weights_are_those_of_the_card(folder, library, edit, said, tmp_path):
    source = edited(folder, tmp_path / "MR", edit)
    sentence = refused(library, source)
    assert re.search(said, sentence)
    assert sentence.startswith("The weights ")
    assert "MR" in sentence
    with pytest.raises(MedsagaError, match="weights"):
        load_model(source)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"detail_head": False}, "is none of its network's"),
        ({"backbone": "lite_medsam"}, "do not belong to its card"),
        (
            {"classes": {"values": [0], "names": ["b"], "colours": [None]}},
            r"is \(2, 256\), not \(1, 256\)",
        ),
        ({"canvas": {"long_side": 64, "multiple": 7}}, "canvas.multiple is 7"),
        ({"axis": 5}, r"The card of MR is damaged \(axis is 5"),
    ],
)
def test_the_card_is_that_of_the_weights(folder, library, changes, said, tmp_path):
    source = shutil.copytree(folder, tmp_path / "MR")
    card = json.loads((source / CARD).read_text())
    (source / CARD).write_text(json.dumps(card | changes))
    assert re.search(said, refused(library, source))
    with pytest.raises(MedsagaError, match=said):
        load_model(source)


def pack(path: Path, members: dict[str, bytes], packing: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", packing) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.fixture
def parts(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (CARD, WEIGHTS)}


def test_archives_that_are_made_to_harm_are_refused(library, parts, tmp_path):
    card, weights, path = parts[CARD], parts[WEIGHTS], tmp_path / "MR.zip"
    packed = zipfile.ZIP_DEFLATED
    large = card + b" " * 2**28  # a quarter of a megabyte when packed
    assert "too large" in refused(
        library, pack(path, {CARD: large, WEIGHTS: weights}, packed)
    )
    two = {f"a/{n}": c for n, c in parts.items()} | {
        f"b/{n}": c for n, c in parts.items()
    }
    assert "several models" in refused(library, pack(path, two))
    inner = pack(tmp_path / "inner.zip", parts).read_bytes()
    assert "holds no card.json" in refused(library, pack(path, {"MR/MR.zip": inner}))
    half = pack(path, parts).read_bytes()[:-100]
    path.write_bytes(half)
    assert "damaged" in refused(library, path)


def test_an_archive_of_very_many_members_is_refused_at_once(library, parts, tmp_path):
    many = dict.fromkeys((f"f{i}" for i in range(70_000)), b"")
    path = pack(tmp_path / "MR.zip", many | parts)
    assert "holds too many files" in refused(library, path)


def test_sizes_that_lie_are_found_out(library, parts, tmp_path):
    path = pack(tmp_path / "MR.zip", parts, zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()
    at = whole.rindex(b"PK\x01\x02")  # the entry of the weights
    n = len(parts[WEIGHTS])
    for claimed in (0, 1, n - 1, n + 1, 2**31, 2**32 - 1):
        lying = bytearray(whole)
        lying[at + 24 : at + 28] = struct.pack("<I", claimed)
        path.write_bytes(lying)
        if claimed < n:
            assert "damaged" in refused(library, path)
            continue
        try:  # what there is, is whole
            load_model(library.import_model(path))
        except MedsagaError as error:
            assert "make room" in str(error)  # noqa: PT017 - depends on the disk
        shutil.rmtree(library.folder)


def test_names_with_nothing_or_much_in_them_do_no_harm(library, parts, tmp_path):
    odd = {"a\0b": b"", "\x1b[31m": b"", "x" * 60_000: b"", "..": b"", "/": b""}
    path = library.import_model(pack(tmp_path / "MR.zip", odd | parts))
    assert sorted(p.name for p in path.iterdir()) == [CARD, WEIGHTS]
    named = {f"MR/{CARD}\0.txt": parts[CARD], f"MR/{WEIGHTS}": parts[WEIGHTS]}
    again = library.import_model(pack(tmp_path / "MR 2.zip", named))
    assert load_model(again).card == load_model(path).card

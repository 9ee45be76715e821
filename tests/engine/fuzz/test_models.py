"""Cards, archives and weights that anything has happened to."""

from __future__ import annotations

import copy
import io
import json
import math
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from tests.cards import make_card, make_model
from tests.engine.fuzz.mutations import edits, given_or_refused, mutate

from medsaga import ModelCard, ModelLibrary, load_model, save_model
from medsaga.models.card import FORMAT_VERSION
from medsaga.network.backbones.pretrained import load_pretrained
from medsaga.network.backbones.sam_format import read_checkpoint

CARD = make_card().to_json()
ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from((10**9, 2**63, 10**400)),
        st.floats(),
        st.text(max_size=20),
        st.just("x" * 20_000),
        st.sampled_from(("tiny", "window", "2026-01-01", "cpu", "#ffffff")),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner)
    ),
    max_leaves=8,
)


def check_card(content: bytes | str) -> None:
    card = given_or_refused(partial(ModelCard.from_json, content))
    if card is not None:
        again = ModelCard.from_json(card.to_json())
        assert card.format_version < FORMAT_VERSION or again == card
        assert math.isfinite(card.intensity.low)
        assert card.created_at.astimezone()


@given(wanted=edits())
def test_cards_with_other_bytes(wanted):
    check_card(mutate(CARD.encode(), wanted))


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A card with other values in some places."""
    card = json.loads(CARD)
    for _ in range(draw(st.integers(1, 3))):
        parent: Any = card
        key = draw(st.sampled_from(sorted(parent)))
        while isinstance(parent[key], (dict, list)) and parent[key]:
            if draw(st.integers(0, 3)) == 0:
                break
            parent = parent[key]
            keys = sorted(parent) if isinstance(parent, dict) else range(len(parent))
            key = draw(st.sampled_from(list(keys)))
        if isinstance(parent, dict) and draw(st.integers(0, 4)) == 0:
            del parent[key]
        else:
            parent[key] = copy.deepcopy(draw(ANYTHING))
        if not card:
            break
    return json.dumps(card)


@given(content=documents())
def test_cards_with_other_values(content):
    check_card(content)


@given(content=ANYTHING)
def test_what_is_no_card_at_all(content):
    check_card(json.dumps(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(make_model(), tmp_path_factory.mktemp("fuzz") / "CT")


@pytest.fixture(scope="module")
def archive(folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        # The long file first: most edits are near the beginning or the end.
        target.writestr("CT/card.json", (folder / "card.json").read_bytes())
        target.writestr(
            "CT/weights.safetensors", (folder / "weights.safetensors").read_bytes()
        )
    return file.getvalue()


@st.composite
def zip_edits(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Edits, half of which count from the end, where a zip file's list is."""
    wanted = draw(edits())
    from_end = draw(st.booleans())
    return [(k, -p % 400 - 400 if from_end else p, *r) for k, p, *r in wanted]


@given(wanted=zip_edits())
def test_edited_archives(wanted, archive, tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    (base / "CT.zip").write_bytes(mutate(archive, wanted))
    library = ModelLibrary(base / "library")
    path = given_or_refused(partial(library.import_model, base / "CT.zip"))
    if path is not None:
        assert load_model(path).card == make_card()
        library.delete(path)
    assert list(library.folder.iterdir()) == []


@given(wanted=edits())
def test_models_with_edited_weights(wanted, folder, tmp_path_factory):
    target = tmp_path_factory.getbasetemp() / "edited"
    target.mkdir(exist_ok=True)
    (target / "card.json").write_text(CARD)
    content = (folder / "weights.safetensors").read_bytes()
    (target / "weights.safetensors").write_bytes(mutate(content, wanted))
    model = given_or_refused(partial(load_model, target))
    if model is not None:
        assert all(p.isfinite().all() for p in model.network.parameters())


NAMES = ("image_encoder.patch_embed.seq.0.c.weight", "mask_decoder.a", "x")
STATE = {name: torch.ones(4, 3, 1, 1) for name in NAMES}


def torch_file(*, legacy: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"model": STATE}, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


WEIGHTS = {
    "zip": torch_file(legacy=False),
    "legacy": torch_file(legacy=True),
    "safetensors": save(STATE),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", WEIGHTS)
@given(wanted=edits())
def test_edited_files_of_weights(name, wanted, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "w.pth"
    path.write_bytes(mutate(WEIGHTS[name], wanted))
    state = given_or_refused(partial(read_checkpoint, path))
    if state is not None:
        assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
        # Of the three tensors no network is made.
        assert given_or_refused(partial(load_pretrained, str(path))) is None

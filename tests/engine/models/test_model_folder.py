from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from medsaga import TrainingData, drain, fine_tune, load_card
from medsaga.data.classes import ClassTable
from medsaga.errors import MedsagaError
from medsaga.models import folder as module
from medsaga.models.folder import save_model
from medsaga.models.loading import load_model
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa


@pytest.fixture
def model(image, labels, quick):
    return drain(
        fine_tune(TrainingData(image, labels), replace(quick, steps=1, head_steps=5))
    )


def test_a_model_comes_back_whole(model, tmp_path):
    folder = save_model(model, tmp_path / "model")
    again = load_model(folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "card.json",
        "weights.safetensors",
    ]
    assert again.card == model.card
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = model.network.cpu()(images), again.network(images)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)
    ours, theirs = model.network.state_dict(), again.network.state_dict()
    assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("detail_head", [True, False])
def test_a_model_of_the_first_format_says_the_same(model, tmp_path, detail_head):
    backbone, n_classes = build_backbone("lite_medsam"), len(model.card.classes)
    network = MedSAGa(backbone, n_classes, detail_head=detail_head)
    weights = network.state_dict()
    if detail_head:  # it looked at six of the nine levels
        for index in (1, 3, 5):
            weights[f"detail_head.reduce.{index}.weight"].zero_()
        seen = [weights.pop(f"detail_head.reduce.{i}.weight") for i in range(9)]
        for index, level in enumerate(seen[i] for i in (0, 2, 4, 6, 7, 8)):
            weights[f"detail_head.reduce.{index}.weight"] = level
    card = replace(
        model.card,
        format_version=1,
        backbone="lite_medsam",
        detail_head=detail_head,
    )
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "card.json").write_text(card.to_json())
    save_file(
        {n: t.contiguous() for n, t in weights.items()}, folder / "weights.safetensors"
    )
    read = load_model(folder)
    read_again = load_model(save_model(read, tmp_path / "again"))
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = network.eval()(images)
        for found in (read, read_again):
            torch.testing.assert_close(
                found.network(images), expected, atol=0.01, rtol=0.01
            )


def test_values_that_fp16_cannot_hold_stay_as_they_are(model, tmp_path):
    with torch.no_grad():
        model.network.decoder.no_mask_embed.weight[0, 0] = 1e6
    again = load_model(save_model(model, tmp_path / "model"))
    assert again.network.decoder.no_mask_embed.weight[0, 0] == 1e6


def test_a_moved_folder_still_loads(model, tmp_path):
    folder = save_model(model, tmp_path / "model")
    moved = folder.rename(tmp_path / "elsewhere")
    assert load_model(moved).card == model.card


def test_a_failed_write_leaves_the_old_model_and_nothing_else(
    model, tmp_path, monkeypatch
):
    folder = save_model(model, tmp_path / "model")
    before = (folder / "weights.safetensors").read_bytes()

    def full_disk(weights, path):
        path.write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full_disk)
    with pytest.raises(MedsagaError, match="No space left"):
        save_model(model, folder)
    assert (folder / "weights.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_model_is_replaced_in_one_go(model, tmp_path):
    folder = save_model(model, tmp_path / "model")
    renamed = replace(model, card=replace(model.card, base_weights="other"))
    save_model(renamed, folder)
    assert load_model(folder).card.base_weights == "other"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_is_no_model_is_never_overwritten(model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    for name in ("photos", "file"):
        with pytest.raises(MedsagaError, match="choose another name"):
            save_model(model, tmp_path / name)
    assert (tmp_path / "photos" / "me.png").exists()


def test_damaged_models_are_refused_in_one_sentence(model, tmp_path):
    folder = save_model(model, tmp_path / "model")
    card = json.loads((folder / "card.json").read_text())
    weights = (folder / "weights.safetensors").read_bytes()
    damage = {
        "created is missing": json.dumps({"format_version": 1}),
        "no model card ": "[]",
        "no model card  ": "not json",
        "update napari-medsaga": json.dumps(card | {"format_version": 99}),
    }
    for expected, text in damage.items():
        (folder / "card.json").write_text(text)
        with pytest.raises(MedsagaError, match=expected.strip()):
            load_model(folder)
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(MedsagaError, match="damaged"):
        load_model(folder)
    with pytest.raises(MedsagaError, match="no model folder"):
        load_model(tmp_path)


def test_nothing_beside_a_model_is_lost_with_it(model, tmp_path):
    folder = save_model(model, tmp_path / "model")
    (folder / ".DS_Store").touch()
    save_model(model, folder)
    (folder / "masks").mkdir()
    (folder / "masks" / "ct.nii.gz").touch()
    with pytest.raises(MedsagaError, match="holds masks beside the model"):
        save_model(model, folder)
    assert (folder / "masks" / "ct.nii.gz").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_their_name(model, bad, tmp_path):
    folder = save_model(model, tmp_path / "model")
    weights = load_file(folder / "weights.safetensors")
    name = next(n for n, t in weights.items() if t.is_floating_point() and t.ndim > 1)
    weights[name].view(-1)[0] = bad
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(MedsagaError, match=f"not finite.* in {re.escape(name)}:"):
        load_model(folder)


@pytest.mark.parametrize(
    "table",
    [
        ClassTable(values=(0, 1), names=("bg", "d\udce9j\udce0"), colours=(None, None)),
        ClassTable(values=(0, -(2**63)), names=("bg", "low"), colours=(None, None)),
    ],
)
def test_a_card_of_odd_names_and_values_is_read_again(model, tmp_path, table):
    """Names of files need not be Unicode; the model was saved, and never read again."""
    odd = replace(model, card=replace(model.card, classes=table))
    folder = save_model(odd, tmp_path / "model")
    assert load_card(folder).classes.values == table.values


def test_what_is_not_finite_is_not_saved(model, tmp_path):
    with torch.no_grad():
        next(model.network.parameters()).fill_(float("nan"))
    with pytest.raises(MedsagaError, match="not finite, in backbone"):
        save_model(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()

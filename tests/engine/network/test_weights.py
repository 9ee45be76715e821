from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medsaga.errors import MedsagaError
from medsaga.network.backbones.catalogue import kind_of_weights
from medsaga.network.backbones.sam_format import (
    load_matching,
    read_checkpoint,
)
from medsaga.network.backbones.vit import ViTBackbone
from medsaga.network.backbones.vit_size import ViTSize


def _small(seed: int = 0, image_size: int = 64) -> ViTBackbone:
    torch.manual_seed(seed)
    backbone = ViTBackbone(
        "small",
        ViTSize(
            width=32,
            depth=2,
            heads=2,
            global_blocks=(1,),
            window=3,
            image_size=image_size,
        ),
    )
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone


def _sam_format(backbone: ViTBackbone) -> dict[str, torch.Tensor]:
    state = {f"image_encoder.{n}": t for n, t in backbone.encoder.state_dict().items()}
    return state | {"mask_decoder.iou_token.weight": torch.randn(1, 256)}


def _encoder_part(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "image_encoder."
    return {n[len(prefix) :]: t for n, t in state.items() if n.startswith(prefix)}


class _CreatesFile:
    """What a malicious checkpoint would hold: unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("wrapping", [None, "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_round_trips(tmp_path, wrapping, prefix):
    source, target = _small(0), _small(1)
    state = {prefix + n: t for n, t in _sam_format(source).items()}
    content = {wrapping: state, "epoch": 3} if wrapping else state
    torch.save(content, tmp_path / "sam.pth")

    read = read_checkpoint(tmp_path / "sam.pth")
    assert read.keys() == _sam_format(source).keys()
    report = load_matching(target.encoder, _encoder_part(read))

    assert set(report.loaded) == set(source.encoder.state_dict())
    assert report.missing == report.unused == report.mismatched == report.resized == ()
    n = len(report.loaded)
    assert report.describe() == f"Loaded {n} of the model's {n} tensors."
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(target(images)[-1], source(images)[-1])


def test_safetensors_are_read(tmp_path):
    state = _sam_format(_small())
    save_file(state, tmp_path / "sam.safetensors")
    read = read_checkpoint(tmp_path / "sam.safetensors")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_of_a_checkpoint_is_run(tmp_path, legacy):
    evidence = tmp_path / "evidence"
    content = _sam_format(_small()) | {"extra": _CreatesFile(evidence)}
    path = tmp_path / "evil.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(MedsagaError, match=r"evil\.pth cannot be read as weights"):
        read_checkpoint(path)
    assert not evidence.exists()
    # The file is as malicious as it claims to be:
    torch.load(path, weights_only=False)
    assert evidence.exists()


def test_no_code_of_a_plain_pickle_is_run(tmp_path):
    evidence = tmp_path / "evidence"
    payload = pickle.dumps(_CreatesFile(evidence))
    (tmp_path / "evil.pth").write_bytes(payload)
    with pytest.raises(MedsagaError):
        read_checkpoint(tmp_path / "evil.pth")
    assert not evidence.exists()
    pickle.loads(payload)
    assert evidence.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("text.pth", b"These are not the weights you are looking for.\n" * 50),
        ("noise.pth", bytes(range(256)) * 20),
        ("zip.pth", b"PK\x03\x04" + bytes(200)),
        ("text.safetensors", b"no weights"),
    ],
)
def test_what_is_no_checkpoint_gets_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MedsagaError, match=r"cannot be read as weights.* pass a file"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        {"conv.weight": torch.zeros(3, 3)},
        {"model": {"backbone.weight": torch.zeros(2)}},
        {"image_encoder.note": "text"},
        [torch.zeros(2)],
        torch.zeros(2),
        {},
    ],
)
def test_weights_of_another_kind_get_one_sentence(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(MedsagaError, match="has no SAM image encoder in it: pass"):
        read_checkpoint(tmp_path / "other.pth")


def test_truncated_and_missing_files_get_one_sentence(tmp_path):
    torch.save(_sam_format(_small()), tmp_path / "sam.pth")
    whole = (tmp_path / "sam.pth").read_bytes()
    (tmp_path / "sam.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MedsagaError, match="cannot be read"):
        read_checkpoint(tmp_path / "sam.pth")
    with pytest.raises(MedsagaError, match="There is no file"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(MedsagaError, match="There is no file"):
        read_checkpoint(tmp_path)


def test_what_does_not_fit_is_reported_and_left_alone():
    source, target = _small(0), _small(1)
    state = source.encoder.state_dict()
    state["blocks.0.mlp.lin1.weight"] = torch.zeros(7, 32)
    state["blocks.0.attn.rel_pos_h"] = torch.zeros(5, 8)
    state["blocks.7.extra"] = torch.zeros(1)
    del state["neck.0.weight"]
    before = {n: t.clone() for n, t in target.encoder.state_dict().items()}

    report = load_matching(target.encoder, state)

    assert report.missing == ("neck.0.weight",)
    assert report.unused == ("blocks.7.extra",)
    assert set(report.mismatched) == {
        ("blocks.0.mlp.lin1.weight", (7, 32), (128, 32)),
        ("blocks.0.attn.rel_pos_h", (5, 8), (5, 16)),
    }
    kept = {"neck.0.weight", *(mismatch.name for mismatch in report.mismatched)}
    assert set(report.loaded) == set(before) - kept
    for name, tensor in target.encoder.state_dict().items():
        expected = before[name] if name in kept else source.encoder.state_dict()[name]
        assert torch.equal(tensor, expected), name
    text = report.describe()
    assert f"Loaded {len(before) - 3} of the model's {len(before)} tensors" in text
    for part in ("neck.0.weight", "blocks.7.extra", "lin1.weight (7, 32) instead of"):
        assert part in text
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.missing = ()


def test_describe_names_a_few_of_many():
    report = load_matching(_small().encoder, {})
    text = report.describe()
    assert report.loaded == ()
    assert "Loaded 0 of" in text
    assert f"and {len(report.missing) - 3} more." in text


def test_position_tables_of_another_size_are_interpolated():
    source, target = _small(0, image_size=64), _small(1, image_size=128)
    with torch.no_grad():  # smooth tables, whose values at other sizes are known
        ramp = torch.linspace(-1, 1, 7)[:, None]
        source.encoder.blocks[1].attn.rel_pos_h.copy_(ramp.expand(7, 16))
        source.encoder.pos_embed.copy_(
            torch.linspace(-1, 1, 4).view(1, 4, 1, 1).expand(1, 4, 4, 32)
        )
    report = load_matching(target.encoder, source.encoder.state_dict())
    assert set(report.resized) == {
        "pos_embed",
        "blocks.1.attn.rel_pos_h",
        "blocks.1.attn.rel_pos_w",
    }
    assert set(report.resized) <= set(report.loaded)
    assert report.mismatched == report.missing == ()
    assert "3 of them interpolated to fit" in report.describe()
    table = target.encoder.blocks[1].attn.rel_pos_h
    assert table.shape == (15, 16)
    expected = torch.linspace(-1, 1, 15)[:, None].expand(15, 16)
    torch.testing.assert_close(table.detach(), expected, rtol=0, atol=0.12)
    positions = target.encoder.pos_embed.detach()
    assert positions.shape == (1, 8, 8, 32)
    assert (positions.diff(dim=1) > 0).all()
    torch.testing.assert_close(positions, positions[:, :, :1].expand_as(positions))


def test_half_precision_weights_are_loaded_as_the_model_is():
    source, target = _small(0), _small(1)
    state = {n: t.half() for n, t in source.encoder.state_dict().items()}
    load_matching(target.encoder, state)
    weight = target.encoder.neck[0].weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, source.encoder.neck[0].weight.half().float())


@pytest.mark.parametrize(
    ("width", "depth", "name"),
    [(768, 12, "vit_b"), (1024, 24, "vit_l"), (1280, 32, "vit_h")],
)
def test_architecture_of_sams_own_models(width, depth, name):
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        state = sam_model_registry[name]().state_dict()
    assert state["image_encoder.pos_embed"].shape[-1] == width
    assert kind_of_weights(state).name == name
    short = {n: t for n, t in state.items() if f"blocks.{depth - 1}." not in n}
    with pytest.raises(MedsagaError, match="image encoder that is not known"):
        kind_of_weights(short)


def test_architectures_that_are_not_known():
    mobile = {"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(32, 3, 3, 3)}
    for state in (mobile, _sam_format(_small()), {}):
        with pytest.raises(MedsagaError, match="pass a file of LiteMedSAM"):
            kind_of_weights(state)

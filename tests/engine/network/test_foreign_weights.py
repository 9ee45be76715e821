"""Files given as weights that are others', made by mistake, or to do harm."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from medsaga.cli import app
from medsaga.errors import MedsagaError
from medsaga.network.backbones.catalogue import find_checkpoint
from medsaga.network.backbones.pretrained import load_pretrained
from medsaga.network.backbones.sam_format import read_checkpoint
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training.origin import load_backbone

# torch warns of what is deprecated, and of what these files are made of.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

NAME = "image_encoder.patch_embed.seq.0.c.weight"
DECODER = "mask_decoder.transformer.layers.0.self_attn.q_proj.weight"
PLAIN = {NAME: torch.ones(4, 3, 1, 1), DECODER: torch.ones(6, 6)}


@pytest.fixture(scope="session")
def lite() -> dict[str, Tensor]:
    return read_checkpoint(find_checkpoint("lite_medsam"))


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda t: t.to_sparse(), "is a sparse or nested tensor"),
        (lambda t: t.view(2, 6).to_sparse_csr(), "is a sparse or nested tensor"),
        (lambda t: t.to("meta"), "is without its numbers"),
        (
            lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.quint8),
            "is of the type torch.quint8",
        ),
        (lambda t: t.to(torch.complex64), "is of the type torch.complex64"),
        (lambda t: t.to(torch.float8_e4m3fn), "is of the type torch.float8_e4m3fn"),
        (lambda t: torch.zeros(1).expand(10**12), "is larger than what the file holds"),
        (
            lambda t: torch.zeros(1, 1).expand(10**6, 10**6),
            "is larger than what the file holds",
        ),
        (lambda t: t * float("nan"), "not finite"),
        (lambda t: t.double() * 1e300, "not finite"),
    ],
)
def test_tensors_of_other_kinds_are_refused_by_name(make, said, tmp_path):
    for name in (NAME, DECODER, "a tensor for nothing"):
        path = save(PLAIN | {name: make(PLAIN[NAME])}, tmp_path / "w.pth")
        with pytest.raises(MedsagaError, match=said) as told:
            read_checkpoint(path)
        for part in (name, str(path)):
            assert part in str(told.value)


def test_tensors_that_only_look_odd_are_read(tmp_path):
    turned = torch.rand(3, 4, 1, 1).transpose(0, 1)
    state = PLAIN | {NAME: turned, "row": torch.ones(1, 5).expand(7, 5)}
    state |= {"learned": torch.nn.Parameter(torch.ones(2))}
    read = read_checkpoint(save(state, tmp_path / "w.pth"))
    assert torch.equal(read[NAME], turned)
    assert read.keys() == state.keys()


def test_what_holds_itself_is_read_or_refused(tmp_path):
    beside: dict[str, Any] = dict(PLAIN)
    beside["again"] = beside
    assert read_checkpoint(save(beside, tmp_path / "a.pth")).keys() == PLAIN.keys()
    within: dict[str, Any] = {}
    within["model"] = {"state_dict": within}
    with pytest.raises(MedsagaError, match="no SAM image encoder"):
        read_checkpoint(save(within, tmp_path / "b.pth"))


def test_the_content_says_whether_it_is_safetensors(tmp_path):
    save_file(PLAIN, tmp_path / "w.pth")
    save(PLAIN, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        assert read_checkpoint(tmp_path / name).keys() == PLAIN.keys()


def test_files_that_would_become_far_larger_are_refused(tmp_path):
    whole, bomb = save(PLAIN, tmp_path / "w.pth"), tmp_path / "bomb.pth"
    with (
        zipfile.ZipFile(whole) as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            is_data = "/data/" in member.filename
            content = bytes(2**24) if is_data else source.read(member)
            target.writestr(member.filename, content)
    header = b'{"%s":{"dtype":"F32","shape":[9999999],"data_offsets":[0,39999996]}}'
    lie = len(header).to_bytes(8, "little") + header % NAME.encode()
    (tmp_path / "lie.safetensors").write_bytes(lie)
    for name in ("bomb.pth", "lie.safetensors"):
        with pytest.raises(MedsagaError, match="cannot be read as weights"):
            read_checkpoint(tmp_path / name)


def blocks(n: int) -> dict[str, Tensor]:
    return {f"image_encoder.blocks.{i}.x": torch.ones(1) for i in range(n)}


VIT = "image_encoder.patch_embed.proj.weight"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({VIT: torch.tensor(1.0)}, "not known here"),
        ({NAME: torch.tensor(1.0)}, "not known here"),
        ({NAME: torch.ones(4, 3, 3, 3)}, "not known here"),  # MobileSAM
        (
            {"image_encoder.trunk.patch_embed.proj.weight": torch.ones(96, 3, 7, 7)},
            "not known here",  # SAM 2
        ),
        ({"conv1.weight": torch.ones(64, 3, 7, 7)}, "no SAM image encoder"),
        (
            {VIT: torch.ones(768, 3, 16, 16), **blocks(12)},
            "Of the 177 tensors of vit_b's image encoder, .* has 1:",
        ),
    ],
)
def test_other_architectures_are_told(state, said, tmp_path):
    path = save(state, tmp_path / "w.pth")
    with pytest.raises(MedsagaError, match=said) as told:
        load_pretrained(str(path))
    assert str(path) in str(told.value)


@pytest.mark.parametrize(
    "edit",
    [
        lambda state: state.pop(DECODER),
        lambda state: state.update({DECODER: torch.tensor(1.0)}),
        lambda state: state.update({DECODER: torch.zeros(0, 3)}),
        lambda state: state.update({DECODER: state[DECODER].long()}),
    ],
)
def test_a_decoder_that_is_not_whole_is_refused(lite, edit, tmp_path):
    state = dict(lite)
    edit(state)
    settings = FineTuneSettings(backbone=str(save(state, tmp_path / "w.pth")))
    with pytest.raises(MedsagaError, match=r"q_proj\.weight is missing .*\(256, 256\)"):
        load_backbone(settings, 3)


def test_tensors_beside_the_encoder_s_are_said_shortly(lite, tmp_path):
    odd = {
        "image_encoder.\x1b[31m": torch.ones(1),
        "image_encoder.layers.x.y": torch.ones(1),
        f"image_encoder.{'x' * 10_000}": torch.ones(1),
    }
    weight = "image_encoder.layers.1.blocks.0.mlp.fc1.weight"
    path = save(lite | odd | {weight: lite[weight].long()}, tmp_path / "w.pth")
    report = load_pretrained(str(path)).report
    assert report.startswith("Loaded 297 of the model's 298 tensors.")
    assert r"encoder.\x1b[31m" in report
    assert report.isprintable()
    assert len(report) < 600


class _Evil:
    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"echo > {self.evidence}",)


@pytest.mark.parametrize("kind", ["evil", "cut", "folder", "sparse", "script", "text"])
def test_the_shell_says_it_in_one_sentence(lite, kind, tmp_path):
    path, evidence = tmp_path / "w.pth", tmp_path / "evidence"
    if kind == "evil":
        save(lite | {"x": _Evil(evidence)}, path)
    elif kind == "cut":
        whole = find_checkpoint("lite_medsam").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        save(lite | {DECODER: lite[DECODER].to_sparse()}, path)
    elif kind == "script":
        traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
        traced.save(str(path))
    else:
        path.write_text("weights\n" * 100)
    image = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "labels.npy", (image > 1).astype(np.uint8))
    files = [str(tmp_path / name) for name in ("image.npy", "labels.npy")]
    options = ["--backbone", str(path), "--out", str(tmp_path / "model")]
    result = CliRunner().invoke(app, ["finetune", *files, *options])
    assert result.exit_code == 2
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert "w.pth" in last
    assert not evidence.exists()
    assert not (tmp_path / "model").exists()

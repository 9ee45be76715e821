"""Modules that are built empty and filled with the weights of a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cards import make_model
from torch import nn

from medsaga.data.canvas import Canvas
from medsaga.models.folder import save_model
from medsaga.network import filling
from medsaga.network.decoder import ClassMaskDecoder
from medsaga.network.filling import fill, read_safetensors, unfilled

_LOAD = """
import ctypes, gc, json, sys
from medsaga.models.loading import load_model
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training.origin import load_backbone


def resident(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024


def peak_of(load):
    load()  # for what is imported
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")
    before = resident("VmRSS")
    model = sum(p.nbytes for p in load().parameters())
    return (resident("VmHWM") - before) / model


print(json.dumps([
    peak_of(lambda: load_model(sys.argv[1]).network),
    peak_of(lambda: load_backbone(FineTuneSettings(), 2)[0]),
]))
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK),
    reason="only Linux tells the peak of a part of a process's life",
)
def test_while_weights_are_loaded_they_are_in_memory_but_once(tmp_path):
    model = make_model(backbone="lite_medsam", canvas=Canvas(long_side=64, multiple=4))
    save_model(model, tmp_path / "model")
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LOAD, str(tmp_path / "model")],
        # What glibc keeps for small blocks is much beside a small model.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    of_model, of_backbone = json.loads(ended.stdout.splitlines()[-1])
    assert of_model < 1.25
    assert of_backbone < 1.25


def test_what_is_drawn_after_an_unfilled_module_is_as_ever():
    torch.manual_seed(0)
    ClassMaskDecoder(3)
    expected = torch.rand(5)
    torch.manual_seed(0)
    with unfilled():
        ClassMaskDecoder(3)
    assert torch.equal(torch.rand(5), expected)


def test_an_unfilled_module_is_filled_as_any_other():
    whole = ClassMaskDecoder(3)
    with unfilled():
        empty = ClassMaskDecoder(3)
    empty.no_mask_embed.requires_grad_(False)
    fill(empty, {name: t.half() for name, t in whole.state_dict().items()})
    for name, tensor in empty.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, whole.state_dict()[name].half().float()), name
    assert not empty.no_mask_embed.weight.requires_grad
    assert empty.iou_token.weight.requires_grad
    with pytest.raises(RuntimeError, match="Missing"):
        fill(empty, {})


def test_tensors_that_share_memory_do_so_no_more():
    layers = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    one = torch.rand(8, 4)
    fill(layers, {"0.weight": one[:4], "1.weight": one[:4]})
    with torch.no_grad():
        layers[0].weight.zero_()
    assert layers[1].weight.all()
    assert one.all()
    same = torch.rand(4, 4)
    fill(layers, {"0.weight": same, "1.weight": same})
    assert layers[0].weight.data_ptr() != layers[1].weight.data_ptr()


@pytest.mark.parametrize("portion", [1, 100, 2**20])
def test_a_file_is_read_whatever_is_mapped_at_once(tmp_path, monkeypatch, portion):
    monkeypatch.setattr(filling, "_PORTION", portion)
    state = {f"{i}.weight": torch.rand(i, 5) for i in range(7)}
    save_file(state, tmp_path / "weights.safetensors")
    read = {n: t.clone() for n, t in read_safetensors(tmp_path / "weights.safetensors")}
    expected = load_file(tmp_path / "weights.safetensors")
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], expected[name]) for name in read)

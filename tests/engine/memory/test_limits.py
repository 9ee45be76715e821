"""Work under a limit of the address space that is really there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux keeps to a limit of the address space"
)

_BEGIN = """
import json, resource, sys
import numpy as np
import medsaga
from medsaga import FineTuneSettings, SegmentSettings, TrainingData, Volume, drain
from medsaga.events import Notice


def limit(megabytes):
    for line in open("/proc/self/status"):
        if line.startswith("VmSize"):
            size = int(line.split()[1]) * 1024 + int(megabytes * 1e6)
            resource.setrlimit(resource.RLIMIT_AS, (size, size))


def square(side, n):
    labels = np.zeros((n, side, side), np.uint8)
    for value in range(1, 41):
        labels[:, value * side // 42 : (value + 1) * side // 42, side // 4 :] = value
    return Volume(array=labels * 5), Volume(array=labels)


told = []


def note(event):
    if isinstance(event, Notice):
        told.append(event.message)


settings = FineTuneSettings(
    backbone="tiny", steps=1, head_views=4, head_steps=4, rank=8, long_side=128,
    precision="fp32", threads=1, detail_head=False, stages="galore",
)
model = drain(medsaga.fine_tune(TrainingData(*square(84, 2)), settings))
"""

_SEGMENT = (
    _BEGIN
    + """
way = SegmentSettings(smooth="off")
drain(medsaga.segment(model, np.ones((1, 100, 100), np.uint8), way))
side = 2048
large = np.ones((1, side, side), np.uint8)
limit(150 + 12e-6 * side**2)  # the logits are 690
found = drain(medsaga.segment(model, large, way))
print(json.dumps(list(found.mask.shape)))
"""
)

_TRAIN = (
    _BEGIN
    + """
from dataclasses import replace

settings = replace(settings, batch_size=32, long_side=256, steps=2)
limit(900)
again = drain(medsaga.fine_tune(TrainingData(*square(84, 2)), settings), note)
card = again.card
chosen = {name: card.settings[name] for name in ("batch_size", "checkpointing")}
print(json.dumps({"told": told, "step": card.metrics["step"], **chosen}))
"""
)


def run(code):
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_a_large_image_of_many_classes_takes_little_beyond_its_size():
    assert run(_SEGMENT) == [1, 2048, 2048]


def test_a_training_goes_on_with_what_fits():
    found = run(_TRAIN)
    assert found["step"] == 2
    assert found["checkpointing"] == "on"
    assert found["batch_size"] < 32
    assert any("each has" in message for message in found["told"])

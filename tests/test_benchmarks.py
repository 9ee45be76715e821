"""The benchmark's own bookkeeping: cells, what is left to run, tables."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import medsaga

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def few_shot(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import few_shot

    yield few_shot
    for name in ("few_shot", "report", "tasks", "methods"):
        sys.modules.pop(name, None)


def options_of(out: Path, **changes) -> argparse.Namespace:
    given = {
        "data": Path("data"),
        "out": out,
        "tasks": ["ct", "hippo"],
        "n": [5],
        "methods": ["medsaga", "unet"],
        "seeds": [0, 1],
        "minutes": 2.0,
        "backbone": "lite_medsam",
        "set": ["rank=32", "flips=true"],
        "segment": [],
    }
    return argparse.Namespace(**(given | changes))


def test_cells_differ_and_every_method_comes_before_a_second_seed(few_shot, tmp_path):
    cells = few_shot.plan_cells(options_of(tmp_path))
    assert [cell["seed"] for cell in cells] == [0] * 4 + [1] * 4
    assert cells[0]["set"] == {"rank": 32, "flips": True}
    assert len({few_shot.file_of(tmp_path, cell) for cell in cells}) == 8


def test_only_what_is_missing_is_run(few_shot, tmp_path, monkeypatch):
    started = []

    def run(command, check):
        started.append(json.loads(command[-1]))
        return argparse.Namespace(returncode=0)

    monkeypatch.setattr(few_shot.subprocess, "run", run)
    options = options_of(tmp_path, seeds=[0])
    cells = few_shot.plan_cells(options)
    done = few_shot.file_of(tmp_path, cells[2])
    done.parent.mkdir()
    done.write_text("{}")
    few_shot.run_all(options)
    assert started == [cells[0], cells[1], cells[3]]


def test_each_training_is_judged_by_every_way_to_segment(few_shot, tmp_path):
    ways = ["three_planes=true", "largest_component=true,fill_holes=true"]
    cell = few_shot.plan_cells(options_of(tmp_path, segment=ways))[0]
    assert [few_shot.name_of(given) for given in cell["segment"]] == ways
    plain = few_shot.plan_cells(options_of(tmp_path))[0]
    assert few_shot.file_of(tmp_path, cell) != few_shot.file_of(tmp_path, plain)

    truth = np.zeros((4, 12, 12), np.uint8)
    truth[:, 2:7, 2:7] = 1
    mask = truth.copy()
    mask[1:3, 4, 4] = 0
    mask[1:3, 9:, 9:] = 1
    fitted = argparse.Namespace(
        predict=lambda _, way: truth if way.three_planes else mask,
        values=(1,),
        votes=True,
    )
    volume = medsaga.volume_from_array(truth)
    task = argparse.Namespace(test=[(volume, volume, [1, 2, 3])])
    settings = [
        medsaga.SegmentSettings(**given)
        for given in ({}, *cell["segment"], {"fill_holes": True})
    ]
    found = few_shot.judge(fitted, task, settings)
    dice = [scores["mean_dice"] for scores in found]
    assert dice[1] == dice[2] == 1
    assert dice[0] < dice[3] < 1
    fitted.votes = False
    found = few_shot.judge(fitted, task, settings)
    assert found[1] is None
    assert [scores["mean_dice"] for scores in (found[0], found[2])] == [dice[0], 1]


def test_the_report_has_a_row_for_every_way(few_shot, tmp_path):
    from report import _by_way, label

    cell = few_shot.plan_cells(options_of(tmp_path, set=[]))[0]
    cell |= {"mean_dice": 0.7, "segmented": {"a=true": {"mean_dice": 0.8}, "b": None}}
    rows = [(label(row), row["mean_dice"]) for row in _by_way(cell)]
    assert rows == [("medsaga", 0.7), ("medsaga (a=true)", 0.8)]


def test_the_report_gives_means_and_spread_over_seeds(few_shot, tmp_path):
    pytest.importorskip("matplotlib")
    from report import write_report

    (tmp_path / "cells").mkdir()
    for cell in few_shot.plan_cells(options_of(tmp_path, set=[])):
        dice = 0.8 + 0.1 * cell["seed"] - 0.2 * (cell["task"] == "hippo")
        measured = {
            "mean_dice": dice - 0.1 * (cell["method"] == "unet"),
            "mean_hd95": None,
            "peak_memory_mb": 1000,
            "seconds": 120,
            "losses": [1.0, 0.5],
        }
        few_shot.file_of(tmp_path, cell).write_text(json.dumps(cell | measured))
    write_report(tmp_path)
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert "| method | ct-5 | hippo-5 | mean |" in lines
    spread = np.std([0.8, 0.9], ddof=1)
    assert (
        f"| medsaga | 0.850 ± {spread:.3f} (2) | 0.650 ± {spread:.3f} (2) | 0.750 |"
        in lines
    )
    assert "| unet | – | – | – |" not in lines  # HD95 of nothing has no rows
    assert len(json.loads((tmp_path / "results.json").read_text())) == 8
    for name in ("dice", "memory", "loss"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_what_trains_is_never_judged(few_shot, tmp_path):
    """On real images, where they are."""
    data = Path(__file__).parents[2] / "shared" / "data"
    if not (data / "chest-xray").is_dir():
        pytest.skip("the shared images are not here")
    from tasks import TASKS

    task = TASKS["cxr"](data, 10)
    trained = {image.name for image, _ in task.training}
    assert len(trained) == 10
    assert not trained & {image.name for image, _, _ in task.test}
    ct = TASKS["ct"](data, 5)
    ((_, labels),) = ct.training
    painted = np.flatnonzero(labels.array.any(axis=(1, 2))).tolist()
    assert painted == [3, 9, 15, 21, 27]
    ((_, _, judged),) = ct.test
    assert sorted([*painted, *judged]) == list(range(30))

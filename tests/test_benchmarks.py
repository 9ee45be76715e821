"""The benchmark's own bookkeeping: cells, what is left to run, tables."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from tests.phantom import TINY, keep_slices, make_phantom
from tests.real_images import DATA

import medsaga

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def few_shot(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import few_shot

    yield few_shot
    for file in BENCHMARKS.glob("*.py"):
        sys.modules.pop(file.stem, None)


def options_of(out: Path, **changes) -> argparse.Namespace:
    given = {
        "data": Path("data"),
        "out": out,
        "tasks": ["ct", "hippo"],
        "n": [5],
        "methods": ["medsaga", "unet"],
        "seeds": [0, 1],
        "preset": "balanced",
        "minutes": None,
        "backbone": None,
        "set": ["rank=32", "flips=true"],
        "segment": [],
    }
    return argparse.Namespace(**(given | changes))


def test_cells_differ_and_every_method_comes_before_a_second_seed(few_shot, tmp_path):
    cells = few_shot.plan_cells(options_of(tmp_path))
    assert [cell["seed"] for cell in cells] == [0] * 4 + [1] * 4
    assert cells[0]["set"] == {"rank": 32, "flips": True}
    assert len({few_shot.file_of(tmp_path, cell) for cell in cells}) == 8


def test_a_boolean_is_one_or_the_other(few_shot, tmp_path):
    cells = few_shot.plan_cells(options_of(tmp_path, set=["flips=True"]))
    assert cells[0]["set"] == {"flips": True}
    with pytest.raises(medsaga.MedsagaError, match=r"flips=yes .*true or false"):
        few_shot.plan_cells(options_of(tmp_path, set=["flips=yes"]))


def test_single_slices_of_a_volume_have_no_neighbours(few_shot):
    from images import Task

    settings = medsaga.FineTuneSettings(neighbours=True)
    few_shot.check_neighbours(Task([], []), settings)
    with pytest.raises(medsaga.MedsagaError, match="leave out --set neighbours"):
        few_shot.check_neighbours(Task([], [], keeps_neighbours=False), settings)


def test_a_preset_has_its_own_minutes_and_its_name(few_shot, tmp_path):
    from cells import label

    options = options_of(tmp_path, set=[], preset="quick")
    quick, *_ = few_shot.plan_cells(options)
    longer, *_ = few_shot.plan_cells(options_of(tmp_path, set=[], minutes=[5.0]))
    assert quick["minutes"] == 0.5
    paper, *_ = few_shot.plan_cells(options_of(tmp_path, set=[], preset="paper"))
    assert paper["backbone"] == "vit_b"
    assert [label(cell) for cell in (quick, longer, paper)] == [
        "medsaga quick",
        "medsaga 5 min",
        "medsaga paper",
    ]


def test_a_seed_that_was_run_twice_counts_once(few_shot, tmp_path):
    from cells import DICE, entries

    first, second, *_ = few_shot.plan_cells(
        options_of(tmp_path, tasks=["ct"], methods=["medsaga"], set=[])
    )
    again = first | {"segment": [{"smooth": "off"}]}
    cells = [first, again, second]
    dice = [0.8, 0.8, 0.9]
    rows = [cell | {"mean_dice": d} for cell, d in zip(cells, dice, strict=True)]
    (found,) = entries(rows, DICE)
    assert (found.seeds, round(found.mean, 3)) == (2, 0.85)


def test_networks_from_scratch_work_at_the_size_of_the_compared_backbone(few_shot):
    from methods import embedding_stride

    assert [embedding_stride(name) for name in ("lite_medsam", "vit_b")] == [4, 16]


def test_only_what_is_missing_is_run(few_shot, tmp_path, monkeypatch):
    started = []

    def run(command, check):
        started.append(json.loads(command[-1]))
        return argparse.Namespace(returncode=0)

    monkeypatch.setattr(few_shot.subprocess, "run", run)
    options = options_of(tmp_path, seeds=[0])
    cells = few_shot.plan_cells(options)
    done, stale = (few_shot.file_of(tmp_path, cell) for cell in cells[2:])
    done.parent.mkdir()
    found = {"fingerprint": few_shot.fingerprint(cells[2])}
    done.write_text(json.dumps(found))
    stale.write_text(json.dumps({"fingerprint": "of a preset that was changed"}))
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
    task = argparse.Namespace(
        test=[(volume, volume, [1, 2, 3])] * 2, looked_at=frozenset({1})
    )
    settings = [
        medsaga.SegmentSettings(**given)
        for given in ({}, *cell["segment"], {"fill_holes": True})
    ]
    found = few_shot.judge(fitted, task, settings)
    dice = [scores["mean_dice"] for scores in found]
    assert dice[1] == dice[2] == 1
    assert dice[0] < dice[3] < 1
    assert found[0]["mean_dice_untouched"] == dice[0]
    assert found[0]["hd95_missing"] == 0
    task.looked_at = frozenset({0, 1})
    assert few_shot.judge(fitted, task, settings)[0]["mean_dice_untouched"] is None
    fitted.votes = False
    found = few_shot.judge(fitted, task, settings)
    assert found[1] is None
    assert [scores["mean_dice"] for scores in (found[0], found[2])] == [dice[0], 1]


def test_what_was_set_otherwise_is_no_ablation(few_shot, tmp_path):
    from cells import ablations

    cell = few_shot.plan_cells(options_of(tmp_path, set=[]))[0]
    attention_alone = cell | {"method": "medsaga-v1"}
    of_the_head = cell | {"set": {"stages": "head"}}
    kept = ablations([cell, attention_alone, of_the_head])
    assert kept == [cell, attention_alone]


def test_the_report_has_a_row_for_every_way(few_shot, tmp_path):
    from cells import by_way, label

    cell = few_shot.plan_cells(options_of(tmp_path, set=[]))[0]
    cell |= {"mean_dice": 0.7, "segmented": {"a=true": {"mean_dice": 0.8}, "b": None}}
    rows = [(label(row), row["mean_dice"]) for row in by_way(cell)]
    assert rows == [("medsaga", 0.7), ("medsaga (a=true)", 0.8)]


def write_cells(few_shot, out: Path, rows: list[tuple], **measured) -> None:
    """Write cells of (task, n, method, seed, mean Dice, what is set)."""
    (out / "cells").mkdir()
    for task, n, method, seed, dice, given in rows:
        cell = {
            "task": task,
            "n": n,
            "method": method,
            "seed": seed,
            "preset": "balanced",
            "minutes": 2.0,
            "backbone": "lite_medsam",
            "set": given,
            "segment": [],
            "mean_dice": dice,
            "mean_hd95": None,
            "peak_memory_mb": 1000 + seed,
            "seconds": 120,
            "losses": [1.0, 0.5],
        }
        file = few_shot.file_of(out, cell)
        file.write_text(json.dumps(cell | measured), encoding="utf-8")


def report_of(out: Path) -> list[str]:
    from report import write_report

    write_report(out)
    return (out / "results.md").read_text(encoding="utf-8").splitlines()


def part_of(lines: list[str], title: str) -> list[str]:
    """The table rows below a title of the second level."""
    first = next(i for i, line in enumerate(lines) if line.startswith(f"## {title}"))
    rest = [*lines[first + 1 :], "## "]
    end = next(i for i, line in enumerate(rest) if line.startswith("## "))
    return [line for line in rest[:end] if line.startswith(("|", "###"))]


def pictures_in(out: Path) -> set[str]:
    """Open every picture and see that something is drawn on it."""
    for file in out.glob("*.png"):
        assert imageio.imread(file)[..., :3].std() > 1
    return {file.stem for file in out.glob("*.png")}


def test_the_report_gives_means_and_spread_over_seeds(few_shot, tmp_path):
    rows = [
        (task, 5, method, seed, 0.8 + 0.1 * seed - minus - less, {})
        for task, minus in (("ct", 0), ("hippo", 0.2))
        for method, less in (("medsaga", 0), ("unet", 0.1))
        for seed in (0, 1)
    ]
    write_cells(few_shot, tmp_path, [*rows, ("ct", 5, "forest", 0, 0.5, {})])
    lines = report_of(tmp_path)
    spread = f"± {np.std([0.8, 0.9], ddof=1):.3f} (2)"
    assert part_of(lines, "Dice") == [
        "### N = 5",
        "| method | ct | hippo | mean |",
        "|---|---|---|---|",
        f"| medsaga | 0.850 {spread} | 0.650 {spread} | 0.750 |",
        "| forest | 0.500 (1) | – | – |",
        f"| unet | 0.750 {spread} | 0.550 {spread} | 0.650 |",
    ]
    assert "| unet | 1000 ± 1 (2) | 1000 ± 1 (2) | 1000 |" in part_of(lines, "Peak")
    assert "| forest | 2.00 (1) | – | – |" in part_of(lines, "Minutes")
    assert not any(line.startswith("## HD95") for line in lines)  # of nothing
    assert len(json.loads((tmp_path / "results.json").read_text())) == 9
    assert pictures_in(tmp_path) == {"dice", "memory"}


def test_the_report_has_the_tables_of_the_paper(few_shot, tmp_path):
    without = {"warmup_steps": 0}
    rows = [
        ("chestxray8", 50, "medsaga", 0, 0.90, {}),
        ("chestxray8", 50, "medsaga", 1, 0.92, {}),
        ("chestxray8", 100, "medsaga", 0, 0.93, {}),
        ("chestxray8", 50, "dae-former", 0, 0.80, {}),
        ("chestxray8", 50, "medsaga", 0, 0.70, without),
        ("chestxray8", 50, "medsaga-v1", 0, 0.60, {}),
        ("ct", 5, "medsaga", 0, 0.91, {}),
        ("ct", 5, "unet", 0, 0.89, {"seed_offset": 1}),
    ]
    write_cells(few_shot, tmp_path, rows, mean_hd95=4.5)
    lines = report_of(tmp_path)
    parts = [line for line in part_of(lines, "Dice") if line.startswith("###")]
    assert parts == ["### N = 5", "### N = 50", "### N = 100"]
    paper = "medsaga (paper) | samed (paper) | dae-former (paper)"
    assert part_of(lines, "Table 1") == [
        "### chestxray8",
        f"| N | metric | medsaga | dae-former | {paper} |",
        "|---|---|---|---|---|---|---|",
        "| 50 | Dice | 0.910 ± 0.014 (2) | 0.800 (1) | 0.899 | 0.882 | 0.842 |",
        "| 50 | HD95 | 4.5 ± 0.0 (2) | 4.5 (1) | – | – | – |",
        "| 100 | Dice | 0.930 (1) | – | – | – | – |",
        "| 100 | HD95 | 4.5 (1) | – | – | – | – |",
        "| 1800 | Dice | – | – | 0.938 | 0.943 | 0.949 |",
        "### ct",
        "| N | metric | medsaga | unet seed_offset=1 |",
        "|---|---|---|---|",
        "| 5 | Dice | 0.910 (1) | 0.890 (1) |",
        "| 5 | HD95 | 4.5 (1) | 4.5 (1) |",
    ]
    warm_up, paper = part_of(lines, "Table 2"), "medsaga warmup_steps=0"
    assert f"| {paper} | medsaga (paper) | {paper} (paper) |" in warm_up[1]
    assert warm_up[3] == "| 50 | Dice | 0.900 (1) | 0.700 (1) | – | – |"
    assert warm_up[-1] == "| 100 | Dice | – | – | 0.913 | 0.736 |"
    ablations = part_of(lines, "Table 3")
    assert ablations[1].startswith("| N | metric | medsaga | medsaga-v1 | medsaga (")
    assert (
        ablations[3]
        == "| 50 | Dice | 0.910 ± 0.014 (2) | 0.600 (1) | 0.899 | 0.703 | 0.119 |"
    )
    entries = json.loads((tmp_path / "tables.json").read_text())
    (entry,) = [
        e
        for e in entries
        if (e["table"][:7], e["method"], e["metric"]) == ("Table 3", "medsaga", "Dice")
        if e["n"] == 50
    ]
    assert entry["mean"] == pytest.approx(0.91)
    assert entry["spread"] == pytest.approx(np.std([0.90, 0.92], ddof=1))
    assert (entry["seeds"], entry["source"]) == (2, "measured here")
    curves = json.loads((tmp_path / "losses.json").read_text())
    assert {c["method"] for c in curves} == {"medsaga", "medsaga warmup_steps=0"}
    assert all(c["losses"] == [1.0, 0.5] for c in curves)
    assert pictures_in(tmp_path) == {"dice", "memory", "warm-up"}
    for name in pictures_in(tmp_path):
        assert any(f"({name}.png)" in line for line in lines)


@pytest.mark.parametrize(
    ("row", "drawn"),
    [
        (("ct", 5, "medsaga", 1, 0.9, {}), {"dice", "memory"}),
        (("ct", 5, "medsaga-v2", 2, 0.9, {}), {"memory"}),
        (
            ("ct", 5, "medsaga", 1, 0.9, {"warmup_steps": 0}),
            {"memory", "warm-up"},
        ),
    ],
)
def test_one_cell_makes_a_report(few_shot, tmp_path, row, drawn):
    write_cells(few_shot, tmp_path, [row])
    lines = report_of(tmp_path)
    assert "0.900 (1)" in part_of(lines, "Dice")[-1]
    assert pictures_in(tmp_path) == drawn


def test_a_method_without_losses_and_no_cells_make_a_report(few_shot, tmp_path):
    write_cells(few_shot, tmp_path, [])
    assert not any(line.startswith(("|", "!")) for line in report_of(tmp_path))
    assert pictures_in(tmp_path) == set()
    (tmp_path / "forest").mkdir()
    rows = [("ct", 5, "forest", 3, 0.5, {})]
    write_cells(few_shot, tmp_path / "forest", rows, losses=[])
    report_of(tmp_path / "forest")
    assert pictures_in(tmp_path / "forest") == {"dice", "memory"}


def test_what_was_forecast_stands_beside_what_came_true(few_shot, tmp_path):
    rows = [("ct", 5, "medsaga", 0, 0.9, {})]
    plain = tmp_path / "plain"
    plain.mkdir()
    write_cells(few_shot, plain, rows)
    assert "## Forecast and truth" not in report_of(plain)
    write_cells(
        few_shot,
        tmp_path,
        rows,
        dice={"1": 0.95, "2": 0.8, "3": 0.9},
        expected_dice={"1": 0.93, "2": 0.84},
    )
    report = report_of(tmp_path)
    assert "| medsaga | ct-5 | 0 | 0.885 | 0.875 | 0.030 | +0.040 |" in report
    assert any(line.startswith("Of all 2 classes") for line in report)


def test_what_trains_is_never_judged(few_shot, tmp_path):
    """On real images, where they are."""
    data = DATA
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


def test_trees_of_vessels_are_drawn_alike_and_seen_in_tiles(few_shot):
    from methods import _Prepared
    from tasks import make_task

    task = make_task("vessels", Path("nowhere"), 2)
    again = make_task("vessels", Path("nowhere"), 2)
    names = [image.name for image, _ in task.training]
    assert not set(names) & {image.name for image, _, _ in task.test}
    for (image, truth), (same, _) in zip(task.training, again.training, strict=True):
        np.testing.assert_array_equal(image.array, same.array)
        assert 0.02 < truth.array.mean() < 0.08
    canvas = _Prepared(task, medsaga.FineTuneSettings()).canvas
    assert (canvas.long_side, canvas.tile, canvas.scale) == (1024, 128, 1)


def test_the_first_preview_is_judged_as_it_stands(few_shot, tmp_path):
    from images import Task
    from methods import METHODS

    image, truth = (medsaga.Volume(array=array) for array in make_phantom())
    labels = truth.with_array(keep_slices(truth.array, [1, 4, 7, 10]))
    task = Task([(image, labels)], [(image, truth, [0, 2])])
    whole = METHODS["medsaga"](task, TINY)
    early = METHODS["first-preview"](task, TINY)
    assert (early.facts["steps"], whole.facts["steps"]) == (0, TINY.steps)
    assert early.facts["first_preview_seconds"] is not None
    mask = early.predict(image, medsaga.SegmentSettings())
    assert medsaga.score(mask, truth.array, early.values).mean_dice > 0.3


def test_carried_paint_is_judged_within_one_volume(few_shot):
    from images import Task
    from methods import METHODS

    image, truth = (medsaga.Volume(array=array) for array in make_phantom())
    labels = truth.with_array(keep_slices(truth.array, [1, 4, 7, 10]))
    task = Task([(image, labels)], [(image, truth, [0, 2])])
    for name in ("propagation", "propagation-plain"):
        carried = METHODS[name](task, TINY)
        mask = carried.predict(image, medsaga.SegmentSettings())
        assert medsaga.score(mask, truth.array, carried.values).mean_dice > 0.9
    two = Task([(image, labels)] * 2, task.test)
    with pytest.raises(medsaga.MedsagaError, match="within one volume"):
        METHODS["propagation"](two, TINY)


def test_what_a_forest_sees_of_padded_images_is_the_same_in_both(few_shot):
    """Fitted to slices that are padded, it finds its own training slices."""
    pytest.importorskip("sklearn", reason="it is of the group `benchmark`")
    from images import Task
    from methods import METHODS

    image, truth = (medsaga.Volume(array=array) for array in make_phantom())
    image, truth = (v.with_array(v.array[:, :, :20]) for v in (image, truth))
    slices = [1, 4, 7, 10]
    labels = truth.with_array(keep_slices(truth.array, slices))
    task = Task([(image, labels)], [(image, truth, slices)])
    fitted = METHODS["forest"](task, TINY)
    mask = fitted.predict(image, medsaga.SegmentSettings(smooth="off"))
    found = medsaga.score(mask[slices], truth.array[slices], fitted.values)
    assert found.mean_dice > 0.9


def test_strokes_train_every_method_without_the_rest(few_shot):
    from images import Task, draw_strokes
    from methods import METHODS

    image, truth = (medsaga.Volume(array=array) for array in make_phantom())
    labels = truth.with_array(keep_slices(truth.array, [1, 4, 7, 10]))
    strokes = draw_strokes(labels, 255)
    drawn = strokes.array > 0
    assert drawn.any(axis=(1, 2)).nonzero()[0].tolist() == [1, 4, 7, 10]
    assert drawn.mean() < 0.3 * (labels.array > 0).any(axis=(1, 2)).mean()
    as_painted = np.where(strokes.array == 255, 0, strokes.array)
    assert (as_painted[drawn] == labels.array[drawn]).all()
    task = Task([(image, strokes)], [(image, truth, [0, 2])], is_sparse=True)
    settings = replace(TINY, sparse=task.is_sparse)
    for method in ("medsaga", "unet"):
        fitted = METHODS[method](task, settings)
        assert fitted.values == tuple(np.unique(truth.array)[1:])

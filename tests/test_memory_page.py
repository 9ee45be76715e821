"""What docs/memory.md and the README say of memory is what was measured."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from PIL import Image

from medsaga.training.plan.memory import Tensors, Way, in_process


@pytest.fixture
def report(repository, monkeypatch):
    benchmarks = repository / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    import memory_report

    yield memory_report
    for file in benchmarks.glob("*.py"):
        sys.modules.pop(file.stem, None)


@pytest.fixture
def page(repository) -> str:
    return (repository / "docs" / "memory.md").read_text(encoding="utf-8")


@pytest.fixture
def taken(report) -> dict[str, int]:
    """Bytes by method at 1024 x 1024."""
    cells, _ = report.read_results().values()
    return {report.short_name(cell): cell["bytes"] for cell in cells}


def test_the_page_has_the_tables_of_the_files(report, page):
    for cells in report.read_results().values():
        assert report.table(cells) in page


def test_the_picture_shows_the_numbers_of_the_files(report):
    with Image.open(report.PICTURE) as picture:
        assert json.loads(picture.text["Description"]) == report.stacks()


def test_the_parts_make_up_what_was_taken(report):
    for cells in report.read_results().values():
        for cell in cells:
            parts = report.parts(cell)
            assert sum(parts.values()) == cell["bytes"]
            assert min(parts.values()) >= 0, cell["method"]


def test_the_plan_foresees_what_was_measured(report, page):
    """Of every backbone, size, batch and way that was."""
    cells = [cell for cells in report.read_results().values() for cell in cells]
    cells += json.loads((report.RESULTS / "plans.json").read_text())["figures"]
    ours = [c for c in cells if c["optimizer"] == "galore" and "stock" not in c]
    errors = []
    for cell in ours:
        counted = cell["counted"]
        tensors = Tensors(
            counted["weights"],
            counted["optimiser state"],
            counted["gradients"] + counted["activations"],
        )
        is_twice, is_lean = (
            cell.get(name, False) for name in ("checkpointing", "lean")
        )
        way = Way(cell["batch"], is_twice, is_lean)
        foreseen = in_process(
            tensors, way, cell["backbone"], cell["precision"], torch.device("cpu")
        )
        errors.append(abs(foreseen / cell["bytes"] - 1))
    assert max(errors) <= 0.1
    assert f"{len(errors)} combinations" in page


def test_a_lean_segmentation_takes_what_is_foreseen(report, page):
    import memory_segment

    kept = (report.RESULTS / "segment.json").read_text(encoding="utf-8")
    figures = json.loads(kept)["figures"]
    assert memory_segment.table(figures) in page
    counted = [c for c in figures if c["way"] == "lean" and "tile" not in c]
    errors = [abs(cell["foreseen"] / cell["bytes"] - 1) for cell in counted]
    assert max(errors) <= 0.07


def test_the_sentences_have_the_numbers_of_the_files(taken, page, repository):
    whole, ours = taken["full AdamW, stock"], taken["full AdamW, ours"]
    galore, lean = taken["GaLore, ours"], taken["GaLore, ours, lean"]
    saved = 1 - ours / whole
    beyond = galore - taken["SAMed's, ours"]
    text = " ".join(page.split())
    assert f"attention and checkpointing save {saved * 100:.0f} % of" in text
    assert f"GaLore then takes {(ours - galore) / 1e6:.0f} MB off" in text
    assert f"within {beyond / 1e6:.0f} MB of low-rank updates" in text
    readme = " ".join((repository / "README.md").read_text(encoding="utf-8").split())
    assert f"a step of `vit_b` at 1024 x 1024 takes {lean / 1e9:.1f} GB" in readme

"""A training that something ended is asked about, and goes on from the dock."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from qtpy.QtWidgets import QLabel, QPushButton
from tests.phantom import VALUES, keep_slices
from tests.plugin.fine_tune.dock import (
    ANNOTATED,
    TIMEOUT,
    TINY,
    click_and_wait,
    open_dock,
    trained_slices,
    wait_for_model,
)

from medsaga import (
    Journal,
    ModelLibrary,
    TrainingData,
    fine_tune,
    interrupted_trainings,
    volume_from_array,
)
from medsaga.events import Progress
from napari_medsaga.fine_tune import interrupted_box
from napari_medsaga.layers.predictions import prediction_of


@pytest.fixture
def interrupted(arrays, engine):
    """A training of the phantom that ended at step 2 of 4, as in a power cut."""
    data = TrainingData(
        volume_from_array(arrays[0], name="blobs"),
        volume_from_array(keep_slices(arrays[1], ANNOTATED)),
    )
    with Journal.begin("blobs") as journal:
        journal.interval = 0.0
        stream = fine_tune(data, replace(TINY, steps=4), journal=journal)
        with closing(stream):
            steps = (e for e in stream if isinstance(e, Progress))
            next(e for e in steps if (e.stage, e.step) == ("galore", 3))
    (entry,) = interrupted_trainings()
    return entry


def question(panel) -> str:
    box = panel.interrupted
    return box.findChild(QLabel, "interrupted").text() if box.isVisible() else ""


def button(panel, name) -> QPushButton:
    return panel.interrupted.findChild(QPushButton, name)


def continue_and_wait(panel, qtbot):
    button(panel, "continue").click()
    qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)


def test_nothing_is_asked_where_nothing_was_interrupted(panel, qtbot):
    assert question(panel) == ""
    click_and_wait(panel, qtbot)
    assert question(panel) == ""
    assert interrupted_trainings() == []


def test_it_goes_on_and_segments_its_image(interrupted, panel, viewer, arrays, qtbot):
    asked = "A training of blobs was interrupted at step 2 of 4: continue?"
    assert question(panel) == asked
    continue_and_wait(panel, qtbot)
    entry = wait_for_model(qtbot)
    assert trained_slices(entry.card) == ANNOTATED
    assert len(panel.run.plot.loss_points("galore")) == 2
    result = viewer.layers["blobs segmented"]
    assert set(np.unique(result.data)) == {0, *VALUES}
    assert sorted(prediction_of(result).trained) == ANNOTATED
    assert question(panel) == ""
    assert interrupted_trainings() == []


def test_without_its_image_the_model_is_kept(interrupted, viewer, qtbot):
    panel = open_dock(viewer, qtbot)
    qtbot.waitUntil(lambda: "step 2 of 4" in question(panel), timeout=TIMEOUT)
    continue_and_wait(panel, qtbot)
    assert wait_for_model(qtbot).name == "blobs"
    assert "Kept as model blobs" in panel.run.status.text()
    assert not viewer.layers


def test_it_can_be_discarded(interrupted, panel, monkeypatch):
    monkeypatch.setattr(interrupted_box, "ask_to_discard", lambda *_: False)
    button(panel, "discard").click()
    assert interrupted_trainings()
    monkeypatch.setattr(interrupted_box, "ask_to_discard", lambda *_: True)
    button(panel, "discard").click()
    assert question(panel) == ""
    assert interrupted_trainings() == []
    assert ModelLibrary().entries() == []


def test_one_that_is_damaged_is_told_and_leaves_the_dock_ready(
    interrupted, panel, qtbot
):
    (interrupted.folder / "setup.json").write_text("{}")
    button(panel, "continue").click()
    qtbot.waitUntil(lambda: "is damaged" in panel.run.status.text(), timeout=TIMEOUT)
    assert panel.training is None


def test_a_model_that_cannot_be_saved_waits_and_segments_all_the_same(
    panel, viewer, qtbot, tmp_path, monkeypatch
):
    blocked = tmp_path / "library"
    blocked.write_text("a file in the way of the library")
    monkeypatch.setenv("MEDSAGA_MODELS", str(blocked))
    click_and_wait(panel, qtbot)
    assert "could not be saved" in panel.run.status.text()
    assert "Until then the model is kept in" in panel.run.status.text()
    assert viewer.layers["blobs segmented"].data.any()
    assert question(panel) == (
        "The model blobs is trained but could not be saved: save it now?"
    )
    blocked.unlink()
    button(panel, "continue").click()
    qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
    assert wait_for_model(qtbot).name == "blobs"
    assert question(panel) == ""

"""Fill between slices: the paint carried without a training."""

from __future__ import annotations

import numpy as np
from qtpy.QtWidgets import QLabel
from tests.plugin.fine_tune.dock import (
    ANNOTATED,
    TIMEOUT,
    click_and_wait,
    sentence,
    trained_slices,
    wait_until_ready,
)

from medsaga import ModelLibrary
from napari_medsaga.layers.predictions import prediction_of


def fill_and_wait(panel, qtbot):
    button = panel.fill.button
    qtbot.waitUntil(button.isEnabled, timeout=TIMEOUT)
    with qtbot.waitSignal(panel.fill.ended, timeout=TIMEOUT):
        button.click()


def told(panel) -> str:
    return panel.findChild(QLabel, "filled").text()


def test_the_paint_is_carried_into_a_layer_of_its_own(panel, viewer, arrays, qtbot):
    truth = arrays[1]
    painted = viewer.layers["painted"].data.copy()
    fill_and_wait(panel, qtbot)
    filled = viewer.layers["blobs filled"]
    assert (filled.data == truth).mean() > 0.98
    np.testing.assert_array_equal(filled.data[ANNOTATED], truth[ANNOTATED])
    np.testing.assert_array_equal(viewer.layers["painted"].data, painted)
    np.testing.assert_array_equal(filled.scale, viewer.layers["blobs"].scale)
    assert "12 slices in blobs filled" in told(panel)
    assert panel.fill.button.isEnabled()
    assert ModelLibrary().entries() == []


def test_corrections_of_it_train_with_what_was_painted(panel, viewer, qtbot):
    fill_and_wait(panel, qtbot)
    filled = viewer.layers["blobs filled"]
    prediction = prediction_of(filled)
    assert prediction.model is None
    assert sorted(prediction.trained) == ANNOTATED
    panel.data.labels.choose(filled)
    before = "train on with the 4 that were painted before"
    qtbot.waitUntil(lambda: before in sentence(panel), timeout=TIMEOUT)
    filled.data[5, 3, 3] = 1
    panel.data.look_again()
    changed = "1 slice of the predicted layer changed, 4 more that were painted"
    qtbot.waitUntil(lambda: changed in sentence(panel), timeout=TIMEOUT)
    panel.run.segments.setChecked(False)
    click_and_wait(panel, qtbot)
    (entry,) = ModelLibrary().entries()
    assert trained_slices(entry.card) == sorted([*ANNOTATED, 5])


def test_strokes_and_flat_images_offer_nothing_to_fill(panel, viewer, arrays, qtbot):
    qtbot.waitUntil(panel.fill.button.isEnabled, timeout=TIMEOUT)
    panel.data.sparse.control("sparse").setChecked(True)
    qtbot.waitUntil(lambda: not panel.fill.button.isEnabled(), timeout=TIMEOUT)
    panel.data.sparse.control("sparse").setChecked(False)
    qtbot.waitUntil(panel.fill.button.isEnabled, timeout=TIMEOUT)
    flat = viewer.add_image(arrays[0][4], name="flat")
    labels = viewer.add_labels(arrays[1][4], name="flat labels")
    panel.data.image.choose(flat)
    panel.data.labels.choose(labels)
    qtbot.waitUntil(lambda: "1 of 1 image" in sentence(panel), timeout=TIMEOUT)
    assert panel.run.start.isEnabled()
    assert not panel.fill.button.isEnabled()


def test_a_closed_dock_leaves_what_is_filled(panel, viewer, qtbot):
    qtbot.waitUntil(panel.fill.button.isEnabled, timeout=TIMEOUT)
    panel.fill.button.click()
    qtbot.waitUntil(lambda: "blobs filled" in viewer.layers, timeout=TIMEOUT)
    panel.fill.close_down()
    assert viewer.layers["blobs filled"].data.any()


def test_with_live_on_strokes_are_brought_to_all_slices(panel, viewer, arrays, qtbot):
    labels, truth = viewer.layers["painted"], arrays[1]
    panel.data.sparse.control("sparse").setChecked(True)
    strokes = np.where(truth[4] == 0, 255, truth[4])
    labels.data[:] = 0
    labels.data[4, ::4] = strokes[::4]
    panel.data.look_again()
    wait_until_ready(panel, qtbot)
    assert not panel.fill.button.isEnabled()
    panel.painting.suggest.click()
    qtbot.waitUntil(panel.fill.button.isEnabled, timeout=TIMEOUT)
    assert "Suggest all" in panel.fill.button.text()
    fill_and_wait(panel, qtbot)
    filled = viewer.layers["blobs filled"].data
    assert 255 not in filled
    np.testing.assert_array_equal(filled[4, ::4], truth[4, ::4])
    assert (filled[5] == truth[5]).mean() > 0.85
    panel.painting.suggest.click()
    assert "Fill between" in panel.fill.button.text()
    assert not panel.fill.button.isEnabled()

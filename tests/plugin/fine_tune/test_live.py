"""Live: strokes are answered with a suggestion, in a layer of its own."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel
from tests.phantom import VALUES
from tests.plugin.fine_tune.dock import (
    ANNOTATED,
    LONG,
    TIMEOUT,
    open_dock,
    start_and_preview,
    wait_until_ready,
)

from napari_medsaga.fine_tune.painting import keys
from napari_medsaga.layers.plane import go_to
from napari_medsaga.widgets.layer_choice import is_offered


def told(panel) -> str:
    return panel.findChild(QLabel, "painting_status").text()


def switch_on(panel, viewer, qtbot, index):
    """Look at a slice, switch on, and give the layer once the slice is suggested."""
    wait_until_ready(panel, qtbot)
    go_to(viewer, viewer.layers["blobs"], 0, index)
    panel.painting.suggest.click()
    return wait_for_suggestion(viewer, qtbot, index)


def wait_for_suggestion(viewer, qtbot, index):
    def is_there() -> bool:
        return "blobs live" in viewer.layers and suggested(viewer)[index].any()

    qtbot.waitUntil(is_there, timeout=TIMEOUT)
    return viewer.layers["blobs live"]


def suggested(viewer):
    return viewer.layers["blobs live"].data


def dice(one, other) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_the_shown_slice_is_suggested_and_accepted(panel, viewer, arrays, qtbot):
    layer = switch_on(panel, viewer, qtbot, 5)
    for value in VALUES:
        assert dice(layer.data[5] == value, arrays[1][5] == value) > 0.7
    assert layer.contour == 1
    assert not layer.editable
    assert not is_offered(layer)
    assert panel.data.labels_layer() is viewer.layers["painted"]
    assert not viewer.layers["painted"].data[5].any()

    panel.painting.accept.click()
    accepted = viewer.layers["painted"].data[5]
    np.testing.assert_array_equal(accepted, layer.data[5])


def test_scrolling_and_a_stroke_bring_another_suggestion(panel, viewer, qtbot):
    layer = switch_on(panel, viewer, qtbot, 5)
    go_to(viewer, viewer.layers["blobs"], 0, 6)
    wait_for_suggestion(viewer, qtbot, 6)
    assert layer.data[5].any()  # nothing was learned since
    labels = viewer.layers["painted"]
    place = np.nonzero(layer.data[6] == VALUES[0])
    labels.data_setitem((np.full(len(place[0]), 6), *place), 33)
    qtbot.waitUntil(lambda: (layer.data[6] == 33).any(), timeout=TIMEOUT)
    assert not layer.data[5].any()  # it was of what was known before


def test_paint_is_learned_that_a_quick_scroll_overtook(panel, viewer, qtbot):
    wait_until_ready(panel, qtbot)
    go_to(viewer, viewer.layers["blobs"], 0, 5)
    panel.painting.suggest.click()
    for index in (5, 6, 8):
        go_to(viewer, viewer.layers["blobs"], 0, index)
        panel.painting.live._ask()
    wait_for_suggestion(viewer, qtbot, 8)
    _, session = panel.painting.live._session
    assert session.painted == {*ANNOTATED}


def test_undone_paint_is_no_longer_learned(viewer, arrays, qtbot):
    viewer.add_image(arrays[0], name="blobs", scale=(3, 1, 1))
    labels = viewer.add_labels(
        np.zeros(arrays[0].shape, np.uint8), name="painted", scale=(3, 1, 1)
    )
    panel = open_dock(viewer, qtbot)
    go_to(viewer, viewer.layers["blobs"], 0, 5)
    panel.painting.suggest.click()
    qtbot.waitUntil(lambda: "Nothing is painted yet" in told(panel), timeout=TIMEOUT)
    place = np.nonzero(arrays[1][5])
    labels.data_setitem((np.full(len(place[0]), 5), *place), arrays[1][5][place])
    layer = wait_for_suggestion(viewer, qtbot, 5)
    assert "Accept takes" in told(panel)
    labels.undo()
    qtbot.waitUntil(lambda: not layer.data.any(), timeout=TIMEOUT)
    assert "Nothing is painted yet" in told(panel)


def test_it_is_switched_off_by_its_key_and_with_its_layer(panel, viewer, qtbot):
    switch_on(panel, viewer, qtbot, 5)
    keys.run_command("live")
    assert "blobs live" not in viewer.layers
    assert not panel.painting.suggest.isChecked()
    switch_on(panel, viewer, qtbot, 5)
    viewer.layers.remove("blobs live")
    assert not panel.painting.live.is_on
    assert not panel.painting.suggest.isChecked()


def test_another_plane_is_not_suggested(panel, viewer, qtbot):
    layer = switch_on(panel, viewer, qtbot, 5)
    viewer.dims.order = (1, 0, 2)
    qtbot.waitUntil(lambda: "look at that plane" in told(panel), timeout=TIMEOUT)
    viewer.dims.order = (0, 1, 2)
    qtbot.waitUntil(lambda: "look at that plane" not in told(panel), timeout=TIMEOUT)
    assert layer in viewer.layers


def test_another_plane_before_anything_is_painted(viewer, arrays, qtbot):
    viewer.add_image(arrays[0], name="blobs", scale=(3, 1, 1))
    labels = viewer.add_labels(
        np.zeros(arrays[0].shape, np.uint8), name="painted", scale=(3, 1, 1)
    )
    panel = open_dock(viewer, qtbot)
    panel.painting.suggest.click()
    qtbot.waitUntil(lambda: "Nothing is painted yet" in told(panel), timeout=TIMEOUT)
    viewer.dims.order = (1, 0, 2)
    go_to(viewer, viewer.layers["blobs"], 1, 20)
    place = np.nonzero(arrays[1][:, 20])
    index = (place[0], np.full(len(place[0]), 20), place[1])
    labels.data_setitem(index, arrays[1][:, 20][place])

    def is_there() -> bool:
        return "blobs live" in viewer.layers and suggested(viewer)[:, 20].any()

    qtbot.waitUntil(is_there, timeout=TIMEOUT)
    assert not np.delete(suggested(viewer), 20, 1).any()


def test_another_pair_is_begun_anew(panel, viewer, arrays, qtbot):
    switch_on(panel, viewer, qtbot, 5)
    _, session = panel.painting.live._session
    other = viewer.add_image(arrays[0] + 5, name="other", **geometry(viewer))
    labels = viewer.add_labels(
        np.where(arrays[1] == VALUES[0], 9, 0).astype(np.uint8),
        name="theirs",
        **geometry(viewer),
    )
    panel.data.image.choose(other)
    panel.data.labels.choose(labels)
    go_to(viewer, other, 0, 5)
    qtbot.waitUntil(
        lambda: (
            "other live" in viewer.layers
            and (viewer.layers["other live"].data == 9).any()
        ),
        timeout=TIMEOUT,
    )
    assert panel.painting.live._session[1] is not session
    assert "blobs live" not in viewer.layers
    assert set(np.unique(viewer.layers["other live"].data)) == {0, 9}


def geometry(viewer) -> dict:
    image = viewer.layers["blobs"]
    names = ("scale", "translate", "rotate", "shear", "units", "axis_labels")
    return {name: getattr(image, name) for name in names}


def test_the_contrast_that_is_shown_is_seen(panel, viewer, qtbot):
    switch_on(panel, viewer, qtbot, 5)
    _, session = panel.painting.live._session
    viewer.layers["blobs"].contrast_limits = (0, 40)
    qtbot.waitUntil(
        lambda: panel.painting.live._session[1].limits == (0, 40), timeout=TIMEOUT
    )
    wait_for_suggestion(viewer, qtbot, 5)
    assert panel.painting.live._session[1] is not session


def test_all_layers_can_be_deleted_at_once(panel, viewer, qtbot):
    switch_on(panel, viewer, qtbot, 5)
    viewer.layers.selection = set(viewer.layers)
    viewer.layers.remove_selected()
    qtbot.waitUntil(lambda: len(viewer.layers) == 0, timeout=TIMEOUT)
    assert not panel.painting.live.is_on


def test_a_slice_that_is_unticked_is_not_learned(panel, viewer, qtbot):
    wait_until_ready(panel, qtbot)
    slices = panel.data._slices
    slices.item(1).setCheckState(Qt.CheckState.Unchecked)
    wait_until_ready(panel, qtbot)
    switch_on(panel, viewer, qtbot, ANNOTATED[1])
    _, session = panel.painting.live._session
    assert session.painted == {*ANNOTATED} - {ANNOTATED[1]}


def test_strokes_teach_without_what_they_leave_out(panel, viewer, arrays, qtbot):
    labels = viewer.layers["painted"]
    wait_until_ready(panel, qtbot)
    panel.data.sparse.control("sparse").setChecked(True)
    background = panel.data.sparse.background_value()
    strokes = np.zeros_like(arrays[1][4])
    strokes[::5] = np.where(arrays[1][4][::5] == 0, background, arrays[1][4][::5])
    labels.data[ANNOTATED] = 0
    labels.data[4] = strokes
    panel.data.look_again()
    wait_until_ready(panel, qtbot)
    layer = switch_on(panel, viewer, qtbot, 4)
    assert background not in layer.data
    for value in VALUES:
        assert dice(layer.data[4] == value, arrays[1][4] == value) > 0.5


def test_it_goes_on_while_a_model_is_trained(viewer, layers, qtbot):
    panel = open_dock(viewer, qtbot, LONG)
    layer = switch_on(panel, viewer, qtbot, 5)
    start_and_preview(panel, qtbot)
    panel.tabs.setCurrentIndex(0)
    go_to(viewer, viewer.layers["blobs"], 0, 8)
    wait_for_suggestion(viewer, qtbot, 8)
    assert panel.training is not None
    panel.run.stop.click()
    qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
    assert layer in viewer.layers


@pytest.mark.parametrize("missing", ["image", "labels"])
def test_without_layers_it_stays_off(viewer, arrays, qtbot, missing):
    if missing == "labels":
        viewer.add_image(arrays[0], name="blobs")
    panel = open_dock(viewer, qtbot)
    panel.painting.suggest.click()
    assert not panel.painting.suggest.isChecked()
    assert "Choose an image and a Labels layer" in told(panel)

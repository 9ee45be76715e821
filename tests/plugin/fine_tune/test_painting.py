"""Help in painting: boxes and clicks, accepting, the next slice, classes, keys."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.interactions import (
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)
from qtpy.QtWidgets import QLabel, QPushButton
from tests.phantom import VALUES
from tests.plugin.fine_tune.dock import (
    ANNOTATED,
    TIMEOUT,
    click_and_wait,
    open_dock,
    sentence,
    start_training,
    trained_slices,
    wait_until_ready,
)
from tests.plugin.fine_tune.test_fill_between import fill_and_wait

from medsaga import ModelLibrary
from napari_medsaga.fine_tune.painting import keys
from napari_medsaga.fine_tune.painting.navigation import next_slice
from napari_medsaga.layers.convert import class_colours, class_names
from napari_medsaga.layers.plane import go_to
from napari_medsaga.layers.slice_marks import marked_slices


def mouse(kind, layer, image, viewer, place, modifiers=()):
    """Make an event of the mouse at (slice, row, column) of an image."""
    world = np.asarray(image.data_to_world(np.array(place, float) - (0, 0.5, 0.5)))
    screen = np.array(place[1:], float) * 10
    event = SimpleNamespace(
        type=kind,
        pos=screen,
        position=world,
        button=1,
        modifiers=modifiers,
        handled=False,
        is_dragging=kind == "mouse_move",
    )
    return ReadOnlyWrapper(event, exceptions=("handled",))


def drag(layer, image, viewer, index, start, end):
    press = mouse("mouse_press", layer, image, viewer, (index, *start))
    mouse_press_callbacks(layer, press)
    for kind, callbacks in (
        ("mouse_move", mouse_move_callbacks),
        ("mouse_release", mouse_release_callbacks),
    ):
        callbacks(layer, mouse(kind, layer, image, viewer, (index, *end)))


def click(layer, image, viewer, index, place, modifiers=()):
    for kind, callbacks in (
        ("mouse_press", mouse_press_callbacks),
        ("mouse_release", mouse_release_callbacks),
    ):
        event = mouse(kind, layer, image, viewer, (index, *place), modifiers)
        callbacks(layer, event)


def told(panel) -> str:
    return panel.findChild(QLabel, "painting_status").text()


@pytest.fixture
def flat_panel(viewer, arrays, qtbot):
    """The dock on the phantom, unturned: a box is then where one sees it."""
    image = viewer.add_image(arrays[0], name="blobs", scale=(3, 1, 1))
    labels = viewer.add_labels(
        np.zeros(arrays[0].shape, np.uint8), name="painted", scale=(3, 1, 1)
    )
    panel = open_dock(viewer, qtbot)
    go_to(viewer, image, 0, 5)
    qtbot.waitUntil(lambda: panel.data.labels_layer() is labels, timeout=TIMEOUT)
    return panel


class TestPointing:
    def point(self, panel, viewer):
        panel.painting.point.click()
        return viewer.layers["prompts"], viewer.layers["blobs"]

    def test_a_box_paints_the_chosen_class(self, flat_panel, viewer, arrays, qtbot):
        labels, truth = viewer.layers["painted"], arrays[1][5] == VALUES[2]
        labels.selected_label = 3
        prompts, image = self.point(flat_panel, viewer)
        rows, columns = np.nonzero(truth)
        start = rows.min() - 1, columns.min() - 1
        drag(prompts, image, viewer, 5, start, (rows.max() + 2, columns.max() + 2))
        qtbot.waitUntil(lambda: labels.data.any(), timeout=TIMEOUT)
        found = labels.data[5] == 3
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8
        assert not labels.data[[4, 6]].any()
        assert "pixels of class 3" in told(flat_panel)
        assert len(prompts.data) == 1

        flat_panel.painting.prompting.drop()
        assert not labels.data.any()
        assert len(prompts.data) == 0

    def test_a_click_and_one_that_takes_away(self, flat_panel, viewer, arrays, qtbot):
        labels, truth = viewer.layers["painted"], arrays[1][5] == VALUES[2]
        prompts, image = self.point(flat_panel, viewer)
        rows, columns = np.nonzero(truth)
        middle = rows.mean() + 0.5, columns.mean() + 0.5
        click(prompts, image, viewer, 5, middle)
        qtbot.waitUntil(lambda: labels.data.any(), timeout=TIMEOUT)
        painted = int((labels.data[5] == 1).sum())
        top = np.argwhere(labels.data[5] == 1)[0] + 0.5
        click(prompts, image, viewer, 5, tuple(top), ("Control",))
        qtbot.waitUntil(
            lambda: 0 < (labels.data[5] == 1).sum() < painted, timeout=TIMEOUT
        )
        flat_panel.painting.prompting.keep()
        assert labels.data.any()
        flat_panel.painting.prompting.drop()  # nothing is left to drop
        assert labels.data.any()

    def test_it_is_put_away_with_another_layer_or_key(self, flat_panel, viewer):
        prompts, _ = self.point(flat_panel, viewer)
        assert viewer.layers.selection.active is prompts
        viewer.layers.selection.active = viewer.layers["painted"]
        assert "prompts" not in viewer.layers
        assert not flat_panel.painting.point.isChecked()
        self.point(flat_panel, viewer)
        flat_panel.painting.point.click()
        assert "prompts" not in viewer.layers
        assert viewer.layers.selection.active is viewer.layers["painted"]

    def test_background_is_not_painted(self, flat_panel, viewer):
        viewer.layers["painted"].selected_label = 0
        prompts, image = self.point(flat_panel, viewer)
        click(prompts, image, viewer, 5, (20, 20))
        assert "0 is background" in told(flat_panel)


class TestAccepting:
    def test_what_is_filled_in_is_taken_over(self, panel, viewer, arrays, qtbot):
        fill_and_wait(panel, qtbot)
        labels, filled = viewer.layers["painted"], viewer.layers["blobs filled"]
        image = viewer.layers["blobs"]
        go_to(viewer, image, 0, 5)
        panel.painting.accept.click()
        np.testing.assert_array_equal(labels.data[5], filled.data[5])
        assert marked_slices(labels, image, "accepted") == {(0, 5)}
        assert "Accepted" in told(panel)
        labels.undo()
        assert not labels.data[5].any()

    def test_one_class_and_paint_that_stays(self, panel, viewer, qtbot):
        fill_and_wait(panel, qtbot)
        labels, filled = viewer.layers["painted"], viewer.layers["blobs filled"]
        image = viewer.layers["blobs"]
        go_to(viewer, image, 0, 5)
        rows, columns = np.nonzero(filled.data[5] == VALUES[1])
        labels.data[5, rows[0], columns[0]] = 9
        labels.selected_label = VALUES[1]
        panel.painting.accept_suggestion(chosen_class=True)
        expected = np.where(filled.data[5] == VALUES[1], VALUES[1], 0)
        expected[rows[0], columns[0]] = 9
        np.testing.assert_array_equal(labels.data[5], expected)

    def test_inside_a_lasso_alone(self, flat_panel, viewer, arrays, qtbot):
        labels, image = viewer.layers["painted"], viewer.layers["blobs"]
        labels.data[ANNOTATED] = arrays[1][ANNOTATED]
        flat_panel.data.look_again()
        wait_until_ready(flat_panel, qtbot)
        fill_and_wait(flat_panel, qtbot)
        filled = viewer.layers["blobs filled"]
        go_to(viewer, image, 0, 5)
        lasso = viewer.add_shapes(
            [[(5, -0.4, -0.4), (5, -0.4, 19), (5, 39.4, 19), (5, 39.4, -0.4)]],
            shape_type="polygon",
            scale=(3, 1, 1),
        )
        lasso.selected_data = {0}
        viewer.layers.selection.active = lasso
        flat_panel.painting.accept.click()
        np.testing.assert_array_equal(labels.data[5, :, :20], filled.data[5, :, :20])
        assert labels.data[5, :, :20].any()
        assert not labels.data[5, :, 20:].any()
        lasso.add_ellipses([[(5, 5, 22), (5, 5, 38), (5, 35, 38), (5, 35, 22)]])
        lasso.selected_data = {1}
        flat_panel.painting.accept.click()
        y, x = np.mgrid[:40, 20:40]
        inside = ((y - 20) / 15) ** 2 + ((x - 30) / 8) ** 2
        right = labels.data[5, :, 20:]
        assert not right[inside > 1.3].any()
        expected = filled.data[5, :, 20:][inside < 0.8]
        np.testing.assert_array_equal(right[inside < 0.8], expected)
        go_to(viewer, image, 0, 6)  # there the lasso encloses nothing
        flat_panel.painting.accept.click()
        assert "inside the lasso" in told(flat_panel)
        assert not labels.data[6].any()

    def test_without_a_suggestion_it_says_what_to_do(self, panel, viewer):
        panel.painting.accept.click()
        assert "fill between slices, or train a model" in told(panel)

    def test_a_slice_of_a_result_that_is_right_trains(self, panel, viewer, qtbot):
        click_and_wait(panel, qtbot)
        result, image = viewer.layers["blobs segmented"], viewer.layers["blobs"]
        panel.findChild(QPushButton, "correct").click()
        assert panel.data.labels_layer() is result
        go_to(viewer, image, 0, 8)
        panel.painting.accept.click()
        expected = "1 slice of the predicted layer changed"
        qtbot.waitUntil(lambda: expected in sentence(panel), timeout=TIMEOUT)
        click_and_wait(panel, qtbot)
        cards = [entry.card for entry in ModelLibrary().entries()]
        assert sorted([*ANNOTATED, 8]) in [trained_slices(card) for card in cards]


class TestWhereToGo:
    def test_next_goes_into_the_widest_gap_and_then_by_advice(
        self, panel, viewer, qtbot
    ):
        wait_until_ready(panel, qtbot)
        image = viewer.layers["blobs"]
        go_to(viewer, image, 0, 0)
        panel.painting.next.click()
        assert "widest gap" in told(panel)
        click_and_wait(panel, qtbot)
        panel.painting.next.click()
        assert re_any(("may be wrong here", "is sure here"), told(panel))

    def test_the_strip_shows_what_is_painted_and_goes_there(
        self, flat_panel, viewer, arrays, qtbot
    ):
        viewer.layers["painted"].data[ANNOTATED] = arrays[1][ANNOTATED]
        flat_panel.data.look_again()
        wait_until_ready(flat_panel, qtbot)
        bar = flat_panel.painting.bar
        qtbot.waitUntil(lambda: len(bar.states) == 12, timeout=TIMEOUT)
        kinds = [state.kind for state in bar.states]
        assert [i for i, kind in enumerate(kinds) if kind == "painted"] == ANNOTATED
        assert all(state.doubt is None for state in bar.states)
        bar.picked.emit(7)
        qtbot.waitUntil(lambda: bar.here == 7, timeout=TIMEOUT)
        click_and_wait(flat_panel, qtbot)
        qtbot.waitUntil(lambda: bar.states[5].doubt is not None, timeout=TIMEOUT)
        assert max(state.doubt for state in bar.states) <= 1


class TestClasses:
    def test_classes_come_before_paint(self, viewer, arrays, qtbot):
        image = viewer.add_image(arrays[0], name="blobs", scale=(3, 1, 2))
        panel = open_dock(viewer, qtbot)
        classes = panel.data.classes
        add = panel.findChild(QPushButton, "add_class")
        for _ in range(3):
            add.click()
        labels = viewer.layers["blobs labels"]
        np.testing.assert_array_equal(labels.scale, image.scale)
        assert panel.data.labels_layer() is labels
        assert class_names(labels) == {1: "class 1", 2: "class 2", 3: "class 3"}
        assert labels.selected_label == 3
        assert len(set(class_colours(labels, [1, 2, 3]).values())) == 3
        qtbot.waitUntil(lambda: classes.table.values == [1, 2, 3], timeout=TIMEOUT)

        classes.table.selectRow(0)
        assert labels.selected_label == 1
        labels.selected_label = 2
        rows = classes.table.selectionModel().selectedRows()
        assert [row.row() for row in rows] == [1]
        classes.table.item(0, 1).setText("liver")
        assert class_names(labels)[1] == "liver"
        classes.table.item(1, 1).setText("liver")
        assert class_names(labels)[2] == "class 2"

    def test_a_model_lends_its_classes(self, panel, viewer, arrays, qtbot):
        click_and_wait(panel, qtbot)
        (entry,) = ModelLibrary().entries()
        other = viewer.add_labels(np.zeros(arrays[0].shape, np.uint8), name="other")
        panel.data.labels.choose(other)
        panel.data.classes.take_classes(entry.card.classes)
        assert class_names(other) == {1: "bright", 5: "dark", 117: "white"}
        assert class_colours(other, VALUES)[1] == "#ff0000"


class TestTrust:
    def test_the_table_has_what_to_expect_and_what_changed(
        self, panel, viewer, qtbot, tmp_path
    ):
        click_and_wait(panel, qtbot)
        table = panel.trust.table
        assert panel.tabs.currentWidget().isAncestorOf(table)
        assert [table.item(row, 0).text() for row in range(3)] == [
            *("bright", "dark", "white")
        ]
        assert all(table.item(row, 2).text().endswith(" ml") for row in range(3))
        assert not panel.trust.compare.isEnabled()
        panel.trust.uncertain.trigger()
        shown = viewer.layers["blobs segmented uncertainty"]
        assert shown.data.shape == viewer.layers["blobs"].data.shape
        assert panel.data.image.findText(shown.name) == -1
        click_and_wait(panel, qtbot)
        assert "round 2" in panel.findChild(QLabel, "expected").text()
        assert "%" in table.item(0, 4).text()
        panel.trust.write_csv(tmp_path / "rounds.csv")
        lines = (tmp_path / "rounds.csv").read_text().splitlines()
        assert lines[0].startswith("round,model,value,class,dice")
        assert len(lines) == 7

        old, new = viewer.layers["blobs segmented"], viewer.layers["blobs segmented 2"]
        panel.trust.compare.click()
        assert (old.visible, new.visible) == (True, False)
        keys.run_command("compare")
        assert (old.visible, new.visible) == (False, True)
        panel.trust.outlines.trigger()
        assert (old.visible, new.visible) == (True, True)
        assert (old.contour, new.contour) == (2, 1)
        panel.trust.outlines.trigger()
        assert (old.visible, new.visible) == (False, True)
        assert (old.contour, new.contour) == (0, 0)
        history = table.item(0, 4).toolTip()
        assert "1: Dice" in history
        assert "2: Dice" in history


def test_the_keys_work_until_the_dock_is_closed(panel, viewer, qtbot):
    wait_until_ready(panel, qtbot)
    bound = {str(key) for key in viewer.keymap}
    assert {key.replace("-", "+") for key, _ in keys.KEYS.values()} <= bound
    viewer.window.remove_dock_widget(panel.parent())
    assert not {str(key) for key in viewer.keymap} & {"Q", "G", "A", "N", "K"}


def test_what_is_painted_on_another_patient_is_followed(panel, viewer, arrays, qtbot):
    wait_until_ready(panel, qtbot)
    second = viewer.add_image(arrays[0] + 5, name="second")
    labels = viewer.add_labels(np.zeros(arrays[0].shape, np.uint8), name="theirs")
    labels.data_setitem((np.array([3]), np.array([4]), np.array([4])), 1)
    assert panel.data.labels_layer() is labels
    assert panel.data.image_layer() is second
    first = viewer.layers["painted"]
    first.data_setitem((np.array([3]), np.array([4]), np.array([4])), 1)
    assert panel.data.labels_layer() is first
    assert panel.data.image_layer() is viewer.layers["blobs"]


def re_any(parts, text) -> bool:
    return any(part in text for part in parts)


def test_accepted_slices_are_told_apart_in_the_card(panel, viewer, qtbot):
    fill_and_wait(panel, qtbot)
    go_to(viewer, viewer.layers["blobs"], 0, 5)
    panel.painting.accept.click()
    panel.run.segments.setChecked(False)
    click_and_wait(panel, qtbot)
    (entry,) = ModelLibrary().entries()
    assert trained_slices(entry.card) == sorted([*ANNOTATED, 5])
    assert entry.card.run.accepted_slices == (5,)


def test_a_box_takes_the_class_map_of_a_trained_model(
    flat_panel, viewer, arrays, qtbot
):
    labels, image = viewer.layers["painted"], viewer.layers["blobs"]
    labels.data[ANNOTATED] = arrays[1][ANNOTATED]
    flat_panel.data.look_again()
    click_and_wait(flat_panel, qtbot)
    result = viewer.layers["blobs segmented"]
    labels.selected_label = VALUES[2]
    flat_panel.painting.point.click()
    wanted = result.data[5] == VALUES[2]
    rows, columns = np.nonzero(wanted)
    go_to(viewer, image, 0, 5)
    end = rows.max() + 1, columns.max() + 1
    start = rows.min(), columns.min()
    drag(viewer.layers["prompts"], image, viewer, 5, start, end)
    np.testing.assert_array_equal(labels.data[5] == VALUES[2], wanted)


def test_an_older_result_is_dimmed_while_the_next_one_is_made(panel, viewer, qtbot):
    click_and_wait(panel, qtbot)
    old = viewer.layers["blobs segmented"]
    before = old.opacity
    start_training(panel, qtbot)
    assert old.opacity < before
    qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
    assert old.opacity == before


def test_the_window_reaches_all_of_the_data(viewer, qtbot):
    rng = np.random.default_rng(0)
    ct = rng.normal(40, 20, (4, 32, 32))
    ct[:, :10] = -1000
    ct[0, 20, 20] = 2500
    image = viewer.add_image(ct, name="ct", contrast_limits=(-160, 240))
    panel = open_dock(viewer, qtbot)
    choice = panel.painting.window_choice
    qtbot.waitUntil(lambda: choice.findText("bone") >= 0, timeout=TIMEOUT)
    assert image.contrast_limits_range == [-1000, 2500]
    choice.setCurrentText("bone")
    choice.activated.emit(choice.currentIndex())
    assert image.contrast_limits == [-500, 1300]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([], 20),
        ([12], 30),
        ([12, 33], 22),
        ([20], 7),
        ([0, 39], 20),
        ([0, 1, 38, 39], 20),
    ],
)
def test_without_advice_the_widest_gap_is_next(known, expected):
    kinds = dict.fromkeys(known, "painted")
    index, _ = next_slice(kinds, None, 40, 0, {})
    assert abs(index - expected) <= 1
    assert index not in known


def test_every_slice_comes_next_once():
    kinds = {}
    for _ in range(9):
        index, _ = next_slice(kinds, None, 9, 0, {})
        kinds[index] = "painted"
    assert sorted(kinds) == list(range(9))
    assert next_slice(kinds, None, 9, 0, {}) is None

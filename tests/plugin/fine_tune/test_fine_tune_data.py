"""What the Fine-tune dock says is annotated, and the slices that train."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QComboBox, QListWidget, QWidget
from tests.phantom import VALUES, keep_slices
from tests.plugin.fine_tune.dock import (
    ANNOTATED,
    COLOURS,
    click_and_wait,
    listed,
    open_dock,
    sentence,
    trained_slices,
)

from medsaga import ModelLibrary
from napari_medsaga.fine_tune.annotated.sparse_form import SPARSE_SETTINGS
from napari_medsaga.layers.convert import class_names


class TestWhatIsAnnotated:
    def test_slices_and_classes_are_shown(self, panel, qtbot):
        qtbot.waitUntil(lambda: "4 of 12 slices" in sentence(panel))
        table = panel.findChild(QWidget, "classes")
        rows = [
            [table.item(row, column).text() for column in range(4)]
            for row in range(table.rowCount())
        ]
        assert [row[:3] for row in rows] == [
            ["1", "bright", "4"],
            ["5", "dark", "4"],
            ["117", "white", "4"],
        ]
        assert all(int(row[3]) > 100 for row in rows)

    def test_a_class_has_the_colour_of_its_layer(self, panel, layers, qtbot):
        table = panel.findChild(QWidget, "classes")

        def swatches() -> list[str]:
            icons = [table.item(row, 0).icon() for row in range(table.rowCount())]
            images = [icon.pixmap(14, 14).toImage() for icon in icons]
            return [image.pixelColor(7, 7).name() for image in images]

        qtbot.waitUntil(lambda: table.rowCount() == 3)
        assert swatches() == [COLOURS[value] for value in VALUES]
        # A screen of 16 bits, such as Xvfb's, shows other shades only nearly.
        others = {1: "#ffff00", 5: "#ff0000", 117: "#00ffff", None: "#ffffff"}
        layers[1].colormap = others
        qtbot.waitUntil(lambda: swatches() == [others[value] for value in VALUES])

    def test_painting_is_followed(self, panel, layers, qtbot):
        qtbot.waitUntil(lambda: "4 of 12 slices" in sentence(panel))
        layers[1].data_setitem((np.array([6]), np.array([20]), np.array([20])), 9)
        qtbot.waitUntil(lambda: "5 of 12 slices" in sentence(panel))
        assert "Class 9 has 1 pixel on 1 slice: paint more" in sentence(panel)
        layers[1].undo()
        qtbot.waitUntil(lambda: "4 of 12 slices" in sentence(panel))

    def test_scrolling_looks_at_nothing_again(self, panel, viewer, layers, qtbot):
        qtbot.waitUntil(lambda: "4 of 12 slices" in sentence(panel))
        viewer.dims.set_current_step(0, 5)
        qtbot.wait(600)
        reports = []
        panel.data.reported.connect(reports.append)
        for step in (3, 7, 9):
            viewer.dims.set_current_step(0, step)
            qtbot.wait(400)
        assert not reports

    def test_the_image_layer_alone_says_what_to_do(self, viewer, arrays, qtbot):
        viewer.add_image(arrays[0])
        panel = open_dock(viewer, qtbot)
        qtbot.waitUntil(lambda: "Add a class, or a Labels layer" in sentence(panel))
        assert not panel.run.start.isEnabled()
        viewer.add_labels(np.zeros(arrays[0].shape, int))
        qtbot.waitUntil(lambda: "No slice is labelled" in sentence(panel))
        assert not panel.run.start.isEnabled()

    def test_an_edited_name_goes_to_the_layer_and_leaves_its_pixels(
        self, panel, layers, qtbot
    ):
        before = layers[1].data.copy()
        table = panel.findChild(QWidget, "classes")
        qtbot.waitUntil(lambda: table.rowCount() == 3)
        table.item(1, 1).setText("liver")
        assert class_names(layers[1])[5] == "liver"
        np.testing.assert_array_equal(layers[1].data, before)
        click_and_wait(panel, qtbot)
        assert "liver" in ModelLibrary().entries()[0].card.classes.names

    def test_an_unticked_slice_does_not_train(self, panel, qtbot):
        slices = panel.findChild(QWidget, "slices")
        qtbot.waitUntil(lambda: slices.count() == 4)
        item = slices.item(1)
        item.setCheckState(type(item.checkState()).Unchecked)
        click_and_wait(panel, qtbot)
        assert trained_slices(ModelLibrary().entries()[0].card) == [1, 7, 10]

    def test_on_a_tie_the_plane_that_is_shown_counts(self, viewer, arrays, qtbot):
        labels = np.zeros((6, 40, 40), int)
        labels[2, 2, 4:20] = 1  # one slice across either of the first two axes
        viewer.add_image(arrays[0][:6])
        viewer.add_labels(labels)
        panel = open_dock(viewer, qtbot)
        qtbot.waitUntil(lambda: "axis 0" in sentence(panel))
        viewer.dims.order = (1, 0, 2)
        qtbot.waitUntil(lambda: "axis 1" in sentence(panel))

    def test_the_axis_can_be_chosen(self, panel, qtbot):
        axis = panel.findChild(QComboBox, "axis")
        axis.setCurrentIndex(2)
        axis.activated.emit(2)
        qtbot.waitUntil(lambda: "axis 1" in sentence(panel))


def test_the_numbers_of_the_slices_are_shown_whole(panel, viewer, layers, qtbot):
    layers[1].data = np.roll(layers[1].data, 1, axis=0)  # slice 11 among them
    qtbot.waitUntil(lambda: listed(panel) == ["2", "5", "8", "11"])
    shown = panel.findChild(QListWidget, "slices")
    as_it_is = shown.grab().toImage()
    shown.setTextElideMode(Qt.TextElideMode.ElideNone)
    assert shown.grab().toImage() == as_it_is


class TestEmptySlices:
    @pytest.fixture
    def plain(self, viewer, arrays, qtbot):
        viewer.add_image(arrays[0], name="blobs")
        labels = viewer.add_labels(keep_slices(arrays[1], ANNOTATED))
        panel = open_dock(viewer, qtbot)
        qtbot.waitUntil(lambda: listed(panel) == ["1", "4", "7", "10"])
        return panel, labels, panel.findChild(QAbstractButton, "empty")

    def test_the_slice_that_is_looked_at_is_marked_and_trains(
        self, plain, viewer, qtbot
    ):
        panel, labels, box = plain
        viewer.dims.set_current_step(0, 5)
        box.click()
        qtbot.waitUntil(lambda: listed(panel) == ["1", "4", "5 empty", "7", "10"])
        assert "1 of them with nothing on it" in sentence(panel)
        viewer.dims.set_current_step(0, 4)
        assert not box.isEnabled()
        assert not box.isChecked()
        assert "carries labels" in box.toolTip()
        click_and_wait(panel, qtbot)
        card = ModelLibrary().entries()[0].card
        assert trained_slices(card) == [1, 4, 5, 7, 10]
        assert not labels.data[5].any()

    def test_the_mark_is_taken_away_or_painted_over(self, plain, viewer, qtbot):
        panel, labels, box = plain
        for step in (2, 5):
            viewer.dims.set_current_step(0, step)
            box.click()
        qtbot.waitUntil(lambda: "5 empty" in listed(panel))
        assert box.isChecked()
        box.click()
        qtbot.waitUntil(lambda: "5 empty" not in listed(panel))
        labels.data_setitem((np.full(40, 2), np.arange(40), np.full(40, 3)), 5)
        qtbot.waitUntil(lambda: listed(panel) == ["1", "2", "4", "7", "10"])

    def test_only_slices_of_the_axis_that_is_shown_are_marked(
        self, plain, viewer, qtbot
    ):
        _, _, box = plain
        viewer.dims.set_current_step(0, 5)
        assert box.isEnabled()
        viewer.dims.order = (1, 0, 2)
        assert not box.isEnabled()
        assert "along axis 0" in box.toolTip()

    def test_marks_follow_a_mirrored_layer(self, viewer, arrays, qtbot):
        viewer.add_image(arrays[0])
        labels = viewer.add_labels(
            keep_slices(arrays[1], ANNOTATED)[::-1], scale=(-1, 1, 1)
        )
        labels.translate = (11, 0, 0)
        panel = open_dock(viewer, qtbot)
        qtbot.waitUntil(lambda: listed(panel) == ["1", "4", "7", "10"])
        viewer.dims.set_point(0, 5)
        panel.findChild(QAbstractButton, "empty").click()
        qtbot.waitUntil(lambda: listed(panel) == ["1", "4", "5 empty", "7", "10"])


class TestSparse:
    def test_strokes_train_and_stay_strokes_in_corrections(
        self, panel, viewer, layers, arrays, qtbot
    ):
        strokes = np.where(arrays[1] == 0, 200, arrays[1])
        strokes[:, np.arange(40) % 4 != 0] = 0
        layers[1].data = keep_slices(strokes, ANNOTATED)
        sparse, background = map(panel.data.sparse.control, SPARSE_SETTINGS)
        assert not background.isEnabled()
        sparse.click()
        qtbot.waitUntil(lambda: "Nothing is painted as background" in sentence(panel))
        assert not panel.run.start.isEnabled()
        background.setValue(200)
        table = panel.findChild(QWidget, "classes")
        qtbot.waitUntil(lambda: table.rowCount() == 4 and table.item(0, 0) is not None)
        row = [table.item(0, column) for column in range(3)]
        assert [item.text() for item in row] == ["200", "background", "4"]
        assert not row[1].flags() & Qt.ItemFlag.ItemIsEditable

        click_and_wait(panel, qtbot)
        first = ModelLibrary().entries()[0]
        assert first.card.classes.values == (0, *VALUES)
        predicted = viewer.layers["blobs segmented"]
        assert set(np.unique(predicted.data)) <= {0, *VALUES}

        predicted.data_setitem((np.full(9, 2), np.arange(3, 12), np.full(9, 35)), 5)
        strokes = [f"blobs [{i}]" for i in ANNOTATED]
        qtbot.waitUntil(lambda: listed(panel) == ["2 changed", *strokes])
        assert not sparse.isEnabled()
        assert "predicted layer" in sparse.toolTip()
        click_and_wait(panel, qtbot)
        card = next(e.card for e in ModelLibrary().entries() if e.path != first.path)
        assert trained_slices(card) == sorted([2, *ANNOTATED])
        assert not card.settings["sparse"]

        panel.data.labels.choose(layers[1])
        assert sparse.isEnabled()
        assert panel.data.sparse.background_value() == 200

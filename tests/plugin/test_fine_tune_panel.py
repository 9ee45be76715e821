"""The Fine-tune dock, from the manifest to the Labels layer, with real training."""

from __future__ import annotations

import time
from dataclasses import replace

import dask.array
import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QLabel,
    QListWidget,
    QWidget,
)
from tests.phantom import TINY, VALUES, keep_slices, make_phantom

from medsaga import (
    PRESETS,
    FineTuneSettings,
    MedsagaError,
    ModelLibrary,
    describe,
    estimate_time,
    load_card,
)
from napari_medsaga import _annotation, _fine_tune_panel
from napari_medsaga._layers import class_names, geometry_of, world_affine
from napari_medsaga._predictions import prediction_of
from napari_medsaga._sparse_form import SPARSE_SETTINGS

ANNOTATED = [1, 4, 7, 10]
NAMES = {1: "bright", 5: "dark", 117: "white"}
COLOURS = {1: "#ff0000", 5: "#00ff00", 117: "#0000ff", None: "#ffffff", 0: "#00000000"}
TIMEOUT = 60_000

TINY = replace(TINY, steps=4, head_steps=40)
# So many steps that a test always comes before the end.
LONG = replace(TINY, steps=5000)


@pytest.fixture(scope="session")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    return make_phantom()


@pytest.fixture
def viewer(engine, make_napari_viewer):
    return make_napari_viewer(show=True)


@pytest.fixture
def layers(viewer, arrays):
    place = {
        "scale": (2, 0.5, 0.7),
        "translate": (10, -4, 3),
        "rotate": (5, 10, 15),
        "shear": (0.1, 0.0, 0.05),
        "units": ("mm", "mm", "mm"),
        "axis_labels": ("z", "y", "x"),
    }
    image = viewer.add_image(arrays[0], name="blobs", **place)
    labels = viewer.add_labels(
        keep_slices(arrays[1], ANNOTATED),
        name="painted",
        features={"index": list(NAMES), "name": list(NAMES.values())},
        colormap=COLOURS,
        **place,
    )
    return image, labels


def open_dock(viewer, qtbot, settings=TINY):
    _, panel = viewer.window.add_plugin_dock_widget("napari-medsaga", "Fine-tune")
    panel.plan.set_settings(settings)
    return panel


def wait_until_ready(panel, qtbot):
    qtbot.waitUntil(panel.run.start.isEnabled, timeout=TIMEOUT)


def click_and_wait(panel, qtbot):
    wait_until_ready(panel, qtbot)
    panel.run.status.clear()  # a training that fails at once is over before it is seen
    panel.run.start.click()
    qtbot.waitUntil(
        lambda: panel.training is None and bool(panel.run.status.text()),
        timeout=TIMEOUT,
    )


def start_and_preview(panel, qtbot):
    """Click, and give the training once its first preview stands."""
    wait_until_ready(panel, qtbot)
    panel.run.start.click()
    qtbot.waitUntil(lambda: panel.training is not None, timeout=TIMEOUT)
    training = panel.training
    qtbot.waitUntil(
        lambda: training.layers.previewed is not None or panel.training is None,
        timeout=TIMEOUT,
    )
    assert training.layers.previewed is not None
    return training


def wait_for_model(qtbot, n: int = 1):
    qtbot.waitUntil(lambda: len(ModelLibrary().entries()) == n, timeout=TIMEOUT)
    return ModelLibrary().entries()[0]


def trained_slices(card) -> list[int]:
    names = [name for name, _ in [*card.training_slices, *card.held_out_slices]]
    indices = [i for _, i in [*card.training_slices, *card.held_out_slices]]
    assert len(names) == len(set(map(tuple, zip(names, indices, strict=True))))
    return sorted(indices)


@pytest.fixture
def panel(viewer, layers, qtbot):
    return open_dock(viewer, qtbot)


class TestOneClick:
    def test_it_ends_in_a_labels_layer_of_the_whole_volume(
        self, panel, viewer, layers, arrays, qtbot
    ):
        image, labels = layers
        before = labels.data.copy()
        click_and_wait(panel, qtbot)
        result = viewer.layers["blobs segmented"]
        assert isinstance(result, Labels)
        assert result.data.shape == image.data.shape
        assert set(np.unique(result.data)) <= {0, *VALUES}
        # Every slice is segmented, the unannotated ones too, and well.
        for value in VALUES:
            truth, found = arrays[1] == value, result.data == value
            dice = 2 * (truth & found).sum() / (truth.sum() + found.sum())
            assert dice > 0.5
        np.testing.assert_array_equal(labels.data, before)
        assert [layer.name for layer in viewer.layers] == [
            "blobs",
            "painted",
            "blobs segmented",
        ]

    def test_the_result_lies_exactly_on_the_image(self, panel, viewer, layers, qtbot):
        click_and_wait(panel, qtbot)
        result, image = viewer.layers["blobs segmented"], layers[0]
        corners = np.stack(np.meshgrid(*[(0, n) for n in image.data.shape]), -1)
        for corner in corners.reshape(-1, 3):
            np.testing.assert_allclose(
                result.data_to_world(corner), image.data_to_world(corner), atol=1e-9
            )
        assert result.units == image.units
        assert result.axis_labels == image.axis_labels

    def test_values_names_and_colours_are_those_that_were_painted(
        self, panel, viewer, layers, qtbot
    ):
        click_and_wait(panel, qtbot)
        result = viewer.layers["blobs segmented"]
        names = class_names(result)
        assert {v: names[v] for v in VALUES} == NAMES
        for value in VALUES:
            np.testing.assert_allclose(
                result.colormap.map(value), layers[1].colormap.map(value), atol=0.01
            )
        card = ModelLibrary().entries()[0].card
        assert dict(zip(card.classes.values, card.classes.names, strict=True)) == {
            0: "background",
            **NAMES,
        }

    def test_the_model_is_kept_and_the_dock_says_how_good_it_is(self, panel, qtbot):
        click_and_wait(panel, qtbot)
        (entry,) = ModelLibrary().entries()
        assert entry.name == "blobs"
        assert trained_slices(entry.card) == ANNOTATED
        text = panel.run.status.text()
        for name, value in zip(NAMES.values(), VALUES, strict=True):
            assert f"{name} {entry.card.metrics['dice'][str(value)]:.2f}" in text
        assert "training slices" in text
        assert "blobs" in text
        assert panel.run.start.isEnabled()
        assert not panel.run.stop.isEnabled()

    def test_the_plot_has_the_loss_of_every_step_and_dice_per_class(self, panel, qtbot):
        click_and_wait(panel, qtbot)
        points = panel.run.plot.loss_points()
        assert [step for step, _ in points] == [1, 2, 3, 4]
        assert np.isfinite([loss for _, loss in points]).all()
        dice = ModelLibrary().entries()[0].card.metrics["dice"]
        for value in VALUES:
            assert panel.run.plot.dice_points(value)[-1][1] == dice[str(value)]

    def test_without_the_tick_nothing_is_segmented(self, panel, viewer, qtbot):
        panel.run.segments.setChecked(False)
        click_and_wait(panel, qtbot)
        assert len(viewer.layers) == 2
        assert len(ModelLibrary().entries()) == 1

    def test_a_second_result_is_a_layer_of_its_own(self, panel, viewer, qtbot):
        click_and_wait(panel, qtbot)
        first = viewer.layers["blobs segmented"].data.copy()
        panel.data.labels.choose(viewer.layers["painted"])
        click_and_wait(panel, qtbot)
        assert "blobs segmented 2" in viewer.layers
        np.testing.assert_array_equal(viewer.layers["blobs segmented"].data, first)


class TestOtherLayers:
    def test_a_plane_image_in_colour(self, viewer, arrays, qtbot):
        picture = np.repeat(arrays[0][4][..., None], 3, -1).clip(0, 255)
        viewer.add_image(picture.astype(np.uint8), rgb=True, name="photo")
        viewer.add_labels(arrays[1][4], name="painted")
        panel = open_dock(viewer, qtbot)
        click_and_wait(panel, qtbot)
        assert viewer.layers["photo segmented"].data.shape == arrays[1][4].shape
        assert set(np.unique(viewer.layers["photo segmented"].data)) & set(VALUES)

    def test_a_volume_in_colour(self, viewer, arrays, qtbot):
        picture = np.repeat(arrays[0][..., None], 3, -1).clip(0, 255)
        viewer.add_image(picture.astype(np.uint8), rgb=True, name="photos")
        viewer.add_labels(keep_slices(arrays[1], ANNOTATED), name="painted")
        panel = open_dock(viewer, qtbot)
        click_and_wait(panel, qtbot)
        assert viewer.layers["photos segmented"].data.shape == arrays[1].shape

    def test_a_dask_image_gives_the_same_as_an_array(self, viewer, arrays, qtbot):
        lazy = dask.array.from_array(arrays[0], chunks=(1, 40, 40))
        viewer.add_image(lazy, name="lazy", contrast_limits=(0, 255))
        viewer.add_labels(keep_slices(arrays[1], ANNOTATED), name="painted")
        panel = open_dock(viewer, qtbot)
        click_and_wait(panel, qtbot)
        viewer.add_image(arrays[0], name="plain")
        panel.data.image.choose(viewer.layers["plain"])
        panel.data.labels.choose(viewer.layers["painted"])
        panel.plan.set_settings(TINY)
        click_and_wait(panel, qtbot)
        lazy_result = viewer.layers["lazy segmented"].data
        np.testing.assert_array_equal(
            lazy_result, viewer.layers["plain segmented"].data
        )

    def test_a_multiscale_image_trains_at_full_resolution(self, viewer, arrays, qtbot):
        image = arrays[0]
        viewer.add_image([image, image[:, ::2, ::2]], multiscale=True, name="pyramid")
        viewer.add_labels(keep_slices(arrays[1], ANNOTATED), name="painted")
        panel = open_dock(viewer, qtbot)
        click_and_wait(panel, qtbot)
        assert viewer.layers["pyramid segmented"].data.shape == image.shape

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_slices_painted_across_any_axis(self, viewer, arrays, qtbot, axis):
        image, labels = (np.moveaxis(a, 0, axis) for a in arrays)
        painted = np.moveaxis(keep_slices(arrays[1], ANNOTATED), 0, axis)
        viewer.add_image(np.ascontiguousarray(image), name="turned")
        viewer.add_labels(np.ascontiguousarray(painted), name="painted")
        panel = open_dock(viewer, qtbot)
        click_and_wait(panel, qtbot)
        (entry,) = ModelLibrary().entries()
        assert entry.card.axis == axis
        assert trained_slices(entry.card) == ANNOTATED
        found = viewer.layers["turned segmented"].data
        assert ((found > 0) & (labels > 0)).sum() > 0.5 * (labels > 0).sum()

    def test_four_axes_are_refused_in_a_sentence(self, viewer, qtbot):
        viewer.add_image(np.zeros((2, 3, 8, 8)), name="film")
        viewer.add_labels(np.ones((3, 8, 8), int), name="painted")
        panel = open_dock(viewer, qtbot)
        qtbot.waitUntil(lambda: "4 axes" in sentence(panel), timeout=TIMEOUT)
        assert not panel.run.start.isEnabled()

    def test_labels_of_another_shape_are_refused_in_a_sentence(self, viewer, qtbot):
        viewer.add_image(np.zeros((3, 8, 8)), name="small")
        viewer.add_labels(np.ones((3, 9, 8), int), name="painted")
        panel = open_dock(viewer, qtbot)
        qtbot.waitUntil(lambda: "drawn on this image" in sentence(panel))
        assert not panel.run.start.isEnabled()


def sentence(panel) -> str:
    return panel.findChild(QLabel, "annotated").text()


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
        qtbot.waitUntil(lambda: "Add a Labels layer" in sentence(panel))
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


def listed(panel) -> list[str]:
    slices = panel.findChild(QListWidget, "slices")
    return [slices.item(i).text() for i in range(slices.count())]


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
        sparse, background = map(panel.data._sparse.control, SPARSE_SETTINGS)
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
        assert panel.data._sparse.background_value() == 200


class TestLayerChoices:
    def test_they_follow_what_is_added_renamed_and_deleted(self, panel, viewer, layers):
        image, labels = panel.data.image, panel.data.labels
        assert [image.itemText(i) for i in range(image.count())] == ["blobs"]
        assert [labels.itemText(i) for i in range(labels.count())] == ["painted"]
        second = viewer.add_image(np.zeros((3, 4, 4)), name="second")
        assert image.count() == 2
        assert image.layer() is layers[0]
        layers[0].name = "renamed"
        assert image.currentText() == "renamed"
        viewer.layers.remove(layers[0])
        assert image.layer() is second
        viewer.layers.remove(second)
        assert image.layer() is None


class TestStopAndPause:
    def test_stop_keeps_the_best_so_far(self, panel, viewer, qtbot):
        panel.plan.set_settings(LONG)
        training = start_and_preview(panel, qtbot)
        panel.run.stop.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        entry = wait_for_model(qtbot)
        assert trained_slices(entry.card) == ANNOTATED
        assert "Stopped" in panel.run.status.text()
        assert training.layers.preview.is_deleted
        assert len(viewer.layers) == 2
        wait_until_ready(panel, qtbot)

    def test_a_paused_training_waits_and_goes_on(self, panel, qtbot):
        panel.plan.set_settings(replace(TINY, steps=20))
        start_and_preview(panel, qtbot)
        panel.run.pause.click()
        qtbot.wait(500)  # the step under way ends
        reached = len(panel.run.plot.loss_points())
        assert reached < 20
        qtbot.wait(500)
        assert len(panel.run.plot.loss_points()) == reached
        panel.run.pause.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        assert len(panel.run.plot.loss_points()) == 20

    def test_a_paused_training_can_be_stopped(self, panel, qtbot):
        panel.plan.set_settings(LONG)
        start_and_preview(panel, qtbot)
        panel.run.pause.click()
        panel.run.stop.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        wait_for_model(qtbot)

    def test_while_it_runs_it_cannot_be_started_again(self, panel, qtbot):
        panel.plan.set_settings(LONG)
        start_and_preview(panel, qtbot)
        assert not panel.run.start.isEnabled()
        panel.run.stop.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)


class TestPreview:
    def test_it_follows_the_slice_that_is_looked_at(self, panel, viewer, layers, qtbot):
        panel.plan.set_settings(LONG)
        training = start_and_preview(panel, qtbot)
        preview = training.layers.preview.layer
        for index in (2, 9):
            world = layers[0].data_to_world((index, 20, 20))
            viewer.dims.set_point(0, world[0])
            shown = training.image.world_to_data(viewer.dims.point)[0]
            wanted = int(np.clip(round(shown), 0, 11))
            qtbot.waitUntil(
                lambda w=wanted: (
                    list(np.flatnonzero(preview.data.any(axis=(1, 2)))) == [w]
                ),
                timeout=TIMEOUT,
            )
        panel.run.stop.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)

    def test_it_is_not_offered_as_labels_and_leaves_the_selection(
        self, panel, viewer, layers, qtbot
    ):
        viewer.layers.selection.active = layers[1]
        panel.plan.set_settings(LONG)
        start_and_preview(panel, qtbot)
        labels = panel.data.labels
        assert [labels.itemText(i) for i in range(labels.count())] == ["painted"]
        assert viewer.layers.selection.active is layers[1]
        panel.run.stop.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)


class TestLayersChangeUnderATraining:
    @pytest.mark.parametrize("which", [0, 1])
    def test_a_layer_is_deleted(self, panel, viewer, layers, arrays, qtbot, which):
        panel.plan.set_settings(replace(TINY, steps=12))
        start_and_preview(panel, qtbot)
        geometry = world_affine(layers[0])
        viewer.layers.remove(layers[which])
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        result = viewer.layers["blobs segmented"]
        assert result.data.any()
        np.testing.assert_allclose(world_affine(result), geometry, atol=1e-9)

    def test_the_image_gets_another_shape(self, panel, viewer, layers, arrays, qtbot):
        panel.plan.set_settings(replace(TINY, steps=12))
        start_and_preview(panel, qtbot)
        layers[0].data = arrays[0][:5, :20, :20]
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        assert viewer.layers["blobs segmented"].data.shape == arrays[0].shape

    def test_painting_goes_on_and_changes_nothing_that_trains(
        self, panel, layers, arrays, qtbot, viewer
    ):
        click_and_wait(panel, qtbot)
        expected = ModelLibrary().entries()[0].card.data_fingerprint
        panel.data.labels.choose(layers[1])
        panel.plan.set_settings(replace(TINY, steps=12))
        wait_until_ready(panel, qtbot)
        panel.run.start.click()
        qtbot.waitUntil(lambda: panel.training is not None, timeout=TIMEOUT)
        layers[1].data[4] = 77
        layers[1].refresh()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        card = load_card(max(e.path for e in ModelLibrary().entries()))
        assert card.data_fingerprint == expected
        assert 77 not in card.classes.values
        assert (layers[1].data[4] == 77).all()

    def test_the_preview_is_deleted_and_does_not_come_back(self, panel, viewer, qtbot):
        panel.plan.set_settings(replace(TINY, steps=20))
        training = start_and_preview(panel, qtbot)
        viewer.layers.remove(training.layers.preview.layer)
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        assert "MedSAGa preview" not in viewer.layers
        assert "blobs segmented" in viewer.layers

    def test_the_result_is_deleted_while_it_fills(self, panel, viewer, qtbot):
        wait_until_ready(panel, qtbot)
        panel.run.start.click()
        qtbot.waitUntil(lambda: panel.training is not None, timeout=TIMEOUT)
        training = panel.training
        qtbot.waitUntil(
            lambda: training.layers.result.layer is not None, timeout=TIMEOUT
        )
        viewer.layers.remove(training.layers.result.layer)
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        assert "blobs segmented" not in viewer.layers
        wait_until_ready(panel, qtbot)

    def test_the_dock_is_closed_and_the_best_model_kept(self, panel, viewer, qtbot):
        panel.plan.set_settings(LONG)
        start_and_preview(panel, qtbot)
        viewer.window.remove_dock_widget(panel)
        entry = wait_for_model(qtbot)
        assert trained_slices(entry.card) == ANNOTATED
        qtbot.waitUntil(lambda: "MedSAGa preview" not in viewer.layers)

    def test_the_viewer_is_closed_and_the_best_model_kept(self, panel, viewer, qtbot):
        panel.plan.set_settings(LONG)
        start_and_preview(panel, qtbot)
        viewer.close()
        wait_for_model(qtbot)

    def test_a_second_training_waits_for_the_first(self, panel, viewer, qtbot):
        panel.plan.set_settings(LONG)
        first = start_and_preview(panel, qtbot)
        other = open_second_dock(viewer)
        other.plan.set_settings(TINY)
        wait_until_ready(other, qtbot)
        other.run.start.click()
        qtbot.waitUntil(lambda: other.training is not None, timeout=TIMEOUT)
        qtbot.wait(300)
        assert other.training.job.is_waiting
        assert "Waiting" in other.run.status.text()
        assert not first.job.is_waiting
        panel.run.stop.click()
        qtbot.waitUntil(lambda: other.training is None, timeout=TIMEOUT)
        assert len(ModelLibrary().entries()) == 2


def open_second_dock(viewer):
    panel = _fine_tune_panel.FineTunePanel(viewer)
    viewer.window.add_dock_widget(panel, name="another")
    return panel


def segment_only(viewer, qtbot, name):
    """Segment one image layer in the Segment dock."""
    _, dock = viewer.window.add_plugin_dock_widget("napari-medsaga", "Segment")
    images = dock.findChild(QListWidget, "images")
    for index in range(images.count()):
        item = images.item(index)
        is_wanted = item.text() == name
        item.setCheckState(
            Qt.CheckState.Checked if is_wanted else Qt.CheckState.Unchecked
        )
    button = dock.findChild(QAbstractButton, "segment")
    qtbot.waitUntil(button.isEnabled, timeout=TIMEOUT)
    button.click()
    qtbot.waitUntil(button.isEnabled, timeout=TIMEOUT)


def train_and_predict_another(panel, viewer, arrays, qtbot):
    """Give the model of one image, and the layer that it predicted on another."""
    panel.run.segments.setChecked(False)
    click_and_wait(panel, qtbot)
    first = ModelLibrary().entries()[0]
    viewer.add_image(arrays[0][:6].copy(), name="other")
    segment_only(viewer, qtbot, "other")
    return first, viewer.layers["other – blobs"]


class TestErrors:
    def test_a_sentence_of_the_engine_is_shown_once(
        self, panel, qtbot, monkeypatch, capsys
    ):
        shown = []
        monkeypatch.setattr(_fine_tune_panel, "show_error", shown.append)
        monkeypatch.setattr(
            _fine_tune_panel, "run_training", raising(MedsagaError("Do this instead."))
        )
        click_and_wait(panel, qtbot)
        assert shown == ["Do this instead."]
        assert panel.run.status.text() == "Do this instead."
        wait_until_ready(panel, qtbot)

    def test_nothing_waits_that_is_alone(self, panel, qtbot):
        said = []
        panel.run.status.setText("")
        wait_until_ready(panel, qtbot)
        panel.run.start.click()
        qtbot.waitUntil(lambda: panel.training is not None, timeout=TIMEOUT)
        panel.training.job.waits.connect(lambda: said.append(1))
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        assert not said

    @pytest.mark.parametrize("kind", [RuntimeError, ValueError])
    def test_anything_else_comes_with_its_traceback(
        self, panel, qtbot, monkeypatch, kind
    ):
        monkeypatch.setattr(
            _fine_tune_panel, "run_training", raising(kind("out of memory"))
        )
        wait_until_ready(panel, qtbot)
        with qtbot.capture_exceptions() as caught:
            panel.run.start.click()
            qtbot.waitUntil(lambda: bool(caught), timeout=TIMEOUT)
        assert caught[0][0] is kind
        assert caught[0][2] is not None
        wait_until_ready(panel, qtbot)

    def test_contradicting_settings_are_said_before_the_start(self, panel, qtbot):
        wait_until_ready(panel, qtbot)
        panel.plan._form.control("detail_head").setChecked(False)
        assert "switch detail_head on" in panel.run.plan.text()
        assert not panel.run.start.isEnabled()


def raising(error):
    def run(_):
        raise error
        yield

    return run


class TestWhatIsClickedIsWhatTrains:
    """The annotation is looked at in a thread: no old answer may start a training."""

    @pytest.fixture
    def slow(self, monkeypatch):
        report = _annotation.report_annotation

        def slowly(query):
            time.sleep(0.4)
            return report(query)

        monkeypatch.setattr(_annotation, "report_annotation", slowly)

    def test_the_last_stroke_trains(self, slow, panel, layers, qtbot):
        wait_until_ready(panel, qtbot)
        panel.data.look_again()  # its answer is under way when the stroke comes
        qtbot.wait(50)
        layers[1].data_setitem((np.full(40, 6), np.arange(40), np.full(40, 20)), 5)
        panel.run.start.click()
        qtbot.waitUntil(lambda: panel.training is not None, timeout=TIMEOUT)
        assert panel.training.request.slices == (1, 4, 6, 7, 10)
        panel.run.stop.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)

    def test_the_layer_that_is_chosen_trains(
        self, slow, panel, viewer, layers, arrays, qtbot
    ):
        other = viewer.add_labels(keep_slices(arrays[1], [2, 3]), name="other")
        other.scale, other.translate = layers[1].scale, layers[1].translate
        other.rotate, other.shear = layers[1].rotate, layers[1].shear
        panel.data.labels.choose(layers[1])
        wait_until_ready(panel, qtbot)
        panel.data.look_again()
        qtbot.wait(50)
        panel.data.labels.choose(other)
        panel.run.start.click()
        qtbot.waitUntil(lambda: panel.training is not None, timeout=TIMEOUT)
        assert panel.training.request.slices == (2, 3)
        panel.run.stop.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)

    def test_a_dock_that_was_closed_starts_nothing(self, slow, panel, viewer, qtbot):
        wait_until_ready(panel, qtbot)
        panel.run.start.click()
        viewer.window.remove_dock_widget(panel)
        qtbot.wait(900)
        assert panel.training is None


class TestNothingIsLost:
    def test_what_is_painted_on_the_result_while_it_fills_stays(
        self, panel, viewer, qtbot
    ):
        wait_until_ready(panel, qtbot)
        panel.run.start.click()
        qtbot.waitUntil(lambda: panel.training is not None, timeout=TIMEOUT)
        result = panel.training.layers.result
        qtbot.waitUntil(lambda: result.layer is not None, timeout=TIMEOUT)
        result.layer.data[-1, :3, :3] = 99
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        assert (viewer.layers["blobs segmented"].data[-1, :3, :3] == 99).all()

    def test_other_data_in_the_result_are_left_alone(self, panel, viewer, qtbot):
        panel.plan.set_settings(replace(TINY, steps=8))
        training = start_and_preview(panel, qtbot)
        mine = np.full((3, 4, 5), 7)
        training.layers.preview.layer.data = mine
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        assert "blobs segmented" in viewer.layers
        assert (mine == 7).all()


class TestCorrections:
    def test_a_renamed_model_is_still_trained_on(self, panel, viewer, layers, qtbot):
        click_and_wait(panel, qtbot)
        predicted = viewer.layers["blobs segmented"]
        predicted.data_setitem((np.array([2]), np.array([3]), np.array([3])), 1)
        qtbot.waitUntil(lambda: panel.data.labels.layer() is predicted)
        renamed = ModelLibrary().rename(ModelLibrary().entries()[0].path, "liver")
        qtbot.waitUntil(lambda: panel.plan.start_model() == renamed, timeout=TIMEOUT)
        click_and_wait(panel, qtbot)
        assert {e.card.base_weights for e in ModelLibrary().entries()} == {
            "tiny",
            "liver",
        }

    def test_painting_the_originals_goes_back_to_them(
        self, panel, viewer, layers, qtbot
    ):
        click_and_wait(panel, qtbot)
        predicted = viewer.layers["blobs segmented"]
        predicted.data_setitem((np.array([2]), np.array([3]), np.array([3])), 1)
        assert panel.data.labels.layer() is predicted
        assert panel.plan.start_model() is not None
        layers[1].data_setitem((np.array([2]), np.array([3]), np.array([3])), 1)
        assert panel.data.labels.layer() is layers[1]
        assert panel.plan.start_model() is None
        assert panel.plan.settings().backbone == "tiny"

    def test_a_dock_that_is_opened_later_follows_the_brush_too(
        self, panel, viewer, qtbot
    ):
        click_and_wait(panel, qtbot)
        viewer.window.remove_dock_widget(panel)
        again = open_second_dock(viewer)
        predicted = viewer.layers["blobs segmented"]
        again.data.labels.choose(viewer.layers["painted"])
        predicted.data_setitem((np.array([2]), np.array([3]), np.array([3])), 1)
        assert again.data.labels.layer() is predicted

    def test_changed_and_original_slices_train_and_nothing_else(
        self, panel, viewer, layers, arrays, qtbot
    ):
        click_and_wait(panel, qtbot)
        first = ModelLibrary().entries()[0]
        predicted = viewer.layers["blobs segmented"]
        kept = predicted.data.copy()
        for index in (2, 8):
            predicted.data_setitem(
                (np.full(9, index), np.arange(3, 12), np.full(9, 35)), 5
            )
        qtbot.waitUntil(lambda: panel.data.labels.layer() is predicted)
        slices = panel.findChild(QWidget, "slices")
        qtbot.waitUntil(
            lambda: (
                [slices.item(i).text() for i in range(slices.count())]
                == ["1", "2 changed", "4", "7", "8 changed", "10"]
            )
        )
        assert "2 slices of the predicted layer changed, 4 more" in sentence(panel)
        assert panel.plan.start_model() == first.path
        edited = predicted.data.copy()
        click_and_wait(panel, qtbot)
        card = next(e.card for e in ModelLibrary().entries() if e.path != first.path)
        assert trained_slices(card) == [1, 2, 4, 7, 8, 10]
        assert card.base_weights == first.name
        # What the user edited is still there, and the new result is another layer.
        np.testing.assert_array_equal(predicted.data, edited)
        assert (edited != kept).any()
        second = viewer.layers["blobs segmented 2"]
        trained = prediction_of(second).trained
        np.testing.assert_array_equal(trained[2], edited[2])
        np.testing.assert_array_equal(trained[4], layers[1].data[4])

    def test_corrections_on_another_image_train_with_the_originals(
        self, panel, viewer, layers, arrays, qtbot
    ):
        first, predicted = train_and_predict_another(panel, viewer, arrays, qtbot)
        for index in (2, 5):
            predicted.data_setitem(
                (np.full(9, index), np.arange(3, 12), np.full(9, 35)), 5
            )
        panel.data.image.choose(viewer.layers["other"])
        qtbot.waitUntil(lambda: panel.data.labels.layer() is predicted)
        slices = panel.findChild(QWidget, "slices")
        originals = [f"blobs [{i}]" for i in ANNOTATED]
        qtbot.waitUntil(
            lambda: (
                [slices.item(i).text() for i in range(slices.count())]
                == ["2 changed", "5 changed", *originals]
            )
        )
        assert "2 slices of the predicted layer changed, 4 more" in sentence(panel)
        slices.item(3).setCheckState(Qt.CheckState.Unchecked)
        # They go with the model that they trained, and with no other start.
        panel.plan.set_settings(TINY)
        wait_until_ready(panel, qtbot)
        panel.run.start.click()
        qtbot.waitUntil(lambda: "choose it under Start" in panel.run.status.text())
        assert panel.training is None
        panel.plan.continue_from(first.path)
        click_and_wait(panel, qtbot)
        card = next(e.card for e in ModelLibrary().entries() if e.path != first.path)
        assert card.base_weights == first.name
        wanted = [("blobs [1]", 1), ("blobs [7]", 7), ("blobs [10]", 10)]
        assert sorted(map(tuple, [*card.training_slices, *card.held_out_slices])) == [
            *sorted(wanted),
            ("other [2]", 2),
            ("other [5]", 5),
        ]

    def test_emptying_a_slice_is_a_correction_too(self, panel, viewer, arrays, qtbot):
        first, predicted = train_and_predict_another(panel, viewer, arrays, qtbot)
        place = np.nonzero(predicted.data[2])
        predicted.data_setitem((np.full(len(place[0]), 2), *place), 0)
        panel.data.image.choose(viewer.layers["other"])
        qtbot.waitUntil(lambda: "1 slice of the predicted" in sentence(panel))
        click_and_wait(panel, qtbot)
        card = next(e.card for e in ModelLibrary().entries() if e.path != first.path)
        assert card.classes.values == (0, *VALUES)
        assert len(card.training_slices) == 5

    def test_the_originals_train_as_they_were_painted(
        self, panel, viewer, layers, qtbot
    ):
        click_and_wait(panel, qtbot)
        painted = layers[1].data.copy()
        viewer.layers.remove(layers[1])
        predicted = viewer.layers["blobs segmented"]
        predicted.data_setitem((np.array([2]), np.array([3]), np.array([3])), 1)
        qtbot.waitUntil(lambda: panel.data.labels.layer() is predicted)
        click_and_wait(panel, qtbot)
        trained = prediction_of(viewer.layers["blobs segmented 2"]).trained
        for index in ANNOTATED:
            np.testing.assert_array_equal(trained[index], painted[index])

    def test_an_undone_correction_is_none(self, panel, viewer, qtbot):
        click_and_wait(panel, qtbot)
        predicted = viewer.layers["blobs segmented"]
        predicted.data_setitem((np.array([2]), np.array([3]), np.array([3])), 1)
        qtbot.waitUntil(lambda: "1 slice of the predicted layer" in sentence(panel))
        predicted.undo()
        qtbot.waitUntil(lambda: "Nothing of the predicted" in sentence(panel))

    def test_a_new_class_on_a_corrected_slice_is_learned_too(
        self, panel, viewer, qtbot
    ):
        click_and_wait(panel, qtbot)
        predicted = viewer.layers["blobs segmented"]
        predicted.data[3, 5:25, 2:22] = 9
        predicted.events.paint(value=[])
        qtbot.waitUntil(lambda: panel.data.labels.layer() is predicted)
        click_and_wait(panel, qtbot)
        card = load_card(prediction_of(viewer.layers["blobs segmented 2"]).model)
        assert card.classes.values == (0, 1, 5, 9, 117)


class TestPlan:
    def test_the_time_comes_from_a_measured_step(self, panel, viewer, qtbot):
        """Once the default is measured, which is done once in a process."""
        text = panel.run.plan.text
        qtbot.waitUntil(lambda: panel._watch.speed is not None, timeout=TIMEOUT)
        qtbot.waitUntil(lambda: bool(panel._watch.computer), timeout=TIMEOUT)
        wait_until_ready(panel, qtbot)
        settings = replace(PRESETS["balanced"], steps=10)
        panel.plan.set_settings(settings)
        report = panel.data.report()
        estimate = estimate_time(panel._watch.speed, settings, report.image, 0)
        assert f"(10 steps of {estimate.seconds_per_step:.2g} s)" in text()
        assert ", 12 slices segmented in" in text()
        assert "GB free: preview in 10 s" in text()
        panel.run.segments.setChecked(False)
        assert "segmented" not in text()
        panel.plan.set_settings(PRESETS["balanced"])
        assert "steps of" in text()

    def test_every_setting_has_a_control_with_its_help(self, panel):
        for setting in describe(FineTuneSettings):
            if setting.name == "backbone":
                continue
            is_sparse = setting.name in SPARSE_SETTINGS
            form = panel.data._sparse if is_sparse else panel.plan._form
            control = form.control(setting.name)
            assert control.toolTip() == setting.help, setting.name

    def test_the_form_gives_back_exactly_what_it_was_given(self, panel):
        for name, settings in PRESETS.items():
            panel.plan._form.set_value(settings)
            assert panel.plan._form.value() == settings, name

    def test_a_preset_sets_everything_and_reset_sets_it_back(self, panel):
        panel.findChild(QAbstractButton, "thorough").click()
        assert panel.plan.settings().max_long_side == 256
        panel.plan._form.control("rank").setValue(7)
        assert panel.plan.settings().rank == 7
        panel.findChild(QAbstractButton, "advanced").click()
        panel.findChild(QAbstractButton, "reset").click()
        # The backbone that the user chose stays.
        assert panel.plan.settings() == replace(PRESETS["thorough"], backbone="tiny")

    def test_sam_is_greyed_where_its_weights_are_not(
        self, viewer, layers, qtbot, monkeypatch, tmp_path
    ):
        for name in ("MEDSAGA_WEIGHTS", "XDG_CACHE_HOME", "TORCH_HOME"):
            monkeypatch.setenv(name, str(tmp_path))
        panel = open_dock(viewer, qtbot)
        start = panel.findChild(QComboBox, "start")
        (row,) = [i for i in range(start.count()) if "vit_l" in start.itemText(i)]
        assert not start.model().item(row).isEnabled()
        assert "dl.fbaipublicfiles.com" in start.model().item(row).toolTip()
        assert not panel.findChild(QAbstractButton, "paper").isEnabled()

    def test_a_trained_model_can_be_started_from(self, panel, layers, qtbot):
        click_and_wait(panel, qtbot)
        (entry,) = ModelLibrary().entries()
        start = panel.findChild(QComboBox, "start")
        qtbot.waitUntil(lambda: start.findText(f"my model {entry.name}") > 0)
        panel.data.labels.choose(layers[1])
        panel.plan.continue_from(entry.path)
        click_and_wait(panel, qtbot)
        assert {e.card.base_weights for e in ModelLibrary().entries()} == {
            "tiny",
            entry.name,
        }


class TestKeyboardAndHelp:
    def test_everything_has_a_tooltip_and_can_be_reached_by_tab(self, panel):
        controls = [
            widget
            for kind in (QAbstractButton, QComboBox, QAbstractSpinBox)
            for widget in panel.findChildren(kind)
            if not widget.objectName().startswith("qt_")
            and not isinstance(widget.parent(), QAbstractSpinBox)
        ]
        assert len(controls) > 30
        for control in controls:
            if not control.isVisibleTo(panel) and control.focusPolicy() == 0:
                continue
            assert control.toolTip() or inherited_tooltip(control), control.objectName()

    def test_the_buttons_have_mnemonics_that_no_menu_of_napari_has(self, panel, viewer):
        menus = viewer.window._qt_window.menuBar().actions()
        taken = {a.text()[a.text().index("&") + 1] for a in menus if "&" in a.text()}
        texts = [x.text() for x in (panel.run.start, panel.run.pause, panel.run.stop)]
        keys = {text[text.index("&") + 1].upper() for text in texts}
        assert len(keys) == 3
        assert taken
        assert not keys & {key.upper() for key in taken}

    def test_tab_leaves_out_what_is_folded_away(self, panel, qtbot):
        control = panel.plan._form.control("rank")
        assert not control.isEnabled()
        panel.findChild(QAbstractButton, "advanced").click()
        assert control.isEnabled()

    def test_the_dock_fits_a_small_screen(self, panel):
        assert panel.minimumSizeHint().height() < 700
        assert panel.minimumSizeHint().width() < 420


def inherited_tooltip(widget) -> str:
    parent = widget.parentWidget()
    while parent is not None and not parent.toolTip():
        parent = parent.parentWidget()
    return "" if parent is None else parent.toolTip()


def test_deleting_what_was_added_leaves_all_as_it_was(panel, viewer, layers, qtbot):
    state = [(layer.name, geometry_of(layer)["scale"].tolist()) for layer in layers]
    data = [np.array(layer.data) for layer in layers]
    click_and_wait(panel, qtbot)
    viewer.layers.remove("blobs segmented")
    assert list(viewer.layers) == list(layers)
    assert state == [(x.name, geometry_of(x)["scale"].tolist()) for x in layers]
    for layer, array in zip(layers, data, strict=True):
        np.testing.assert_array_equal(layer.data, array)


def test_a_layer_of_the_wrong_type_is_turned_into_the_other(
    panel, viewer, layers, arrays
):
    wrong = viewer.add_image(arrays[1], name="segmented", scale=layers[0].scale)
    panel.data.image.choose(wrong)
    panel.findChild(QAbstractButton, "to_labels").click()
    turned = viewer.layers["segmented"]
    assert isinstance(turned, Labels)
    np.testing.assert_array_equal(turned.data, arrays[1])
    np.testing.assert_allclose(world_affine(turned), world_affine(wrong))
    panel.data.labels.choose(turned)
    panel.findChild(QAbstractButton, "to_image").click()
    assert not isinstance(viewer.layers["segmented"], Labels)
    assert len(viewer.layers) == 3

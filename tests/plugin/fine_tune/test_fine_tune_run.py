"""Training from the Fine-tune dock, from one click to the Labels layer."""

from __future__ import annotations

import re
from dataclasses import replace
from unittest.mock import Mock

import dask.array as da
import numpy as np
import pyqtgraph as pg
import pytest
from napari.layers import Labels
from qtpy.QtWidgets import QComboBox
from tests.phantom import VALUES
from tests.plugin.fine_tune.dock import (
    ANNOTATED,
    COLOURS,
    LONG,
    NAMES,
    TIMEOUT,
    TINY,
    click_and_wait,
    sentence,
    start_and_preview,
    trained_slices,
    wait_for_model,
    wait_until_ready,
)

import medsaga
from medsaga import MedsagaError, ModelLibrary, Stop
from medsaga.events import Saved
from napari_medsaga.fine_tune import panel as panel_module
from napari_medsaga.fine_tune import under_way
from napari_medsaga.fine_tune.training import run_training
from napari_medsaga.layers.convert import class_names, geometry_of
from napari_medsaga.layers.predictions import prediction_of


def dice_plot(panel) -> pg.PlotItem:
    return panel.run.plot.findChild(pg.GraphicsLayoutWidget).getItem(1, 0)


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

    def test_values_below_zero_are_predicted_as_they_were_painted(
        self, panel, viewer, layers, qtbot
    ):
        painted = layers[1].data.astype(np.int16)
        painted[painted == 5] = -1
        place = geometry_of(layers[0])
        labels = viewer.add_labels(painted, name="with negatives", **place)
        panel.data.labels.choose(labels)
        panel.plan.set_settings(replace(TINY, steps=30, head_steps=200))
        click_and_wait(panel, qtbot)
        result = viewer.layers["blobs segmented"]
        assert set(np.unique(result.data)) == {-1, 0, 1, 117}
        assert prediction_of(result).changed_slices(result.data) == []

    def test_the_axis_that_was_chosen_stays_chosen(self, panel, qtbot):
        axis = panel.findChild(QComboBox, "axis")
        axis.setCurrentIndex(2)
        axis.activated.emit(2)
        click_and_wait(panel, qtbot)
        assert (axis.currentIndex(), axis.isEnabled()) == (2, True)
        click_and_wait(panel, qtbot)
        assert {entry.card.axis for entry in ModelLibrary().entries()} == {1}

    def test_the_model_is_kept_and_the_dock_says_how_good_it_is(self, panel, qtbot):
        click_and_wait(panel, qtbot)
        (entry,) = ModelLibrary().entries()
        assert entry.name == "blobs"
        assert trained_slices(entry.card) == ANNOTATED
        text = panel.run.status.text()
        expected = entry.card.metrics["expected_dice"]
        table = panel.trust.table
        for row, (name, value) in enumerate(zip(NAMES.values(), VALUES, strict=True)):
            assert table.item(row, 0).text() == name
            assert table.item(row, 1).text() == f"{expected[str(value)]:.2f}"
        mean = f"Mean Dice {np.mean(list(expected.values())):.2f} to be expected on"
        assert mean in text
        assert "blobs" in text
        seconds, gigabytes = re.search(
            r" (\d+) s, (\d+\.\d) GB of memory", text
        ).groups()
        measured = entry.card.measured
        assert float(seconds) == pytest.approx(measured["seconds"], abs=0.5)
        taken = measured["peak_memory"] - measured["memory_before"]
        assert float(gigabytes) * 1e9 == pytest.approx(taken, abs=6e7)
        assert measured["memory_before"] > 0
        assert panel.run.start.isEnabled()
        assert not panel.run.stop.isEnabled()

    def test_where_the_head_alone_is_fitted_the_plot_has_its_loss(self, panel, qtbot):
        panel.plan.set_settings(replace(TINY, stages="head", head_steps=40))
        click_and_wait(panel, qtbot)
        assert len(panel.run.plot.loss_points("head")) == 2
        assert panel.run.plot.loss_points("galore") == []
        assert len(panel.run.plot.dice_points(VALUES[0])) == 1

    def test_the_plot_has_the_loss_of_every_step_and_dice_per_class(self, panel, qtbot):
        click_and_wait(panel, qtbot)
        points = panel.run.plot.loss_points("galore")
        assert len(points) == TINY.steps
        times = [seconds for seconds, _ in points]
        assert times == sorted(times)
        assert panel.run.plot.loss_points("head")[0][0] < times[0]
        assert np.isfinite([loss for _, loss in points]).all()
        dice = ModelLibrary().entries()[0].card.metrics["dice"]
        for value in VALUES:
            assert panel.run.plot.dice_points(value)[-1][1] == dice[str(value)]
        plot = dice_plot(panel)
        assert plot.titleLabel.text == "Dice on the training slices"
        last = {
            line.opts["pen"].color().name(): line.getData()[1][-1]
            for line in plot.listDataItems()
        }
        assert last == {COLOURS[value]: dice[str(value)] for value in VALUES}

    def test_dice_is_said_to_be_of_slices_that_were_held_out(self, panel, qtbot):
        panel.run.segments.setChecked(False)
        panel.plan.set_settings(replace(TINY, hold_out_from=len(ANNOTATED)))
        click_and_wait(panel, qtbot)
        (entry,) = ModelLibrary().entries()
        assert entry.card.held_out_slices
        assert dice_plot(panel).titleLabel.text == "Dice on the held-out slices"
        assert "on the held-out slices" in panel.run.status.text()

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


class TestStopAndPause:
    def test_stop_keeps_the_best_so_far(self, panel, viewer, qtbot):
        panel.plan.set_settings(LONG)
        training = start_and_preview(panel, qtbot)
        panel.run.stop.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        entry = wait_for_model(qtbot)
        assert trained_slices(entry.card) == ANNOTATED
        assert "Stopped" in panel.run.status.text()
        assert training.layers.preview.is_gone
        assert len(viewer.layers) == 2
        wait_until_ready(panel, qtbot)

    def test_a_paused_training_waits_and_goes_on(self, panel, qtbot):
        panel.plan.set_settings(replace(TINY, steps=20))
        start_and_preview(panel, qtbot)
        panel.run.pause.click()
        qtbot.wait(500)  # the step under way ends
        reached = len(panel.run.plot.loss_points("galore"))
        assert reached < 20
        qtbot.wait(500)
        assert len(panel.run.plot.loss_points("galore")) == reached
        panel.run.pause.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        assert len(panel.run.plot.loss_points("galore")) == 20

    def test_a_paused_training_can_be_stopped(self, panel, qtbot):
        panel.plan.set_settings(LONG)
        start_and_preview(panel, qtbot)
        panel.run.pause.click()
        panel.run.stop.click()
        assert not panel.run.pause.isEnabled()  # it would hold up the stop
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        wait_for_model(qtbot)

    def test_a_stop_when_the_model_has_just_been_kept_still_gives_it(
        self, panel, qtbot
    ):
        wait_until_ready(panel, qtbot)
        panel.run.start.click()
        qtbot.waitUntil(lambda: panel.training is not None, timeout=TIMEOUT)
        request = panel.training.request
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        stream = run_training(request)
        while not isinstance(next(stream), Saved):
            pass
        with pytest.raises(StopIteration) as end:
            stream.throw(Stop())
        assert end.value.value.model.is_dir()
        assert end.value.value.mask is None

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
            shown = training.layers.image.world_to_data(viewer.dims.point)[0]
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


class TestErrors:
    def test_a_sentence_of_the_engine_is_shown_once(
        self, panel, qtbot, monkeypatch, capsys
    ):
        shown = []
        monkeypatch.setattr(panel_module, "show_error", shown.append)
        monkeypatch.setattr(
            under_way, "run_training", raising(MedsagaError("Do this instead."))
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
        monkeypatch.setattr(under_way, "run_training", raising(kind("out of memory")))
        wait_until_ready(panel, qtbot)
        with qtbot.capture_exceptions() as caught:
            panel.run.start.click()
            qtbot.waitUntil(lambda: bool(caught), timeout=TIMEOUT)
        assert caught[0][0] is kind
        assert caught[0][2] is not None
        wait_until_ready(panel, qtbot)

    def test_where_segmenting_fails_the_model_is_said_to_be_kept(
        self, panel, qtbot, monkeypatch
    ):
        broken = Mock(side_effect=RuntimeError("out of memory"))
        monkeypatch.setattr(medsaga, "advise", broken)
        wait_until_ready(panel, qtbot)
        with qtbot.capture_exceptions() as caught:
            panel.run.start.click()
            qtbot.waitUntil(lambda: bool(caught), timeout=TIMEOUT)
        (entry,) = ModelLibrary().entries()
        assert panel.run.status.text() == (
            f"Kept as model {entry.name}, but segmenting failed: out of memory"
        )

    def test_layers_that_cannot_be_read_leave_the_dock_ready(
        self, panel, viewer, layers, qtbot
    ):
        """A lazy layer may fail at any time, even at the look after the click."""
        disk = Disk()
        lazy = da.from_array(np.array(layers[1].data)).map_blocks(disk.read)
        panel.data.labels.choose(viewer.add_labels(lazy, **placed_as(layers[1])))
        wait_until_ready(panel, qtbot)
        disk.is_gone = True
        with qtbot.capture_exceptions() as caught:
            panel.run.start.click()
            qtbot.waitUntil(lambda: bool(caught), timeout=TIMEOUT)
        assert caught[0][0] is OSError
        assert sentence(panel) == "The layers cannot be read: disk gone"
        assert panel.training is None
        disk.is_gone = False
        panel.data.look_again()
        click_and_wait(panel, qtbot)
        assert len(ModelLibrary().entries()) == 1

    def test_contradicting_settings_are_said_before_the_start(self, panel, qtbot):
        wait_until_ready(panel, qtbot)
        panel.plan.form.control("detail_head").setChecked(False)
        assert "switch detail_head on" in panel.run.plan.text()
        assert not panel.run.start.isEnabled()


class Disk:
    """Where a lazy layer lies."""

    is_gone = False

    def read(self, block):
        if self.is_gone:
            raise OSError("disk gone")
        return block


def placed_as(layer):
    places = ("scale", "translate", "rotate", "shear", "units", "axis_labels")
    return {place: getattr(layer, place) for place in places}


def raising(error):
    def run(_):
        raise error
        yield

    return run


def test_deleting_what_was_added_leaves_all_as_it_was(panel, viewer, layers, qtbot):
    state = [(layer.name, geometry_of(layer)["scale"].tolist()) for layer in layers]
    data = [np.array(layer.data) for layer in layers]
    click_and_wait(panel, qtbot)
    viewer.layers.remove("blobs segmented")
    assert list(viewer.layers) == list(layers)
    assert state == [(x.name, geometry_of(x)["scale"].tolist()) for x in layers]
    for layer, array in zip(layers, data, strict=True):
        np.testing.assert_array_equal(layer.data, array)

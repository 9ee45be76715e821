"""Layers, docks and viewer that change before, under and after a training."""

from __future__ import annotations

import time
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from napari._qt.dialogs.confirm_close_dialog import ConfirmCloseDialog
from napari.utils.notifications import notification_manager
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QDialog, QLabel
from tests.phantom import keep_slices
from tests.plugin.fine_tune.dock import (
    ANNOTATED,
    LONG,
    TIMEOUT,
    TINY,
    click_and_wait,
    open_second_dock,
    sentence,
    start_and_fill,
    start_and_preview,
    trained_slices,
    wait_for_model,
    wait_until_ready,
)

from medsaga import ModelLibrary, load_card
from medsaga.frontend import survey_annotation
from napari_medsaga.fine_tune.annotated import annotation
from napari_medsaga.fine_tune.training import TrainingResult
from napari_medsaga.fine_tune.training_layers import tell_what_was_kept
from napari_medsaga.layers.convert import world_affine


class ClosedByUser(QCloseEvent):
    """What the window system sends; napari asks nothing of what a program closes."""

    def spontaneous(self) -> bool:
        return True


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

    def test_the_labels_get_another_shape(self, panel, viewer, layers, arrays, qtbot):
        panel.plan.set_settings(replace(TINY, steps=12))
        start_and_preview(panel, qtbot)
        painted = layers[1].data
        layers[1].data = painted[:5, :20, :20]
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        assert viewer.layers["blobs segmented"].data.shape == arrays[0].shape
        qtbot.waitUntil(lambda: "drawn on this image" in sentence(panel))
        assert not panel.run.start.isEnabled()
        layers[1].data = painted
        wait_until_ready(panel, qtbot)

    def test_both_layers_are_renamed(self, panel, viewer, layers, qtbot):
        panel.plan.set_settings(replace(TINY, steps=12))
        start_and_preview(panel, qtbot)
        layers[0].name, layers[1].name = "scan", "strokes"
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        result = viewer.layers["blobs segmented"]
        assert result.data.any()
        np.testing.assert_allclose(world_affine(result), world_affine(layers[0]))
        assert panel.data.image.currentText() == "scan"
        panel.data.labels.choose(layers[1])
        wait_until_ready(panel, qtbot)

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
        result = start_and_fill(panel, qtbot)
        viewer.layers.remove(result.layer)
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

    def test_a_mask_that_a_closed_dock_left_unfinished_is_told(self, tmp_path):
        kept = TrainingResult(
            model=tmp_path / "liver", card=Mock(), mask=Mock(), n_left=170
        )
        tell_what_was_kept("stopped", kept)
        said = [notice.message for notice in notification_manager.records]
        assert "170 slices of the mask are empty" in said[-1]
        assert "Kept as model liver" in said[-1]

    def test_the_viewer_is_closed_and_the_best_model_kept(self, panel, viewer, qtbot):
        panel.plan.set_settings(LONG)
        start_and_preview(panel, qtbot)
        viewer.close()
        wait_for_model(qtbot)

    def test_napari_asks_before_it_is_closed(self, panel, viewer, qtbot, monkeypatch):
        asked = []

        def cancel(dialog: ConfirmCloseDialog) -> QDialog.DialogCode:
            asked.append([label.text() for label in dialog.findChildren(QLabel)])
            return QDialog.DialogCode.Rejected

        monkeypatch.setattr(ConfirmCloseDialog, "exec_", cancel)
        panel.plan.set_settings(LONG)
        start_and_preview(panel, qtbot)
        event = ClosedByUser()
        viewer.window._qt_window.closeEvent(event)
        assert not event.isAccepted()
        assert len(asked) == 1
        assert "fine-tuning on blobs" in str(asked[0])
        n_steps = len(panel.run.plot.loss_points("galore"))
        qtbot.waitUntil(
            lambda: len(panel.run.plot.loss_points("galore")) > n_steps, timeout=TIMEOUT
        )
        panel.run.stop.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        viewer.window._qt_window.closeEvent(ClosedByUser())
        assert "fine-tuning" not in str(asked[1:])

    def test_a_second_training_waits_for_the_first(self, panel, viewer, qtbot):
        panel.plan.set_settings(LONG)
        first = start_and_preview(panel, qtbot)
        other = open_second_dock(viewer)
        other.plan.set_settings(TINY)
        wait_until_ready(other, qtbot)
        other.run.start.click()
        qtbot.waitUntil(lambda: other.training is not None, timeout=TIMEOUT)
        qtbot.waitUntil(lambda: "Waiting" in other.run.status.text(), timeout=TIMEOUT)
        assert other.training.job.is_waiting
        assert not first.job.is_waiting
        panel.run.stop.click()
        qtbot.waitUntil(lambda: other.training is None, timeout=TIMEOUT)
        assert len(ModelLibrary().entries()) == 2


class TestWhatIsClickedIsWhatTrains:
    """The annotation is looked at in a thread: no old answer may start a training."""

    @pytest.fixture
    def slow(self, monkeypatch):
        def slowly(*args, **kwargs):
            time.sleep(0.4)
            return survey_annotation(*args, **kwargs)

        monkeypatch.setattr(annotation, "survey_annotation", slowly)

    def test_the_last_stroke_trains(self, slow, panel, layers, qtbot):
        wait_until_ready(panel, qtbot)
        panel.data.look_again()  # its answer is under way when the stroke comes
        qtbot.wait(50)
        layers[1].data_setitem((np.full(40, 6), np.arange(40), np.full(40, 20)), 5)
        panel.run.start.click()
        qtbot.waitUntil(lambda: panel.training is not None, timeout=TIMEOUT)
        assert panel.training.request.data.slices == (1, 4, 6, 7, 10)
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
        assert panel.training.request.data.slices == (2, 3)
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
        result = start_and_fill(panel, qtbot)
        result.layer.data[-1, :3, :3] = 99
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        layer = viewer.layers["blobs segmented"]
        assert (layer.data[-1, :3, :3] == 99).all()
        assert panel.data.labels_layer() is layer  # it is what trains next

    def test_other_data_in_the_result_are_left_alone(self, panel, viewer, qtbot):
        panel.plan.set_settings(replace(TINY, steps=8))
        training = start_and_preview(panel, qtbot)
        mine = np.full((3, 4, 5), 7)
        training.layers.preview.layer.data = mine
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        assert "blobs segmented" in viewer.layers
        assert (mine == 7).all()

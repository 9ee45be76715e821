"""Predicted layers that are repainted, and train again."""

from __future__ import annotations

from weakref import ref

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QComboBox, QListWidget, QWidget
from tests.phantom import VALUES
from tests.plugin.fine_tune.dock import (
    ANNOTATED,
    TIMEOUT,
    TINY,
    click_and_wait,
    open_second_dock,
    sentence,
    start_and_fill,
    trained_slices,
    wait_until_ready,
)

from medsaga import ModelLibrary, load_card
from napari_medsaga.fine_tune.training_layers import TrainingLayers
from napari_medsaga.layers.predictions import (
    Prediction,
    prediction_of,
    remember_prediction,
)


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


def predicted_on(image, model, axis=0, shape=(12, 40, 40)) -> Prediction:
    """What remembers an empty mask."""
    return Prediction(
        model=model.path,
        created=model.card.created,
        axis=axis,
        written=np.zeros(shape, np.uint8),
        trained={},
        earlier={},
        image=ref(image),
    )


class TestWhatBelongsTogether:
    """Layers of one shape fit each other without a complaint."""

    @pytest.fixture
    def model(self, panel, qtbot):
        panel.run.segments.setChecked(False)
        click_and_wait(panel, qtbot)
        return ModelLibrary().entries()[0]

    @pytest.fixture
    def other(self, viewer, arrays):
        return viewer.add_image(arrays[0][::-1].copy(), name="other")

    def test_a_layer_that_becomes_a_prediction_is_followed_as_one(
        self, panel, viewer, model, other
    ):
        """A result is chosen while it fills, where it is the only Labels layer."""
        empty = np.zeros((12, 40, 40), np.uint8)
        filling = viewer.add_labels(empty, scale=(7, 7, 7))  # it lies on no image
        panel.data.labels.choose(filling)
        assert panel.data.image_layer() is not other
        remember_prediction(filling, predicted_on(other, model))
        assert panel.data.image_layer() is other
        assert panel.plan.origin_model() == model.path
        assert not panel.findChild(QComboBox, "axis").isEnabled()

    def test_hand_made_labels_bring_their_image_back(
        self, panel, viewer, layers, model, other, qtbot
    ):
        image, labels = layers
        predicted = viewer.add_labels(np.zeros((12, 40, 40), np.uint8))
        remember_prediction(predicted, predicted_on(other, model))
        panel.data.labels.choose(predicted)
        assert panel.data.image_layer() is other
        panel.data.labels.choose(labels)
        assert panel.data.image_layer() is image

    def test_an_image_that_the_user_has_picked_stays(
        self, panel, viewer, layers, model, other
    ):
        """Whatever the labels that are chosen after it were painted on."""
        panel.data.image.choose(other)
        panel.data.image.activated.emit(panel.data.image.currentIndex())
        extra = viewer.add_labels(np.zeros((12, 40, 40), np.uint8))
        panel.data.labels.choose(extra)
        panel.data.labels.choose(layers[1])
        assert panel.data.image_layer() is other
        viewer.layers.remove(layers[0])
        predicted = viewer.add_labels(np.zeros((12, 40, 40), np.uint8))
        remember_prediction(predicted, predicted_on(layers[0], model))
        panel.data.labels.choose(predicted)
        panel.data.image.choose(other)
        panel.data.image.activated.emit(panel.data.image.currentIndex())
        panel.data.labels.choose(extra)
        panel.data.labels.choose(predicted)
        assert panel.data.image_layer() is other

    def test_corrections_train_on_another_image_only_if_it_is_chosen(
        self, panel, viewer, layers, model, other, qtbot
    ):
        predicted = viewer.add_labels(np.zeros((12, 40, 40), np.uint8))
        remember_prediction(predicted, predicted_on(other, model))
        panel.data.labels.choose(predicted)
        predicted.data_setitem((np.full(9, 2), np.arange(3, 12), np.full(9, 5)), 5)
        viewer.layers.remove(other)
        again = viewer.add_image(np.zeros((12, 40, 40)), name="opened again")
        panel.data.image.choose(again)
        wait_until_ready(panel, qtbot)
        panel.run.start.click()
        qtbot.waitUntil(
            lambda: "was not predicted on opened again" in panel.run.status.text(),
            timeout=TIMEOUT,
        )
        assert panel.training is None
        panel.data.image.activated.emit(panel.data.image.currentIndex())
        wait_until_ready(panel, qtbot)
        panel.run.start.click()
        qtbot.waitUntil(lambda: panel.training is not None, timeout=TIMEOUT)
        panel.run.stop.click()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)


class TestCorrections:
    def test_a_model_renamed_meanwhile_keeps_its_slices(
        self, panel, viewer, qtbot, monkeypatch
    ):
        ended = []
        remember = TrainingLayers.remember
        monkeypatch.setattr(
            TrainingLayers,
            "remember",
            lambda layers, value: ended.append((layers, value)),
        )
        click_and_wait(panel, qtbot)
        ((layers, value),) = ended
        ModelLibrary().rename(value.model, "liver")
        # As if the labels were strokes: then its slices are all earlier ones.
        layers.is_sparse = True
        layer = remember(layers, value)
        assert [one.index for one in prediction_of(layer).earlier] == ANNOTATED

    def test_a_dock_closed_while_the_result_fills_keeps_the_rest_from_training(
        self, panel, viewer, qtbot
    ):
        result = start_and_fill(panel, qtbot)
        viewer.window.remove_dock_widget(panel)
        layer = result.layer
        qtbot.waitUntil(lambda: prediction_of(layer) is not None, timeout=TIMEOUT)
        assert prediction_of(layer).changed_slices(layer.data) == []

    def test_a_renamed_model_is_still_trained_on(self, panel, viewer, layers, qtbot):
        click_and_wait(panel, qtbot)
        predicted = viewer.layers["blobs segmented"]
        predicted.data_setitem((np.array([2]), np.array([3]), np.array([3])), 1)
        qtbot.waitUntil(lambda: panel.data.labels.layer() is predicted)
        renamed = ModelLibrary().rename(ModelLibrary().entries()[0].path, "liver")
        qtbot.waitUntil(lambda: panel.plan.origin_model() == renamed, timeout=TIMEOUT)
        panel.data.labels.choose(layers[1])
        assert panel.plan.origin_model() is None
        panel.data.labels.choose(predicted)
        click_and_wait(panel, qtbot)
        assert {e.card.base_weights for e in ModelLibrary().entries()} == {
            "tiny",
            "liver",
        }

    def test_a_model_to_start_from_stays_chosen_under_another_name(
        self, panel, viewer, qtbot
    ):
        panel.run.segments.setChecked(False)
        click_and_wait(panel, qtbot)
        panel.plan.origin.choose_model(ModelLibrary().entries()[0].path)
        renamed = ModelLibrary().rename(panel.plan.origin_model(), "liver")
        qtbot.waitUntil(lambda: panel.plan.origin_model() == renamed, timeout=TIMEOUT)
        assert panel.plan.problem() is None

    def test_they_train_on_the_image_that_the_layer_was_predicted_on(
        self, panel, viewer, arrays, qtbot
    ):
        """Not on another of the same shape, with which no check finds a fault."""
        panel.run.segments.setChecked(False)
        click_and_wait(panel, qtbot)
        other = viewer.add_image(arrays[0][::-1].copy(), name="other")
        segment_only(viewer, qtbot, "other")
        predicted = viewer.layers["other – blobs"]
        assert panel.data.image_layer() is not other
        predicted.data_setitem((np.array([2]), np.array([3]), np.array([3])), 1)
        assert panel.data.labels_layer() is predicted
        assert panel.data.image_layer() is other

    def test_painting_the_originals_goes_back_to_them(
        self, panel, viewer, layers, qtbot
    ):
        click_and_wait(panel, qtbot)
        predicted = viewer.layers["blobs segmented"]
        predicted.data_setitem((np.array([2]), np.array([3]), np.array([3])), 1)
        assert panel.data.labels.layer() is predicted
        assert panel.plan.origin_model() is not None
        layers[1].data_setitem((np.array([2]), np.array([3]), np.array([3])), 1)
        assert panel.data.labels.layer() is layers[1]
        assert panel.plan.origin_model() is None
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

    def test_a_dock_that_is_opened_on_a_prediction_starts_from_its_model(
        self, panel, viewer, layers, qtbot
    ):
        click_and_wait(panel, qtbot)
        viewer.window.remove_dock_widget(panel)
        viewer.layers.remove(layers[1])
        again = open_second_dock(viewer)
        assert again.data.labels_layer() is viewer.layers["blobs segmented"]
        assert again.plan.origin_model() == ModelLibrary().entries()[0].path

    def test_a_model_that_was_chosen_to_start_from_is_chosen_again(
        self, panel, viewer, layers, qtbot
    ):
        panel.run.segments.setChecked(False)
        click_and_wait(panel, qtbot)
        own = ModelLibrary().entries()[0].path
        panel.run.segments.setChecked(True)
        click_and_wait(panel, qtbot)
        panel.plan.origin.choose_model(own)
        predicted, where = viewer.layers["blobs segmented"], np.array([2])
        predicted.data_setitem((where, where, where), 1)
        assert panel.plan.origin_model() not in (None, own)
        layers[1].data_setitem((where, where, where), 1)
        assert panel.plan.origin_model() == own

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
        assert panel.plan.origin_model() == first.path
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
        names = [s.name for s in (*card.training_slices, *card.held_out_slices)]
        assert sorted(names) == [
            *("blobs [10]", "blobs [1]", "blobs [7]"),
            *("other [2]", "other [5]"),
        ]

    def test_slices_of_an_image_of_the_same_name_are_others(
        self, panel, viewer, arrays, qtbot
    ):
        """As of another patient's ct.nii.gz."""
        _, predicted = train_and_predict_another(panel, viewer, arrays, qtbot)
        viewer.layers["blobs"].name = "first"
        viewer.layers["other"].name = "blobs"
        predicted.data_setitem((np.full(9, 4), np.arange(3, 12), np.full(9, 35)), 5)
        qtbot.waitUntil(lambda: "1 slice of the predicted" in sentence(panel))
        assert "1 slice of the predicted layer changed, 4 more" in sentence(panel)
        assert "Left out" not in sentence(panel)

    def test_emptying_a_slice_is_a_correction_too(self, panel, viewer, arrays, qtbot):
        first, predicted = train_and_predict_another(panel, viewer, arrays, qtbot)
        place = np.nonzero(predicted.data[2])
        predicted.data_setitem((np.full(len(place[0]), 2), *place), 0)
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

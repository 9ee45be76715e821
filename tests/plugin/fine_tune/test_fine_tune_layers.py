"""Layers of every kind that the Fine-tune dock trains on, and their choice."""

from __future__ import annotations

import dask.array
import nibabel as nib
import numpy as np
import pytest
from napari._qt.dialogs.qt_reader_dialog import QtReaderDialog
from napari.layers import Image, Labels
from qtpy.QtWidgets import QAbstractButton, QDialog, QRadioButton
from tests.phantom import VALUES, keep_slices
from tests.plugin.dropping import drop_files
from tests.plugin.fine_tune.dock import (
    ANNOTATED,
    TIMEOUT,
    TINY,
    click_and_wait,
    open_dock,
    sentence,
    trained_slices,
)

from medsaga import ModelLibrary
from napari_medsaga.layers.convert import world_affine


def choose_medsaga(dialog: QtReaderDialog) -> QDialog.DialogCode:
    """Answer napari's question: its own reader offers itself for every file."""
    (button,) = [
        button
        for button in dialog.findChildren(QRadioButton)
        if button.text() == "MedSAGa"
    ]
    button.setChecked(True)
    return QDialog.DialogCode.Accepted


class TestOtherLayers:
    def test_a_plane_image_in_colour(self, viewer, arrays, qtbot):
        picture = np.repeat(arrays[0][4][..., None], 3, -1).clip(0, 255)
        viewer.add_image(picture.astype(np.uint8), rgb=True, name="photo")
        viewer.add_labels(arrays[1][4], name="painted")
        panel = open_dock(viewer, qtbot)
        click_and_wait(panel, qtbot)
        assert viewer.layers["photo segmented"].data.shape == arrays[1][4].shape
        assert set(np.unique(viewer.layers["photo segmented"].data)) & set(VALUES)

    def test_a_grey_plane_image(self, viewer, arrays, qtbot):
        viewer.add_image(arrays[0][4], name="xray")
        viewer.add_labels(arrays[1][4], name="painted")
        panel = open_dock(viewer, qtbot)
        click_and_wait(panel, qtbot)
        result = viewer.layers["xray segmented"]
        assert isinstance(result, Labels)
        assert result.data.shape == arrays[1][4].shape
        assert set(np.unique(result.data)) == {0, *VALUES}

    def test_a_dropped_file_is_painted_with_the_brush(
        self, viewer, arrays, qtbot, monkeypatch, tmp_path
    ):
        affine = nib.affines.from_matvec(np.diag([-0.7, -0.5, 2]), [90, 70, -30])
        nib.Nifti1Image(arrays[0].T, affine).to_filename(tmp_path / "ct.nii.gz")
        monkeypatch.setattr(QtReaderDialog, "exec_", choose_medsaga)
        drop_files(viewer.window._qt_viewer, tmp_path / "ct.nii.gz")
        image = viewer.layers["ct"]
        viewer._new_labels()
        labels = viewer.layers["ct - Labels"]
        # The reader turns the file's axes to the patient's.
        blob = arrays[1][:, ::-1, ::-1] == 1
        labels.brush_size = 12
        for index in (2, 6, 10):
            labels.paint((index, *np.argwhere(blob[index]).mean(axis=0)), 1)
        panel = open_dock(viewer, qtbot)
        click_and_wait(panel, qtbot)
        assert trained_slices(ModelLibrary().entries()[0].card) == [2, 6, 10]
        result = viewer.layers["ct segmented"]
        np.testing.assert_allclose(world_affine(result), world_affine(image))
        assert result.data.shape == image.data.shape
        assert (result.data[blob] == 1).mean() > 0.5

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


def test_a_layer_of_the_wrong_type_is_turned_into_the_other(
    panel, viewer, layers, arrays
):
    wrong = viewer.add_image(arrays[1], name="segmented", scale=layers[0].scale)
    panel.data.image.choose(wrong)
    panel.data.image_layer().locked = True
    panel.findChild(QAbstractButton, "to_labels").click()
    assert isinstance(panel.data.image_layer(), Image)  # as it was
    panel.data.image_layer().locked = False
    panel.findChild(QAbstractButton, "to_labels").click()
    turned = viewer.layers["segmented"]
    assert isinstance(turned, Labels)
    np.testing.assert_array_equal(turned.data, arrays[1])
    np.testing.assert_allclose(world_affine(turned), world_affine(wrong))
    panel.data.labels.choose(turned)
    panel.findChild(QAbstractButton, "to_image").click()
    assert not isinstance(viewer.layers["segmented"], Labels)
    assert len(viewer.layers) == 3

"""Several images train together, and images of four axes lend a part of theirs."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListWidget, QPushButton
from tests.plugin.fine_tune.dock import (
    ANNOTATED,
    TIMEOUT,
    click_and_wait,
    open_dock,
    sentence,
    wait_until_ready,
)
from tests.plugin.fine_tune.test_fill_between import fill_and_wait

from medsaga import ModelLibrary

SCALE = {"scale": (3, 1, 1)}


@pytest.fixture
def three(viewer, arrays, qtbot):
    """The dock, with three images of one shape, each with labels of its own."""
    for number in range(3):
        image = arrays[0] + 5 * number
        viewer.add_image(image, name=f"image {number}", **SCALE)
        labels = np.zeros(arrays[0].shape, np.uint8)
        labels[ANNOTATED[number]] = arrays[1][ANNOTATED[number]]
        viewer.add_labels(labels, name=f"labels {number}", **SCALE)
    panel = open_dock(viewer, qtbot)
    panel.data.image.choose(viewer.layers["image 0"])
    panel.data.labels.choose(viewer.layers["labels 0"])
    wait_until_ready(panel, qtbot)
    return panel


def rows(panel) -> list[str]:
    listed = panel.findChild(QListWidget, "other_pairs")
    return [listed.item(n).text() for n in range(listed.count())]


def tick(panel, number: int) -> None:
    item = panel.findChild(QListWidget, "other_pairs").item(number)
    item.setCheckState(Qt.CheckState.Checked)


def test_ticked_pairs_train_with_the_chosen_one(three, viewer, qtbot):
    assert rows(three) == ["labels 1 on image 1", "labels 2 on image 2"]
    counted = three.data.report().counts[0].n_slices
    tick(three, 0)
    qtbot.waitUntil(
        lambda: three.data.report().counts[0].n_slices == counted + 1, timeout=TIMEOUT
    )
    three.findChild(QPushButton, "tick_all_pairs").click()
    qtbot.waitUntil(
        lambda: three.data.report().counts[0].n_slices == counted + 2, timeout=TIMEOUT
    )
    click_and_wait(three, qtbot)
    (entry,) = ModelLibrary().entries()
    trained = {one.image for one in entry.card.training_slices}
    assert len(trained) == 3
    assert sorted(one.index for one in entry.card.training_slices) == ANNOTATED[:3]
    assert "image 0 segmented" in viewer.layers


def test_unticked_ones_do_not(three, qtbot):
    three.run.segments.setChecked(False)
    click_and_wait(three, qtbot)
    (entry,) = ModelLibrary().entries()
    assert [one.index for one in entry.card.training_slices] == ANNOTATED[:1]


def test_the_list_follows_the_layers(three, viewer, qtbot):
    viewer.layers.remove("image 1")
    viewer.layers.remove("labels 1")
    three.data.labels.choose(viewer.layers["labels 2"])
    three.data.image.choose(viewer.layers["image 2"])
    qtbot.waitUntil(lambda: rows(three) == ["labels 0 on image 0"], timeout=TIMEOUT)


def test_images_before_labels_pair_in_their_order(viewer, arrays, qtbot):
    for number in range(3):
        viewer.add_image(arrays[0] + number, name=f"image {number}", **SCALE)
    for number in range(3):
        viewer.add_labels(arrays[1], name=f"labels {number}", **SCALE)
    panel = open_dock(viewer, qtbot)
    panel.data.labels.choose(viewer.layers["labels 1"])
    qtbot.waitUntil(lambda: len(rows(panel)) == 2, timeout=TIMEOUT)
    assert panel.data.image_layer() is viewer.layers["image 1"]
    assert rows(panel) == ["labels 0 on image 0", "labels 2 on image 2"]


def test_what_is_not_clear_is_not_offered(viewer, arrays, qtbot):
    for number in range(3):
        viewer.add_image(arrays[0] + number, name=f"image {number}", **SCALE)
    for number in range(2):
        viewer.add_labels(arrays[1], name=f"labels {number}", **SCALE)
    panel = open_dock(viewer, qtbot)
    panel.data.labels.choose(viewer.layers["labels 1"])
    wait_until_ready(panel, qtbot)
    assert "labels 1 on image 1" not in rows(panel)


def test_a_stroke_on_a_ticked_pair_keeps_all_of_them(three, viewer, qtbot):
    tick(three, 0)
    tick(three, 1)
    labels = viewer.layers["labels 1"]
    place = tuple(np.array([n]) for n in (ANNOTATED[1], 3, 3))
    labels.data_setitem(place, 5)
    assert three.data.labels_layer() is labels
    expected = ["labels 0 on image 0", "labels 2 on image 2"]
    qtbot.waitUntil(lambda: rows(three) == expected, timeout=TIMEOUT)
    assert len(three.data.others.ticked_pairs()) == 2
    qtbot.waitUntil(lambda: "2 more images" in sentence(three), timeout=TIMEOUT)


def test_filling_is_of_the_chosen_image_alone(three, viewer, qtbot):
    tick(three, 0)
    wait_until_ready(three, qtbot)
    fill_and_wait(three, qtbot)
    filled, painted = viewer.layers["image 0 filled"], viewer.layers["labels 0"]
    first = ANNOTATED[0]
    np.testing.assert_array_equal(filled.data[first], painted.data[first])
    assert filled.data[first + 1].any()


def test_what_is_painted_across_another_axis_is_refused(three, viewer, arrays, qtbot):
    labels = viewer.layers["labels 1"]
    labels.data[:] = 0
    labels.data[:, 20] = arrays[1][:, 20]
    tick(three, 0)
    expected = "labels 1 is painted across axis 1"
    qtbot.waitUntil(lambda: expected in sentence(three), timeout=TIMEOUT)
    assert not three.run.start.isEnabled()
    labels.data[:] = 0
    three.data.look_again()
    expected = "Nothing is painted on labels 1"
    qtbot.waitUntil(lambda: expected in sentence(three), timeout=TIMEOUT)


def test_2d_images_train_together(viewer, arrays, qtbot):
    for number in (4, 7):
        viewer.add_image(arrays[0][number], name=f"x-ray {number}")
        viewer.add_labels(arrays[1][number], name=f"labels {number}")
    panel = open_dock(viewer, qtbot)
    wait_until_ready(panel, qtbot)
    tick(panel, 0)
    wait_until_ready(panel, qtbot)
    click_and_wait(panel, qtbot)
    (entry,) = ModelLibrary().entries()
    assert len({one.image for one in entry.card.training_slices}) == 2


def test_a_time_point_is_taken_out_of_four_axes(viewer, arrays, qtbot):
    stack = np.stack([arrays[0], arrays[0] + 50])
    viewer.add_image(
        stack, name="series", scale=(1, 3, 0.5, 0.5), translate=(0, 7, 0, 1)
    )
    panel = open_dock(viewer, qtbot)
    button = panel.findChild(QPushButton, "take_part")
    assert button.isVisibleTo(panel)
    qtbot.waitUntil(lambda: "Add a class" in sentence(panel), timeout=TIMEOUT)
    viewer.dims.set_current_step(0, 1)
    button.click()
    part = panel.data.image_layer()
    assert part.ndim == 3
    np.testing.assert_array_equal(part.data, stack[1])
    place = viewer.layers["series"].data_to_world((1, 2, 4, 6))[1:]
    np.testing.assert_allclose(part.data_to_world((2, 4, 6)), place)
    assert not button.isVisibleTo(panel)
    panel.findChild(QPushButton, "add_class").click()
    labels = panel.data.labels_layer()
    assert labels.data.shape == part.data.shape

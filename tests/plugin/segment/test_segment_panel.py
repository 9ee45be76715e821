"""The Segment dock: real tiny models, real viewers, the real buttons."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import nibabel as nib
import numpy as np
import pytest
from napari import Viewer
from napari.layers import Labels
from napari.utils.notifications import NotificationSeverity, notification_manager
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QLabel,
    QLineEdit,
    QListWidget,
    QProgressBar,
    QTableWidget,
    QTabWidget,
    QWidget,
)
from tests.phantom import TINY, VALUES
from tests.plugin.dropping import drop_files

from medsaga import (
    ModelLibrary,
    Segmentation,
    SegmentSettings,
    Stop,
    TrainedModel,
    TrainingData,
    drain,
    fine_tune,
    read_labels,
    segment,
    volume_from_array,
)
from medsaga.events import Notice
from medsaga.frontend import LibraryEntry, kept_labels
from napari_medsaga.jobs.job import Job, is_computing
from napari_medsaga.layers.convert import volume_of, world_affine
from napari_medsaga.layers.predictions import prediction_of
from napari_medsaga.segment.queue import summary
from napari_medsaga.segment.results import ImageResult
from napari_medsaga.segment.rows import Row

NAMES = {1: "bright", 5: "dark/old", 117: "grey"}
COLOURS = {1: "#ff0000", 5: "#00ff00", 117: "#0000ff"}
GEOMETRY = {
    "scale": (2.5, 0.5, 0.75),
    "translate": (10, -20, 3),
    "rotate": 12.0,
    "shear": (0.1, 0, 0.05),
    "units": ("mm", "mm", "mm"),
    "axis_labels": ("z", "y", "x"),
}
LONG = 4000  # slices: more than any test waits for


def make_image(n_slices: int = 6, size: int = 40, seed: int = 0) -> np.ndarray:
    """Noise with three blobs."""
    image, _ = make_phantom(n_slices, size, seed)
    return image


def make_phantom(
    n_slices: int, size: int = 40, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 5, (n_slices, size, size)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    y, x = np.mgrid[:size, :size]
    blobs = ((10, 10, 180), (28, 12, 20), (24, 29, 240))
    for value, (row, column, intensity) in zip(VALUES, blobs, strict=True):
        inside = (y - row) ** 2 + (x - column) ** 2 < 36
        image[:, inside] += intensity - 100
        labels[:, inside] = value
    return image, labels


@pytest.fixture(scope="session")
def trained() -> TrainedModel:
    """A model that knows the blobs, in a second or two."""
    image, labels = make_phantom(8)
    labels[[0, 2, 3, 5, 6]] = 0
    return drain(
        fine_tune(
            TrainingData(
                volume_from_array(image, name="phantom"),
                volume_from_array(labels),
                axis=0,
                class_names=NAMES,
                class_colours=COLOURS,
            ),
            TINY,
        )
    )


@pytest.fixture
def model(trained: TrainedModel) -> Path:
    """The model's folder in an otherwise empty library."""
    return ModelLibrary().add(trained, "blobs")


@pytest.fixture(autouse=True)
def no_notifications() -> None:
    notification_manager.records.clear()


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Viewer]) -> Viewer:
    return make_napari_viewer()


class Dock:
    """The dock as a user handles it: by its controls."""

    def __init__(self, viewer: Viewer, qtbot: Any) -> None:
        self.viewer, self.qtbot = viewer, qtbot
        self.dock, self.panel = viewer.window.add_plugin_dock_widget(
            "napari-medsaga", "Segment"
        )

    def child(self, kind: type[QWidget], name: str) -> Any:
        found = self.panel.findChild(kind, name)
        assert found is not None, name
        return found

    def button(self, name: str) -> Any:
        return self.child(QAbstractButton, name)

    def click(self, name: str) -> None:
        button = self.button(name)
        if button.isCheckable():  # what can be hit of it is only its box and text
            button.click()
        else:
            self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def start(self) -> None:
        assert self.button("segment").isEnabled()
        self.click("segment")

    def wait(self) -> None:
        self.qtbot.waitUntil(self.button("segment").isEnabled, timeout=60_000)

    def run(self) -> None:
        self.start()
        self.wait()

    def wait_for_slices(self, n: int = 1) -> None:
        """Wait until `n` slices of the running item are there, then hold the job."""
        self.qtbot.waitUntil(lambda: self.n_done() >= n, timeout=60_000)
        self.click("pause")

    def n_done(self) -> int:
        states = (state.split() for _, state, _ in self.rows())
        return max(
            (int(s[1]) for s in states if s[:1] == ["running"] and s[1:]), default=0
        )

    def rows(self) -> list[tuple[str, str, str]]:
        table = self.child(QTableWidget, "queue")
        return [
            tuple(table.item(row, column).text() for column in range(3))
            for row in range(table.rowCount())
        ]

    @property
    def message(self) -> str:
        return self.child(QLabel, "message").text()

    def ticked(self) -> list[str]:
        images = self.child(QListWidget, "images")
        items = [images.item(i) for i in range(images.count())]
        return [i.text() for i in items if i.checkState() == Qt.CheckState.Checked]

    def tick(self, *names: str, ticked: bool = True) -> None:
        images = self.child(QListWidget, "images")
        for index in range(images.count()):
            item = images.item(index)
            if item.text() in names:
                state = Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked
                item.setCheckState(state)

    def choose_files(self, *paths: Path) -> None:
        self.child(QTabWidget, "source").setCurrentIndex(1)
        drop_files(self.child(QTabWidget, "source").currentWidget(), *paths)


@pytest.fixture
def open_dock(viewer: Viewer, qtbot: Any) -> Iterator[Callable[[], Dock]]:
    docks: list[Dock] = []

    def open_it() -> Dock:
        docks.append(Dock(viewer, qtbot))
        return docks[-1]

    yield open_it
    for dock in docks:
        if dock.dock in viewer.window._qt_window.children():
            if dock.button("stop").isEnabled():
                dock.click("stop")
            dock.wait()


def expected(model: Path, layer: Any, **settings: Any) -> Segmentation:
    """What the engine itself makes of a layer."""
    return drain(segment(model, volume_of(layer), SegmentSettings(**settings)))


def result_of(viewer: Viewer, image: str, model: str = "blobs") -> Labels:
    layer = viewer.layers[f"{image} – {model}"]
    assert isinstance(layer, Labels)
    return layer


def corners(layer: Any) -> np.ndarray:
    shape = np.array(layer.data.shape[: layer.ndim])
    picks = np.array(np.meshgrid(*[[0, 1]] * layer.ndim)).reshape(layer.ndim, -1).T
    return np.array([layer.data_to_world(c) for c in picks * (shape - 1)])


def notifications() -> list[str]:
    records = notification_manager.records
    return [n.message for n in records if n.severity == NotificationSeverity.ERROR]


# Open images.


def test_ticked_images_get_a_labels_layer_exactly_on_them(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    first = viewer.add_image(make_image(6), name="ct", **GEOMETRY)
    flat = viewer.add_image(make_image(1, 48)[0], name="slide", scale=(0.3, 0.4))
    viewer.add_image(make_image(2), name="other")
    viewer.layers.selection.active = first
    before = first.data.copy()
    n_layers = len(viewer.layers)
    dock = open_dock()
    assert dock.ticked() == ["ct"]
    dock.tick("slide")
    dock.run()

    assert len(viewer.layers) == n_layers + 2
    for image in (first, flat):
        result = result_of(viewer, image.name)
        truth = expected(model, image).mask.array
        assert np.array_equal(result.data, truth if image.ndim == 3 else truth[0])
        assert set(np.unique(result.data)) == {0, *VALUES}
        np.testing.assert_allclose(corners(result), corners(image), atol=1e-5)
        assert result.units == image.units
        assert result.axis_labels == image.axis_labels
        assert list(result.features["name"]) == ["background", *NAMES.values()]
        assert np.allclose(result.colormap.map(5), (0, 1, 0, 1))
    assert np.array_equal(first.data, before)
    assert viewer.layers.selection == {first}
    assert [state for _, state, _ in dock.rows()] == ["done", "done"]
    assert dock.ticked() == []
    assert dock.child(QProgressBar, "progress").value() == 1000
    assert not notifications()


def test_what_the_user_corrects_on_a_result_is_known_to_fine_tune(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    viewer.add_image(make_image(3), name="ct")
    dock = open_dock()
    dock.run()
    result = result_of(viewer, "ct")
    prediction = prediction_of(result)
    assert prediction is not None
    assert prediction.model == model
    assert prediction.changed_slices(result.data) == []
    result.data[1, :5, :5] = 117
    assert prediction.changed_slices(result.data) == [1]


def test_a_bad_image_does_not_stop_the_others(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    viewer.add_image(make_image(2), name="c")
    viewer.add_image(np.zeros((2, 2, 8, 8)), name="b")
    viewer.add_image(make_image(2), name="a")
    dock = open_dock()
    dock.click("all")
    dock.run()
    assert [row[:2] for row in dock.rows()] == [
        ("a", "done"),
        ("b", "failed"),
        ("c", "done"),
    ]
    assert "4 axes" in dock.rows()[1][2]
    assert "1 failed" in dock.message
    assert notifications() == [dock.message]
    assert dock.ticked() == ["b"]
    assert result_of(viewer, "a").data.any()
    assert result_of(viewer, "c").data.any()


def test_done_images_are_unticked_and_done_again_only_when_ticked(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    viewer.add_image(make_image(2), name="ct")
    dock = open_dock()
    dock.run()
    first = result_of(viewer, "ct")
    first.data[:] = 5
    dock.start()
    assert "No image is ticked" in dock.message
    assert len(viewer.layers) == 2
    dock.tick("ct")
    dock.run()
    assert (first.data == 5).all()
    assert np.array_equal(
        viewer.layers["ct – blobs 2"].data,
        expected(model, viewer.layers["ct"]).mask.array,
    )


def test_segment_goes_on_after_stop_in_the_same_layer(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    viewer.add_image(make_image(30, seed=1), name="second")
    viewer.add_image(make_image(2), name="first")
    dock = open_dock()
    dock.click("all")
    dock.start()
    dock.qtbot.waitUntil(lambda: dock.rows()[0][1] == "done", timeout=60_000)
    dock.wait_for_slices()
    dock.click("stop")
    dock.wait()
    done = result_of(viewer, "first")
    done_data = done.data.copy()
    partial = result_of(viewer, "second")
    assert dock.rows()[1][1].startswith("stopped")
    assert "Click Segment to go on" in dock.message
    assert partial.data[0].any()
    assert not partial.data[-1].any()
    assert dock.ticked() == ["second"]
    # What is there is no annotation of the user's.
    assert prediction_of(partial).changed_slices(partial.data) == []

    partial.data[0] = 0  # an edit of the user's
    dock.run()
    assert [row[:2] for row in dock.rows()] == [("first", "done"), ("second", "done")]
    assert len(viewer.layers) == 4
    assert np.array_equal(done.data, done_data)
    truth = expected(model, viewer.layers["second"]).mask.array
    assert not partial.data[0].any()
    assert np.array_equal(partial.data[1:], truth[1:])


def test_what_is_painted_while_it_fills_stays(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    viewer.add_image(make_image(30), name="ct")
    dock = open_dock()
    dock.start()
    dock.wait_for_slices()
    result = result_of(viewer, "ct")
    result.data[-1, :3, :3] = 117
    dock.click("pause")
    dock.wait()
    truth = expected(model, viewer.layers["ct"]).mask.array.copy()
    truth[-1, :3, :3] = 117
    assert np.array_equal(result.data, truth)


def test_the_layer_ends_as_the_voted_and_cleaned_mask(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    noise = np.random.default_rng(0).normal(110, 60, (20, 14, 16))
    image = viewer.add_image(noise.astype(np.float32), name="ct")
    dock = open_dock()
    options = ("three_planes", "largest_component", "fill_holes")
    for name in options:
        dock.click(name)
    dock.start()
    dock.wait_for_slices()
    result = result_of(viewer, "ct")
    result.data[-1, :9, :9] = 117
    dock.click("pause")
    dock.wait()
    raw = expected(model, image).mask.array
    final = expected(model, image, **dict.fromkeys(options, True)).mask.array
    assert (raw != final).any()
    # Where the user has painted what was predicted, nothing was changed by hand.
    truth = final.copy()
    truth[-1, :9, :9][raw[-1, :9, :9] != 117] = 117
    assert (truth != final).any()
    assert np.array_equal(result.data, truth)
    written = prediction_of(result)
    assert written is not None
    assert np.array_equal(written.written, final)
    assert dock.rows() == [("ct", "done", "")]


def test_probabilities_and_entropy_lie_on_the_image(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    image = viewer.add_image(make_image(3), name="ct", **GEOMETRY)
    dock = open_dock()
    dock.click("probabilities")
    dock.click("entropy")
    dock.run()
    truth = expected(model, image, probabilities=True, entropy=True)
    names = [f"ct – blobs: {n}" for n in ("background", *NAMES.values())]
    maps = [viewer.layers[name] for name in names]
    for layer, chance in zip(maps, truth.probabilities, strict=True):
        assert not layer.visible
        assert layer.data.dtype == np.float32
        assert np.array_equal(layer.data, chance)
        np.testing.assert_allclose(corners(layer), corners(image), atol=1e-5)
    np.testing.assert_allclose(sum(m.data for m in maps), 1, atol=5e-3)
    assert np.allclose(maps[1].colormap.map([1.0]), (1, 0, 0, 1))
    entropy = viewer.layers["ct – blobs: entropy"]
    assert not entropy.visible
    # Under the mask, the first class on top.
    stack = [entropy, *reversed(maps), result_of(viewer, "ct")]
    assert list(viewer.layers)[-len(stack) :] == stack
    assert np.array_equal(entropy.data, truth.entropy.array)
    np.testing.assert_allclose(corners(entropy), corners(image), atol=1e-5)
    # They are results, not images to segment.
    assert dock.child(QListWidget, "images").count() == 1


@pytest.mark.parametrize("way", ["deleted", "replaced"])
def test_a_result_layer_that_the_user_takes_is_left_alone(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock], way: str
) -> None:
    viewer.add_image(make_image(2), name="b")
    viewer.add_image(make_image(LONG), name="a")
    dock = open_dock()
    dock.click("all")
    dock.start()
    dock.wait_for_slices()
    result = result_of(viewer, "a")
    if way == "deleted":
        viewer.layers.remove(result)
    else:
        result.data = np.zeros((2, 3, 4), np.uint8)
    dock.click("pause")
    dock.wait()
    assert dock.rows()[0][1].startswith("stopped")
    assert "result layer" in dock.rows()[0][2]
    assert dock.rows()[1][1] == "done"
    assert ("a – blobs" in viewer.layers) == (way == "replaced")
    assert not result.data.any() or way == "deleted"


def test_an_image_that_is_deleted_is_segmented_as_it_was(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    image = viewer.add_image(make_image(30), name="ct", **GEOMETRY)
    truth, place = expected(model, image).mask.array, world_affine(image)
    dock = open_dock()
    dock.start()
    dock.wait_for_slices()
    viewer.layers.remove(image)
    dock.click("pause")
    dock.wait()
    assert dock.rows()[0][1] == "done"
    assert "deleted" in dock.rows()[0][2]
    assert np.array_equal(result_of(viewer, "ct").data, truth)
    np.testing.assert_allclose(world_affine(result_of(viewer, "ct")), place)


def test_an_image_that_gets_other_data_is_segmented_as_it_was(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    image = viewer.add_image(make_image(30), name="ct")
    truth = expected(model, image).mask.array
    dock = open_dock()
    dock.start()
    dock.wait_for_slices()
    image.data = make_image(4, 20)
    image.name = "smaller"
    dock.click("pause")
    dock.wait()
    assert "changed" in dock.rows()[0][2]
    assert np.array_equal(result_of(viewer, "ct").data, truth)


def test_the_dock_can_be_closed_while_it_runs(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock], qtbot: Any
) -> None:
    viewer.add_image(make_image(LONG), name="ct")
    dock = open_dock()
    dock.start()
    dock.wait_for_slices()
    job = dock.panel.run.job
    n_done = dock.n_done()
    with qtbot.waitSignal(job.ended, timeout=30_000) as ended:
        viewer.window.remove_dock_widget(dock.dock)
    assert ended.args[0] == "stopped"
    result = result_of(viewer, "ct")
    assert not result.data[n_done + 5 :].any()
    said = [notice.message for notice in notification_manager.records]
    assert any(f"the last slices of {result.name} are empty" in text for text in said)
    viewer.add_image(make_image(2), name="later")  # nobody listens any more
    viewer.layers["later"].name = "renamed"


def test_layers_are_followed_and_keep_their_ticks(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    dock = open_dock()
    assert dock.child(QLabel, "no_image").isVisibleTo(dock.panel)
    dock.start()
    assert dock.message.startswith("No image is open")
    for name in "abc":
        viewer.add_image(np.zeros((4, 4)), name=name)
    viewer.add_labels(np.zeros((4, 4), int), name="labels")
    assert dock.ticked() == []
    dock.tick("a", "b")
    viewer.layers["a"].name = "z"
    assert dock.ticked() == ["b", "z"]
    viewer.layers.remove("b")
    viewer.layers.move(0, 2)
    assert dock.ticked() == ["z"]
    dock.click("all")
    assert sorted(dock.ticked()) == ["c", "z"]
    dock.click("none")
    assert dock.ticked() == []


def test_only_slices_that_are_seen_are_drawn(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    viewer.add_image(make_image(60), name="ct")
    viewer.dims.set_point(0, 59)
    dock = open_dock()
    dock.start()
    dock.wait_for_slices()
    drawn = []
    result = result_of(viewer, "ct")
    result.events.set_data.connect(lambda _: drawn.append(None))
    dock.click("pause")
    dock.qtbot.waitUntil(lambda: dock.n_done() >= 50, timeout=60_000)
    assert not drawn
    dock.wait()
    assert drawn
    assert result.data[59].any()


def make_result(viewer: Viewer) -> tuple[Any, ImageResult, LibraryEntry]:
    """Make the result of the only model on a new image; both layers' names begin ct."""
    image = viewer.add_image(make_image(4), name="ct")
    entry = ModelLibrary().entries()[0]
    return image, ImageResult(viewer, image, entry), entry


def test_a_result_without_a_layer_does_not_lay_it_where_the_image_was(
    model: Path, viewer: Viewer
) -> None:
    image, result, entry = make_result(viewer)
    image.translate = (5, 5, 5)
    assert not result.fits(image, entry)


def test_shuffled_colours_and_a_renamed_model_cost_nothing(
    model: Path, viewer: Viewer
) -> None:
    image, result, _ = make_result(viewer)
    stream = segment(model, volume_of(image), SegmentSettings(entropy=True))
    for event in stream:
        result.write(event)
    found = expected(model, image, entropy=True)
    layer = result_of(viewer, "ct")
    layer.new_colormap()
    renamed = ModelLibrary().rename(model, "kidney")
    result.finish(found)
    assert [made.name for made, _ in result.maps(found)] == ["ct – blobs: entropy"]
    assert prediction_of(layer).earlier.keys() == kept_labels(renamed).keys() != set()


def test_in_three_dimensions_it_is_drawn_at_most_once_a_second(
    model: Path, viewer: Viewer
) -> None:
    image, result, _ = make_result(viewer)
    viewer.dims.ndisplay = 3
    slices = list(segment(model, volume_of(image)))
    drawn = []
    result.write(slices[0])
    result_of(viewer, "ct").events.set_data.connect(lambda _: drawn.append(None))
    result.mask.refresh()
    for done in slices[1:]:
        result.write(done)
        result.mask.refresh()
    assert len(drawn) == 1
    result.mask.refresh(at_once=True)
    result.mask.refresh(at_once=True)
    assert len(drawn) == 2


def endless() -> Iterator[Notice]:
    with suppress(Stop):
        while True:
            yield Notice(message="on it")


def test_another_job_is_waited_for(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock], qtbot: Any
) -> None:
    viewer.add_image(make_image(2), name="ct")
    dock = open_dock()
    other = Job(endless, "something else")
    other.set_paused(True)
    other.start()
    dock.start()
    qtbot.waitUntil(lambda: "Waiting" in dock.message, timeout=5_000)
    assert dock.message == "Waiting for the other job to end."
    assert dock.rows()[0][1] == "waiting"
    with qtbot.waitSignal(other.ended, timeout=5_000):
        other.stop()
    dock.wait()
    assert dock.rows()[0][1] == "done"


def test_a_job_that_is_over_lets_go_of_its_volume(viewer: Viewer, qtbot: Any) -> None:
    """Napari keeps the worker until its window is closed."""

    class Large:
        pass

    def work(volume: Large) -> Iterator[Notice]:
        yield Notice(message="on it")
        return Large()

    volume, results = Large(), []
    job = Job(partial(work, volume), "large")
    job.ended.connect(lambda _, result: results.append(ref(result)))
    with qtbot.waitSignal(job.ended, timeout=5_000):
        job.start()
    waited = Large()
    first, second = Job(endless, "first"), Job(partial(work, waited), "waiting")
    first.set_paused(True)
    first.start()
    qtbot.waitUntil(is_computing, timeout=5_000)
    second.start()
    qtbot.waitUntil(partial(getattr, second, "is_waiting"), timeout=5_000)
    with qtbot.waitSignal(second.ended, timeout=5_000):
        second.stop()
    with qtbot.waitSignal(first.ended, timeout=5_000):
        first.stop()
    kept, (result,), unseen = ref(volume), results, ref(waited)
    del volume, job, waited, first, second
    gc.collect()
    assert [kept(), result(), unseen()] == [None] * 3


# The model.


def test_without_a_model_the_dock_says_what_to_do(
    viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    viewer.add_image(make_image(2))
    dock = open_dock()
    line = dock.child(QLabel, "model_line").text()
    assert "Fine-tune" in line
    dock.start()
    assert dock.message == line
    assert notifications() == [line]
    assert dock.button("segment").isEnabled()


def test_models_are_followed_and_the_chosen_one_stays(
    model: Path, trained: TrainedModel, open_dock: Callable[[], Dock], qtbot: Any
) -> None:
    dock = open_dock()
    combo = dock.child(QComboBox, "model")
    line = dock.child(QLabel, "model_line").text()
    assert combo.currentText() == "blobs"
    for part in ("bright, dark/old, grey", "axial", "Dice 0.", "tiny"):
        assert part in line
    newer = replace(trained.card, created="2999-01-01T00:00:00+00:00")
    ModelLibrary().add(replace(trained, card=newer), "newer")
    qtbot.waitUntil(lambda: combo.count() == 2, timeout=5_000)
    assert combo.itemText(0) == "newer"
    assert combo.currentText() == "blobs"
    renamed = ModelLibrary().rename(model, "kidney")
    qtbot.waitUntil(lambda: combo.currentText() == "kidney", timeout=5_000)
    ModelLibrary().delete(renamed)
    qtbot.waitUntil(lambda: combo.count() == 1, timeout=5_000)
    assert combo.currentText() == "newer"


def test_a_bad_folder_is_one_line_of_the_list_and_the_others_work(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    card = json.loads((model / "card.json").read_text())
    name = "\x1b[31m<b>bright</b>\n" + "x" * 900
    card["classes"]["names"][1] = name
    (model / "card.json").write_text(json.dumps(card))
    for place, content in {
        "axis": json.dumps(card | {"axis": 5}),
        "brackets": "[" * 100_000,
        "<b>bold": json.dumps(card | {"backbone": "resnet"}),
    }.items():
        (model.parent / place).mkdir()
        (model.parent / place / "card.json").write_text(content)
    (model.parent / "folder" / "card.json").mkdir(parents=True)
    viewer.add_image(make_image(2), name="ct")
    dock = open_dock()
    combo = dock.child(QComboBox, "model")
    titles = [combo.itemText(i) for i in range(combo.count())]
    bad = ["<b>bold", "axis", "brackets", "folder"]
    assert titles == ["blobs", *(f"{place} (damaged)" for place in bad)]
    tips = [combo.itemData(i, Qt.ItemDataRole.ToolTipRole) for i in range(5)]
    assert "axis is 5" in tips[2]
    assert [combo.model().item(i).isEnabled() for i in range(5)] == [True, *[False] * 4]
    line = dock.child(QLabel, "model_line")
    assert line.text().startswith(r"\x1b[31m<b>bright</b>\nxxx")
    assert len(line.text()) < 300
    assert line.textFormat() == Qt.TextFormat.PlainText
    dock.run()
    assert result_of(viewer, "ct", "blobs").data.any()


def test_a_model_elsewhere_can_be_chosen(
    model: Path,
    viewer: Viewer,
    open_dock: Callable[[], Dock],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = model.rename(tmp_path / "elsewhere")
    viewer.add_image(make_image(2), name="ct")
    dock = open_dock()
    dialog = "qtpy.QtWidgets.QFileDialog.getExistingDirectory"
    monkeypatch.setattr(dialog, lambda *_: str(tmp_path))
    dock.click("other_folder")
    assert "is no model folder" in dock.child(QLabel, "model_line").text()
    monkeypatch.setattr(dialog, lambda *_: str(elsewhere))
    dock.click("other_folder")
    assert dock.child(QComboBox, "model").currentText() == "elsewhere"
    dock.run()
    assert result_of(viewer, "ct", "elsewhere").data.any()


def test_a_damaged_model_leaves_the_dock_ready(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    viewer.add_image(make_image(2), name="ct")
    (model / "weights.safetensors").write_bytes(b"nothing")
    dock = open_dock()
    dock.run()
    assert "damaged" in dock.message
    assert notifications() == [dock.message]
    assert dock.rows()[0][1] == "waiting"
    assert len(viewer.layers) == 1


def test_an_unexpected_error_is_raised_where_napari_shows_it(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock], qtbot: Any
) -> None:
    class Broken:
        shape, ndim, dtype = (2, 40, 40), 3, np.dtype(np.float32)
        is_broken = False

        def __getitem__(self, key: Any) -> np.ndarray:
            if self.is_broken:
                raise RuntimeError("the disk fell out")
            return np.zeros(self.shape, self.dtype)[key]

    array = Broken()
    viewer.add_image(make_image(2), name="good")
    viewer.add_image(array, name="bad", contrast_limits=(0, 1))
    dock = open_dock()
    dock.click("all")
    array.is_broken = True
    with qtbot.capture_exceptions() as exceptions:
        dock.run()
    array.is_broken = False
    assert [row[1] for row in dock.rows()] == ["failed", "done"]
    assert "the disk fell out" in dock.rows()[0][2]
    assert [str(e[1]) for e in exceptions] == ["the disk fell out"]


# Files.


def save_nifti(path: Path, n_slices: int = 3) -> np.ndarray:
    """Write a volume with an affine of its own, in an order of its own."""
    affine = np.array(
        [[0, 0, -1.5, 40], [-0.8, 0, 0, 30], [0, 0.9, 0, -7], [0, 0, 0, 1.0]]
    )
    path.parent.mkdir(exist_ok=True)
    array = make_image(40)[:, :, :].transpose(1, 0, 2)[:, :, : 10 * n_slices]
    nib.Nifti1Image(array, affine).to_filename(path)
    return affine


def test_a_folder_is_segmented_into_files_in_the_images_space(
    model: Path, open_dock: Callable[[], Dock], tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "images" / "segmented"
    affine = save_nifti(images / "a.nii.gz")
    (images / "b.nii.gz").write_bytes(b"this is no image")
    (images / "notes.txt").touch()
    save_nifti(images / "c.nii", 2)
    dock = open_dock()
    dock.choose_files(images)
    assert dock.child(QLineEdit, "target").text() == str(out)
    dock.click("entropy")
    dock.click("probabilities")
    dock.run()
    assert [row[:2] for row in dock.rows()] == [
        ("a.nii.gz", "done"),
        ("b.nii.gz", "failed"),
        ("c.nii", "done"),
    ]
    assert "b.nii.gz" in dock.rows()[1][2]
    assert dock.message.endswith("as it is no image: notes.txt.")
    suffixes = ["", "_entropy"] + [
        f"_prob-{n}" for n in ("background", "bright", "dark-old", "grey")
    ]
    assert {p.name for p in out.iterdir()} == {
        *(f"a{s}.nii.gz" for s in suffixes),
        *(f"c{s}.nii" for s in suffixes),
    }
    for suffix in suffixes:
        assert np.allclose(nib.load(out / f"a{suffix}.nii.gz").affine, affine)
    truth = drain(segment(model, images / "a.nii.gz")).mask.array
    assert np.array_equal(read_labels(out / "a.nii.gz").array, truth)
    chances = [np.asarray(nib.load(p).dataobj) for p in out.glob("a_prob-*")]
    np.testing.assert_allclose(sum(chances), 1, atol=5e-3)


def test_a_folder_goes_on_where_it_was_stopped(
    model: Path, open_dock: Callable[[], Dock], tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    save_nifti(images / "a.nii.gz", 1)
    save_nifti(images / "b.nii.gz", 3)
    dock = open_dock()
    dock.choose_files(images / "a.nii.gz", images / "b.nii.gz")
    dock.child(QLineEdit, "target").setText(str(out))
    dock.start()
    dock.qtbot.waitUntil(lambda: dock.rows()[0][1] == "done", timeout=60_000)
    dock.wait_for_slices()
    dock.click("stop")
    dock.wait()
    assert dock.message.endswith("Click Segment to go on.")
    assert [p.name for p in out.iterdir()] == ["a.nii.gz"]
    written = (out / "a.nii.gz").stat().st_mtime_ns
    dock.run()
    assert [row[1] for row in dock.rows()] == ["kept", "done"]
    assert (out / "a.nii.gz").stat().st_mtime_ns == written
    dock.click("entropy")
    dock.run()
    assert [row[1] for row in dock.rows()] == ["done", "done"]
    assert all("Only what was not there is new" in row[2] for row in dock.rows())
    assert (out / "a.nii.gz").stat().st_mtime_ns == written
    dock.click("replaces")
    dock.run()
    assert [row[1] for row in dock.rows()] == ["done", "done"]
    assert (out / "a.nii.gz").stat().st_mtime_ns > written
    rows = [Row(name="a", source=images, state="done")]
    told = summary(rows, is_stopped=True, replaces=True)
    assert told.endswith("Untick Replace results and click Segment to go on.")


@pytest.mark.parametrize("lacking", ["files", "target", "images"])
def test_what_is_lacking_is_said(
    model: Path, open_dock: Callable[[], Dock], tmp_path: Path, lacking: str
) -> None:
    dock = open_dock()
    dock.child(QTabWidget, "source").setCurrentIndex(1)
    if lacking != "files":
        dock.choose_files(tmp_path)
    if lacking == "target":
        dock.child(QLineEdit, "target").clear()
    dock.start()
    words = {
        "files": "No files",
        "target": "folder for the results",
        "images": "no image",
    }
    assert words[lacking] in dock.message
    assert dock.button("segment").isEnabled()


# The dock itself.


def test_every_control_has_a_tooltip_and_is_reached_by_tab(
    model: Path, viewer: Viewer, open_dock: Callable[[], Dock]
) -> None:
    viewer.add_image(make_image(2))
    dock = open_dock()
    kinds = (QAbstractButton, QComboBox, QLineEdit, QListWidget, QTableWidget)
    named = [w for k in kinds for w in dock.panel.findChildren(k) if w.objectName()]
    # The rest are Qt's own, such as the arrows of the tabs.
    controls = [w for w in named if re.fullmatch("[a-z_]+", w.objectName())]
    controls = [w for w in controls if not w.objectName().startswith("qt_")]
    assert len(controls) >= 17
    for control in controls:
        assert control.toolTip(), control.objectName()
        assert control.focusPolicy() & Qt.FocusPolicy.TabFocus, control.objectName()
    names = [w.text() for w in dock.panel.findChildren(QAbstractButton)]
    keys = [n[n.index("&") + 1].lower() for n in names if "&" in n]
    assert len(keys) == len(set(keys))
    assert dock.panel.minimumSizeHint().height() < 400

"""A batch says and gives the same to Python, the shell and the dock."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from napari import Viewer
from qtpy.QtWidgets import QAbstractButton, QLineEdit, QTableWidget, QTabWidget
from tests.phantom import TINY, keep_slices, make_phantom
from tests.plugin.dropping import drop_files
from typer.testing import CliRunner

from medsaga import (
    ModelLibrary,
    TrainedModel,
    TrainingData,
    drain,
    fine_tune,
    segment_batch,
)
from medsaga.cli import app
from medsaga.events import Notice
from medsaga.segmentation import batch

N_SLICES = 6


class Outcome(NamedTuple):
    """What was said of each image, and the masks that are there in the end."""

    statuses: list[str]
    sentences: list[str]
    masks: dict[str, bytes]


class Stopping:
    """Holds a stream at one slice until somebody has pressed Stop."""

    def __init__(self, *, happens: bool) -> None:
        self.happens = happens
        self.begin()

    def begin(self) -> None:
        self.reached, self.pressed = threading.Event(), threading.Event()
        self.press: Callable[[], object] = self.pressed.set

    def hold(self) -> None:
        self.reached.set()
        self.press()
        assert self.pressed.wait(60)


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    image, labels = make_phantom()
    return drain(fine_tune(TrainingData(image, keep_slices(labels, [1, 4, 7])), TINY))


@pytest.fixture
def model(trained: TrainedModel) -> Path:
    return ModelLibrary().add(trained, "blobs")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b", "c"):
        array = make_phantom(N_SLICES)[0].T
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def fault(
    request: pytest.FixtureRequest, images: Path, monkeypatch: pytest.MonkeyPatch
) -> Stopping:
    """Let something go wrong with the second image."""
    stopping, segment = Stopping(happens=request.param == "stop"), batch.segment
    if request.param == "broken file":
        (images / "b.nii.gz").write_bytes(b"no image")

    def segment_or_fail(
        model: Any, image: Any, settings: Any, **options: Any
    ) -> Iterator[Any]:
        stream = segment(model, image, settings, **options)
        if image.name != "b":
            return (yield from stream)
        if not stopping.happens:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        yield next(stream)
        stopping.hold()
        return (yield from stream)

    monkeypatch.setattr(batch, "segment", segment_or_fail)
    return stopping


def masks_in(folder: Path) -> dict[str, bytes]:
    paths = sorted(folder.glob("*")) if folder.exists() else []
    return {path.name: np.asarray(nib.load(path).dataobj).tobytes() for path in paths}


def by_python(model: Path, images: Path, out: Path, stopping: Stopping) -> Outcome:
    stream = segment_batch(model, images, out=out)
    results = drain(stream, should_stop=stopping.pressed.is_set)
    statuses = [result.status for result in results]
    return Outcome(statuses, [result.message for result in results], masks_in(out))


def by_shell(model: Path, images: Path, out: Path, stopping: Stopping) -> Outcome:
    def press() -> None:
        signal.raise_signal(signal.SIGINT)
        stopping.pressed.set()

    stopping.press = press
    command = ["segment", str(model), str(images), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, command)
    found = json.loads(done.stdout)["images"]
    statuses = [item["status"].replace("written", "done") for item in found]
    return Outcome(statuses, [item["error"] or "" for item in found], masks_in(out))


class Dock:
    """The dock as a user handles it."""

    def __init__(self, viewer: Viewer, qtbot: Any) -> None:
        self.qtbot = qtbot
        _, self.panel = viewer.window.add_plugin_dock_widget(
            "napari-medsaga", "Segment"
        )

    def button(self, name: str) -> Any:
        return self.panel.findChild(QAbstractButton, name)

    def __call__(
        self, model: Path, images: Path, out: Path, stopping: Stopping
    ) -> Outcome:
        stopping.press = lambda: None
        source = self.panel.findChild(QTabWidget, "source")
        source.setCurrentIndex(1)
        drop_files(source.currentWidget(), images)
        source.currentWidget().findChild(QLineEdit, "target").setText(str(out))
        self.button("segment").click()
        if stopping.happens:
            self.qtbot.waitUntil(stopping.reached.is_set, timeout=60_000)
            self.button("stop").click()
            stopping.pressed.set()
        self.qtbot.waitUntil(self.button("segment").isEnabled, timeout=60_000)
        table = self.panel.findChild(QTableWidget, "queue")
        rows = range(table.rowCount())
        # One that never began is left to do, which is a stop's doing.
        states = [table.item(r, 1).text().replace("waiting", "stopped") for r in rows]
        return Outcome(
            [state.split()[0] for state in states],
            [table.item(r, 2).text() for r in rows],
            masks_in(out),
        )


@pytest.mark.parametrize(
    ("fault", "statuses", "sentence"),
    [
        ("no memory", ["done", "failed", "done"], "The memory is not enough"),
        ("broken file", ["done", "failed", "done"], "it is broken or no image"),
        ("stop", ["done", "stopped", "stopped"], ""),
    ],
    indirect=["fault"],
)
def test_all_three_say_and_give_the_same(
    fault: Stopping,
    statuses: list[str],
    sentence: str,
    model: Path,
    images: Path,
    tmp_path: Path,
    make_napari_viewer: Callable[..., Viewer],
    qtbot: Any,
) -> None:
    dock = Dock(make_napari_viewer(), qtbot)
    outcomes = []
    for number, run in enumerate((by_python, by_shell, dock)):
        fault.begin()
        outcomes.append(run(model, images, tmp_path / f"out {number}", fault))
    first = outcomes[0]
    assert outcomes == [first] * 3
    assert first.statuses == statuses
    assert sentence in first.sentences[1]
    done = [s == "done" for s in statuses]
    assert list(first.masks) == [
        f"{n}.nii.gz" for n, d in zip("abc", done, strict=True) if d
    ]


def test_what_is_said_of_an_image_is_said_by_all_three(
    model: Path,
    images: Path,
    tmp_path: Path,
    make_napari_viewer: Callable[..., Viewer],
    qtbot: Any,
) -> None:
    grey = np.full((40, 40, N_SLICES), 7, np.int16)
    nib.save(nib.Nifti1Image(grey, np.eye(4)), images / "b.nii.gz")
    sentence = "b is 7 everywhere: nothing is seen in it."
    said: list[Any] = []
    drain(segment_batch(model, images, out=tmp_path / "out"), said.append)
    assert [
        e.event.message for e in said if isinstance(getattr(e, "event", None), Notice)
    ] == [sentence]
    command = ["segment", str(model), str(images), "--out", str(tmp_path / "shell")]
    assert sentence in CliRunner().invoke(app, command).stderr
    dock = Dock(make_napari_viewer(), qtbot)
    outcome = dock(model, images, tmp_path / "dock", Stopping(happens=False))
    assert outcome.statuses == ["done"] * 3
    assert outcome.sentences == ["", sentence, ""]

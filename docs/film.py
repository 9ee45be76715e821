"""Makes the film of the README: the loop of annotating, on the bundled phantom.

    python docs/film.py [--out docs/images/loop.gif]

A window opens (under Xvfb too), one slice is painted by boxes, Live suggests the next
ones, one of them is accepted, a model is trained, and its result is looked at. What is
seen is what happens: nothing is drawn into the frames.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")
os.environ["MEDSAGA_MODELS"] = tempfile.mkdtemp()
os.environ["MEDSAGA_STATE"] = tempfile.mkdtemp()

import napari
import numpy as np
from PIL import Image as Picture
from qtpy.QtGui import QImage
from qtpy.QtWidgets import QApplication

from napari_medsaga.files.sample_data import open_phantom_truth
from napari_medsaga.layers.plane import Plane, go_to

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE = 1180, 760
_WIDTH = 900
_COLOURS = 128
_FIRST, _MINUTES = 12, 0.5


class Film:
    """Frames of a window, each with the time that it stays."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._window = viewer.window._qt_window
        self._frames: list[Picture.Image] = []
        self._durations: list[int] = []

    def wait(self, until: Callable[[], bool], seconds: float = 120.0) -> None:
        """Run the window until something is so."""
        end = time.monotonic() + seconds
        while not until() and time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.005)

    def shoot(self, seconds: float) -> None:
        """Take a frame that stays so long."""
        self.wait(lambda: False, 0.4)
        shown = self._window.grab().toImage()
        shown = shown.convertToFormat(QImage.Format.Format_RGB888)
        height, width = shown.height(), shown.width()
        bits = shown.constBits()
        raw = bytes(bits) if hasattr(bits, "__len__") else bits.asstring(bits.getsize())
        rows = np.frombuffer(raw[: height * shown.bytesPerLine()], np.uint8)
        pixels = rows.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
        picture = Picture.fromarray(pixels)
        size = _WIDTH, round(height * _WIDTH / width)
        self._frames.append(picture.resize(size, Picture.Resampling.LANCZOS))
        self._durations.append(round(1000 * seconds))

    def write(self, path: Path) -> None:
        """Write a GIF of one palette, so that what stays the same takes no room."""
        joined = Picture.new("RGB", (_WIDTH, sum(f.height for f in self._frames)))
        top = 0
        for frame in self._frames:
            joined.paste(frame, (0, top))
            top += frame.height
        palette = joined.quantize(_COLOURS, dither=Picture.Dither.NONE)
        none = Picture.Dither.NONE
        first, *others = [
            f.quantize(palette=palette, dither=none) for f in self._frames
        ]
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=self._durations,
            loop=0,
            optimize=True,
        )


def box_classes(film: Film, panel: Any, viewer: napari.Viewer, truth: Any) -> None:
    """Paint every class of the slice in sight by a box around it."""
    painting = panel.painting
    image, labels = panel.data.image_layer(), panel.data.labels_layer()
    painting.point.click()
    plane = Plane.shown(viewer, image)
    assert plane is not None
    prompts = viewer.layers["prompts"]
    for number, value in enumerate(np.unique(truth[_FIRST])[1:], 1):
        labels.selected_label = number
        rows, columns = np.nonzero(truth[_FIRST] == value)
        top, left = rows.min() - 1.0, columns.min() - 1.0
        bottom, right = rows.max() + 2.0, columns.max() + 2.0
        corners = np.array([(top, left), (top, right), (bottom, right), (bottom, left)])
        prompts.data = [(plane.outline(image, corners), "rectangle")]
        film.shoot(0.5)
        painting.status.clear()
        painting.prompting.pointer.boxed.emit(plane, (top, left, bottom, right))
        film.wait(lambda: "pixels of" in painting.status.text())
        film.shoot(0.5)
        painting.prompting.keep()
    painting.point.click()


def suggest(film: Film, panel: Any, viewer: napari.Viewer) -> None:
    """Scroll with Live on, and accept a slice."""
    panel.painting.suggest.click()
    film.wait(lambda: any(layer.name.endswith("live") for layer in viewer.layers))
    image = panel.data.image_layer()
    for index in (_FIRST, _FIRST + 1, _FIRST + 2, _FIRST + 4):
        go_to(viewer, image, 0, index)
        film.wait(lambda i=index: i in panel.painting.live.layer.shown)
        film.shoot(0.7)
    panel.painting.accept.click()
    film.wait(lambda: False, 1.5)
    film.shoot(1.0)
    go_to(viewer, image, 0, _FIRST - 3)
    film.wait(lambda: _FIRST - 3 in panel.painting.live.layer.shown)
    film.shoot(0.7)
    panel.painting.accept.click()
    film.wait(lambda: False, 1.0)
    film.shoot(0.9)
    panel.painting.suggest.click()


def train(film: Film, panel: Any, viewer: napari.Viewer) -> None:
    """Fine-tune, and look at the result."""
    panel.plan.set_settings(replace(panel.plan.settings(), minutes=_MINUTES))
    film.wait(panel.run.start.isEnabled)
    go_to(viewer, panel.data.image_layer(), 0, _FIRST + 3)
    panel.run.start.click()
    film.wait(lambda: panel.training is not None)
    film.shoot(0.7)
    for _ in range(4):
        film.wait(lambda: panel.training is None, 8.0)
        film.shoot(0.7)
    film.wait(lambda: panel.training is None, 300.0)
    film.wait(lambda: False, 1.0)
    for step in range(0, 12, 2):
        go_to(viewer, panel.data.image_layer(), 0, _FIRST - 5 + step)
        film.shoot(0.5)
    film.shoot(2.0)


def main() -> None:
    """Parse the command line and make the film."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/loop.gif"))
    options = parser.parse_args()
    viewer = napari.Viewer()
    viewer.window._qt_window.resize(*_SIZE)
    viewer.open_sample("napari-medsaga", "phantom")
    (labels,) = [x for x in viewer.layers if isinstance(x, napari.layers.Labels)]
    viewer.layers.remove(labels)
    (truth,) = [data for data, _, kind in open_phantom_truth() if kind == "labels"]
    _, panel = viewer.window.add_plugin_dock_widget("napari-medsaga", "Fine-tune")
    film = Film(viewer)
    film.wait(lambda: panel.computer.speed is not None)
    go_to(viewer, panel.data.image_layer(), 0, _FIRST)
    for _ in np.unique(truth[_FIRST])[1:]:
        panel.data.classes.findChild(object, "add_class").click()
    film.shoot(1.0)
    box_classes(film, panel, viewer, np.asarray(truth))
    suggest(film, panel, viewer)
    train(film, panel, viewer)
    film.write(options.out)
    viewer.close()


if __name__ == "__main__":
    main()

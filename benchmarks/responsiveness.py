"""How long the viewer stalls while the default model is fine-tuned in its dock.

Opens a real window with the sample, clicks Fine-tune and lets a timer tick every few
milliseconds: what it is late by is a stall of the event loop. Prints, for each phase,
the longest stall and the 99th percentile in milliseconds, beside those of the same
window with nothing to do, measured in the same run.

    python benchmarks/responsiveness.py [--preset balanced] [--cold] [--live]
        [--json FILE]

With `--cold` the click comes as soon as the dock stands, while torch is still being
imported; without it, when all is imported, as for any training but the first. With
`--live` suggestions are on: a stroke and a step to the next slice every second before
the click, and a step every two seconds while the model learns.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")
os.environ["MEDSAGA_MODELS"] = tempfile.mkdtemp()

import napari
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

if TYPE_CHECKING:
    from collections.abc import Callable

TICK_MS = 5


class Ticker:
    """A timer in the event loop, and by how much each of its ticks was late."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._timer = QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._on_tick)
        self._timer.start()

    def _on_tick(self) -> None:
        self._times.append(time.perf_counter())

    def stalls(self) -> dict[str, float]:
        """Give the stalls since the last call, in milliseconds."""
        times, self._times = np.array(self._times), self._times[-1:]
        late = np.diff(times) * 1000 - TICK_MS
        return {
            "longest": round(float(late.max()), 1),
            "p99": round(float(np.percentile(late, 99)), 1),
            "over_100": int((late > 100).sum()),
            "ticks": len(late),
            "seconds": round(float(times[-1] - times[0]), 1),
        }


def pump(until: Callable[[], bool], seconds: float) -> None:
    """Run the event loop until something is so, or the time is up."""
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.001)


class Painter:
    """Paints and scrolls, as a user does with Live on."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer, self._n = viewer, 0
        self._labels = viewer.layers["phantom annotations"]
        self.timer = QTimer()
        self.timer.timeout.connect(self._scroll)

    def paint(self, n: int) -> None:
        """Paint `n` strokes, and step on after each."""
        size = self._labels.data.shape
        for number in range(n):
            row = size[1] // 2 + number
            stroke = (np.full(9, self._here()), np.full(9, row), np.arange(40, 49))
            self._labels.data_setitem(stroke, 1)
            pump(lambda: False, 0.5)
            self._scroll()
            pump(lambda: False, 0.5)

    def _here(self) -> int:
        return int(self._viewer.dims.current_step[0])

    def _scroll(self) -> None:
        self._n += 1
        self._viewer.dims.set_current_step(0, self._n % self._labels.data.shape[0])


def is_warm() -> bool:
    """Whether the last of the imports in the background is done."""
    return "monai.losses" in sys.modules


def measure(preset: str, *, cold: bool, live: bool) -> dict[str, dict[str, float]]:
    """Train once and give the stalls of each phase."""
    viewer = napari.Viewer()
    viewer.open_sample("napari-medsaga", "phantom")
    pump(lambda: False, 2)
    phases = {}
    ticker = Ticker()
    pump(lambda: False, 5)
    phases["idle viewer"] = ticker.stalls()
    started = time.perf_counter()
    _, panel = viewer.window.add_plugin_dock_widget("napari-medsaga", "Fine-tune")
    QApplication.processEvents()
    opening = time.perf_counter() - started
    if not cold:
        pump(is_warm, 120)
    pump(panel.run.start.isEnabled, 60)
    phases["opening, torch imported in the background"] = ticker.stalls()
    phases["opening, torch imported in the background"]["dock_opened_in"] = opening
    panel.findChild(object, preset).click()
    if not cold:
        pump(lambda: False, 2)
        ticker.stalls()

    painter = Painter(viewer)
    if live:
        panel.painting.suggest.click()
        pump(lambda: "phantom live" in viewer.layers, 30)
        ticker.stalls()
        painter.paint(10)
        phases["strokes and slices with Live on"] = ticker.stalls()
        painter.timer.start(2000)
    clicked = time.perf_counter()
    panel.run.start.click()
    pump(lambda: panel.training is not None, 60)
    layers = panel.training.layers
    QApplication.processEvents()
    phases["the click, which adds a layer"] = ticker.stalls()
    pump(lambda: layers.previewed is not None, 600)
    phases["head stage"] = ticker.stalls()
    phases["head stage"]["first_preview_after"] = time.perf_counter() - clicked
    pump(lambda: layers.result.layer is not None or panel.training is None, 6000)
    phases["GaLore stage"] = ticker.stalls()
    pump(lambda: panel.training is None, 600)
    phases["segmentation"] = ticker.stalls()
    phases["segmentation"]["all_done_after"] = time.perf_counter() - clicked
    print(panel.run.status.text())
    viewer.close()
    return phases


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--live", action="store_true")
    options = parser.parse_args()
    phases = measure(options.preset, cold=options.cold, live=options.live)
    for phase, numbers in phases.items():
        print(f"{phase:45}", {k: round(v, 1) for k, v in numbers.items()})
    if options.json:
        options.json.write_text(json.dumps(phases, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

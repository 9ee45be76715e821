"""The command that opens napari with the sample and the dock, in a process of its own.

Only there is torch imported as a user meets it: in a thread, after OpenGL.
"""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, time
import napari
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QApplication

napari.run = lambda: None
from napari_medsaga.__main__ import main

main()
viewer = napari.current_viewer()
assert [layer.name for layer in viewer.layers] == ["phantom", "phantom annotations"]
assert "torch" not in sys.modules, "torch was imported before the dock was drawn"
widgets = QApplication.allWidgets()
panel = next(w for w in widgets if type(w).__name__ == "FineTunePanel")
end = time.monotonic() + 240
while "preview in" not in panel.run.plan.text():
    assert time.monotonic() < end, panel.run.plan.text()
    QApplication.processEvents()
    time.sleep(0.01)
assert "torch" in sys.modules
# The menu knows the dock: its entry hides it rather than opening another.
(entry,) = {
    a.text(): a
    for a in viewer.window._qt_window.findChildren(QAction)
    if a.text() == "Fine-tune (MedSAGa)" and a.isEnabled()
}.values()
entry.trigger()
assert not panel.isVisible()
entry.trigger()
assert panel.isVisible()
panels = [w for w in QApplication.allWidgets() if type(w).__name__ == "FineTunePanel"]
assert len(panels) == 1
assert panel.isVisible()
assert panel.run.start.isEnabled()
viewer.close()
print("ready")
"""


def test_the_sample_and_the_dock_stand_and_the_engine_gets_ready() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", CODE],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "ready" in done.stdout, done.stderr[-4000:]
    assert done.returncode == 0, done.stderr[-4000:]

"""The Fine-tune dock under test: opening it, clicking, waiting for what it does."""

from __future__ import annotations

from dataclasses import replace

from qtpy.QtWidgets import QLabel, QListWidget
from tests.phantom import TINY

from medsaga import ModelLibrary

ANNOTATED = [1, 4, 7, 10]
NAMES = {1: "bright", 5: "dark", 117: "white"}
COLOURS = {1: "#ff0000", 5: "#00ff00", 117: "#0000ff", None: "#ffffff", 0: "#00000000"}
TIMEOUT = 60_000

TINY = replace(TINY, steps=3)
# So many steps that a test always comes before the end.
LONG = replace(TINY, steps=5000)


def open_dock(viewer, qtbot, settings=TINY):
    _, panel = viewer.window.add_plugin_dock_widget("napari-medsaga", "Fine-tune")
    panel.plan.set_settings(settings)
    return panel


def open_second_dock(viewer):
    # conftest.py imports this file before it has set the place of napari's settings.
    from napari_medsaga.fine_tune import panel as panel_module

    panel = panel_module.FineTunePanel(viewer)
    viewer.window.add_dock_widget(panel, name="another")
    return panel


def wait_until_ready(panel, qtbot):
    qtbot.waitUntil(panel.run.start.isEnabled, timeout=TIMEOUT)


def click_and_wait(panel, qtbot):
    wait_until_ready(panel, qtbot)
    panel.run.status.clear()  # a training that fails at once is over before it is seen
    panel.run.start.click()
    qtbot.waitUntil(
        lambda: panel.training is None and bool(panel.run.status.text()),
        timeout=TIMEOUT,
    )


def start_training(panel, qtbot):
    """Click, and give the training."""
    wait_until_ready(panel, qtbot)
    panel.run.start.click()
    qtbot.waitUntil(lambda: panel.training is not None, timeout=TIMEOUT)
    return panel.training


def start_and_fill(panel, qtbot):
    """Click, and give the result once its layer is being filled."""
    result = start_training(panel, qtbot).layers.result
    qtbot.waitUntil(lambda: result.layer is not None, timeout=TIMEOUT)
    return result


def start_and_preview(panel, qtbot):
    """Click, and give the training once its model's first preview stands."""
    training = start_training(panel, qtbot)
    qtbot.waitUntil(
        lambda: training.layers.shows_model or panel.training is None,
        timeout=TIMEOUT,
    )
    assert training.layers.previewed is not None
    return training


def wait_for_model(qtbot, n: int = 1):
    qtbot.waitUntil(lambda: len(ModelLibrary().entries()) == n, timeout=TIMEOUT)
    return ModelLibrary().entries()[0]


def trained_slices(card) -> list[int]:
    slices = [*card.training_slices, *card.held_out_slices]
    assert len(slices) == len(set(slices))
    return sorted(one.index for one in slices)


def sentence(panel) -> str:
    return panel.findChild(QLabel, "annotated").text()


def listed(panel) -> list[str]:
    slices = panel.findChild(QListWidget, "slices")
    return [slices.item(i).text() for i in range(slices.count())]

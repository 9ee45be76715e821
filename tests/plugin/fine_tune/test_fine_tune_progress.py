"""What the Fine-tune dock and napari show of a training while it runs."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from napari._qt.widgets.qt_progress_bar import QtLabeledProgressBar
from qtpy.QtWidgets import QProgressBar
from tests.plugin.fine_tune.dock import (
    TIMEOUT,
    TINY,
    click_and_wait,
    wait_until_ready,
)

from medsaga import FineTuneSettings
from medsaga.events import Progress, SegmentedSlice, Stream
from medsaga.frontend import ClassTable
from napari_medsaga.fine_tune import run_box, under_way
from napari_medsaga.fine_tune.training import (
    TrainingRequest,
    TrainingResult,
    run_training,
)

STEP = re.compile(r"step \d+ of 60, loss \d+\.\d{3}, \d+ (s|min) left")


def activities(viewer) -> list[QtLabeledProgressBar]:
    """What napari's activity dock shows of a training."""
    bars = viewer.window._qt_window._activity_dialog.findChildren(QtLabeledProgressBar)
    title = "fine-tuning on blobs"
    return [bar for bar in bars if bar.description_label.text().startswith(title)]


def test_the_bar_and_naparis_activity_move_with_the_steps(panel, viewer, qtbot):
    bar = panel.run.findChild(QProgressBar, "progress")
    assert not bar.isVisible()
    assert activities(viewer) == []
    panel.plan.set_settings(replace(TINY, steps=60))
    wait_until_ready(panel, qtbot)
    seen = []

    def look(_: float) -> None:
        if STEP.fullmatch(panel.run.status.text()):
            (activity,) = activities(viewer)
            seen.append((bar.value(), activity.qt_progress_bar.value()))

    panel.run.advanced.connect(look)
    panel.run.start.click()
    qtbot.waitUntil(lambda: len({value for value, _ in seen}) >= 3, timeout=TIMEOUT)
    assert bar.isVisible()
    # An activity never goes back.
    assert all(activity >= value for value, activity in seen)
    assert seen[-1][1] > 0
    panel.run.stop.click()
    qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
    assert not bar.isVisible()
    qtbot.waitUntil(lambda: activities(viewer) == [], timeout=TIMEOUT)


NO_CLASSES = ClassTable(values=(0,), names=("none",), colours=(None,))


def test_neither_waiting_nor_a_pause_is_progress(qtbot, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(run_box.time, "monotonic", lambda: now[0])
    box, shown = run_box.RunBox(), []
    qtbot.addWidget(box)
    box.advanced.connect(shown.append)
    box.segments.setChecked(False)
    box.begin(FineTuneSettings(minutes=2.0), NO_CLASSES)
    box.set_running(True)

    def learn(seconds: float, left: float) -> float:
        now[0] += seconds
        box.show_event(
            Progress(
                stage="galore",
                step=1,
                total=9,
                loss=0.5,
                learning_rate=0.1,
                seconds_left=left,
                peak_memory=0,
            )
        )
        return shown[-1]

    now[0] += 300  # for another job
    assert learn(0, 120) == 0
    assert learn(30, 90) == pytest.approx(0.25)
    box.pause.setChecked(True)
    now[0] += 600
    box.pause.setChecked(False)
    assert learn(30, 60) == pytest.approx(0.5)


def test_it_runs_in_a_thread_of_its_own(panel, qtbot, monkeypatch):
    threads = set()

    def recorded(request: TrainingRequest) -> Stream[TrainingResult | None]:
        threads.add(threading.current_thread())
        return (yield from run_training(request))

    monkeypatch.setattr(under_way, "run_training", recorded)
    panel.run.segments.setChecked(False)
    panel.plan.set_settings(replace(TINY, stages="head"))
    click_and_wait(panel, qtbot)
    assert len(threads) == 1
    assert threading.main_thread() not in threads


class TestFilling:
    @pytest.fixture
    def gate(self, monkeypatch) -> Iterator[threading.Event]:
        """Hold the training before its third segmented slice until the gate is set."""
        gate = threading.Event()

        def held(request: TrainingRequest) -> Stream[TrainingResult | None]:
            stream = run_training(request)
            n_segmented = 0
            while True:
                try:
                    event = next(stream)
                except StopIteration as end:
                    return end.value
                n_segmented += isinstance(event, SegmentedSlice)
                if n_segmented == 3:
                    gate.wait(TIMEOUT / 1000)
                yield event

        monkeypatch.setattr(under_way, "run_training", held)
        yield gate
        gate.set()

    def test_the_result_fills_slice_by_slice(self, panel, viewer, gate, qtbot):
        wait_until_ready(panel, qtbot)
        panel.run.start.click()
        qtbot.waitUntil(lambda: "blobs segmented" in viewer.layers, timeout=TIMEOUT)
        result = viewer.layers["blobs segmented"]

        def filled() -> list[bool]:
            return result.data.any(axis=(1, 2)).tolist()

        qtbot.waitUntil(lambda: filled()[:3] == [True, True, False], timeout=TIMEOUT)
        # The slice in sight shows the model's last preview until it is its turn.
        assert [i for i, has_mask in enumerate(filled()) if has_mask] == [0, 1, 5]
        gate.set()
        qtbot.waitUntil(lambda: panel.training is None, timeout=TIMEOUT)
        assert all(filled())

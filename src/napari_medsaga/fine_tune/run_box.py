"""The lower part of the Fine-tune dock: buttons, progress, plot and result."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from medsaga import frontend, preset
from medsaga.events import Event, Notice, Progress, SegmentedSlice, Validated
from medsaga.frontend import count, duration, shown
from napari_medsaga.widgets.plain_text import make_plain_label, tip
from napari_medsaga.widgets.plot import TrainingPlot

if TYPE_CHECKING:
    from medsaga import FineTuneSettings
    from medsaga.frontend import Canvas, ClassTable, Speed, TimeEstimate
    from napari_medsaga.fine_tune.annotated.annotation import AnnotationReport

# Each new text redraws the window, which takes a while where that is done in software.
_SECONDS_BETWEEN_TEXTS = 0.5
_LONGEST_NOTICE = 500
# Of the bar, where the volume is segmented after it.
_SHARE_OF_TRAINING = 0.85
_STAGES = {
    "features": "looking at the slices",
    "head": "fitting the head",
    "left out": "judging slices left out",
    "agreed": "looking where model and paint agree",
}
_DONE_WITH_HEAD = "scoring what the head gives"


class RunBox(QWidget):
    """Start, pause and stop; what the training is doing, and what came of it."""

    started = Signal()
    """Emitted when Fine-tune is clicked."""
    stopped = Signal()
    """Emitted when Stop is clicked."""
    paused = Signal(bool)
    """Emits `(whether to pause)`."""
    advanced = Signal(float)
    """Emits `(fraction done)`, from 0 to 1."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._began: float | None = None  # of its own time: no waiting, no pauses
        self._paused_at = 0.0
        self._planned = 0.0
        self._segments = True
        self._shown = 0.0
        self._fraction = 0.0
        self._is_held = False
        self._notices: list[str] = []
        self.plan = make_plain_label("plan")
        self.start = QPushButton("Fi&ne-tune")
        self.pause = QPushButton("Pa&use")
        self.stop = QPushButton("S&top")
        self.segments = QCheckBox("Segment the whole volume when &done")
        self._bar = QProgressBar()
        self.status = make_plain_label("status")
        self.notice = make_plain_label("notice")
        self.plot = TrainingPlot()

        self._lay_out()
        self._describe()

        self.start.clicked.connect(self.started)
        self.stop.clicked.connect(self._on_stop_clicked)
        self.pause.toggled.connect(self._on_pause_toggled)
        self.set_running(False)

    def set_running(self, running: bool) -> None:
        """Decide what can be clicked."""
        self.pause.setEnabled(running)
        self.stop.setEnabled(running)
        self.segments.setEnabled(not running)
        self._bar.setVisible(running)
        self._is_held = False
        if not running:
            self.pause.setChecked(False)

    def name_image(self, *, is_2d: bool) -> None:
        """Call what is segmented in the end by what it is."""
        what = "image" if is_2d else "whole volume"
        self.segments.setText(f"Segment the {what} when &done")

    def begin(self, settings: FineTuneSettings, classes: ClassTable) -> None:
        """Get ready for the events of a new training."""
        self._began = None
        self._planned = settings.minutes * 60
        self._segments = self.segments.isChecked()
        self._bar.setValue(0)
        self._fraction = 0.0
        names = classes.names_by_value
        self.plot.begin(classes.colours_by_value, {v: names[v] for v in names if v})
        self.plot.show()
        self.status.setText("Starting…")
        self.notice.clear()
        self._notices.clear()
        self.notice.setToolTip("")

    def show_event(self, event: Event) -> None:
        """Show what the engine reports."""
        if self._began is None:
            self._began = time.monotonic()
        if isinstance(event, Progress):
            self._show_progress(event)
        elif isinstance(event, Validated):
            self.plot.add_scores(event, time.monotonic() - self._began)
        elif isinstance(event, SegmentedSlice):
            text = f"segmented slice {event.done} of {event.total}"
            share = _SHARE_OF_TRAINING
            self._show(share + (1 - share) * event.done / event.total, text)
        elif isinstance(event, Notice):
            self._notices.append(event.message)
            self.notice.setText(shown(event.message, _LONGEST_NOTICE))
            self.notice.setToolTip(tip("\n".join(self._notices)))

    def _show_progress(self, event: Progress) -> None:
        elapsed = time.monotonic() - (self._began or 0.0)
        if event.stage in ("head", "galore"):
            self.plot.add_step(event, elapsed)
        if event.stage != "galore":
            left = max(event.seconds_left, self._planned - elapsed)
            done = f"{event.step} of {event.total}" if event.total else f"{event.step}"
            text = f"{_STAGES[event.stage]}, {done}"
            if event.stage == "head" and event.step == event.total:
                text = _DONE_WITH_HEAD
        else:
            left = event.seconds_left
            total = f" of {event.total}" if event.total else ""
            text = (
                f"step {event.step}{total}, loss {event.loss:.3f}, "
                f"{duration(left)} left"
            )
        part = elapsed / max(1e-6, elapsed + left)
        self._show(part * (_SHARE_OF_TRAINING if self._segments else 1.0), text)

    def _show(self, fraction: float, text: str) -> None:
        now = time.monotonic()
        if self._is_held or (
            now - self._shown < _SECONDS_BETWEEN_TEXTS and fraction < 1
        ):
            return
        self._shown = now
        fraction = max(fraction, self._fraction)  # a bar that falls back tells nothing
        self._fraction = fraction
        self._bar.setValue(int(100 * fraction))
        self.status.setText(text)
        self.advanced.emit(fraction)

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        buttons.addWidget(self.start, 2)
        buttons.addWidget(self.pause, 1)
        buttons.addWidget(self.stop, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.plan, self.segments):
            layout.addWidget(widget)
        layout.addLayout(buttons)
        for widget in (self._bar, self.status, self.notice):
            layout.addWidget(widget)
        self.plot.hide()  # its place is elsewhere, where there is room

    def _describe(self) -> None:
        self.plan.setObjectName("plan")
        self.plan.setWordWrap(True)
        self.plan.setToolTip(
            "What the training will compute on, and how long it takes."
        )
        self.start.setObjectName("start_training")
        self.start.setToolTip("Train on the ticked slices, in the background.")
        self.pause.setObjectName("pause")
        self.pause.setCheckable(True)
        self.pause.setToolTip(
            "Hold the training after this step; click again to go on."
        )
        self.stop.setObjectName("stop")
        self.stop.setToolTip("End the training; the best model so far is kept.")
        self.segments.setObjectName("segments")
        self.segments.setChecked(True)
        self.segments.setToolTip(
            "After the training, segment every slice into a new Labels layer."
        )
        self._bar.setObjectName("progress")
        self._bar.setToolTip("How much of the training is done.")
        self.status.setToolTip("What the training is doing, or what came of it.")

    def _on_stop_clicked(self) -> None:
        self.pause.setChecked(False)
        self._is_held = True
        self.status.setText("Stopping: the best model so far is being kept…")
        for button in (self.pause, self.stop):  # a pause would hold up the stop
            button.setEnabled(False)
        self.stopped.emit()

    def _on_pause_toggled(self, checked: bool) -> None:
        self.pause.setText("Contin&ue" if checked else "Pa&use")
        self.paused.emit(checked)
        self._is_held = checked
        now = time.monotonic()
        if checked:
            self._paused_at = now
            self.status.setText("Paused after this step. Continue, or Stop.")
        elif self._began is not None:
            self._began += now - max(self._paused_at, self._began)
            self.status.setText("Going on…")


def describe_plan(
    computer: str,
    settings: FineTuneSettings,
    speed: Speed | None,
    report: AnnotationReport | None,
    *,
    segments: bool,
    canvas: Canvas | None = None,
) -> str:
    """Say what a training computes on, how long it takes, and the segmentation after.

    Parameters
    ----------
    computer
        Device, cores and free memory; empty while they are not known.
    settings
        Of the training, with what a model to continue from brings along.
    speed
        As measured here, None before that.
    report
        What is trained on, None where that is not known.
    segments
        Whether the whole volume is segmented when done.
    canvas
        What a model to continue from works at; None without one.
    """
    if not computer:
        return "Getting ready (the first time takes some seconds)…"
    planned = duration(settings.minutes * 60)
    if speed is None or speed.backbone != settings.backbone or report is None:
        if settings.steps and settings.stages != "head":
            return f"{computer}: {settings.steps} steps; the first tells the time."
        return f"{computer}: trained in about {planned}."
    image, axis = report.image, report.axis
    finest = report.finest
    estimate = frontend.estimate_time(speed, settings, image, axis, finest, canvas)
    trained = planned
    if settings.steps or estimate.seconds < settings.minutes * 60:
        trained = duration(estimate.seconds)
    steps = f" ({estimate.steps} steps of {estimate.seconds_per_step:.2g} s)"
    sentence = f"{computer}: {_preview(settings, estimate)}trained in about {trained}"
    sentence += steps if estimate.steps else ""
    if segments:
        n = image.shape[axis]
        needed = duration(max(1, estimate.seconds_to_segment))
        sentence += f", {count(n, 'slice')} segmented in {needed} more"
    return f"{sentence}."


def _preview(settings: FineTuneSettings, estimate: TimeEstimate) -> str:
    """Say when a first preview stands, of which SAM's own models' was not measured."""
    is_measured = settings.backbone == preset("balanced").backbone
    if not is_measured or settings.stages == "galore":
        return ""
    return f"preview in {duration(estimate.seconds_to_preview)}, "

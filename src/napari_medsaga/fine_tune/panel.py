"""The Fine-tune dock: a few painted slices in, the whole volume out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QVBoxLayout

from medsaga import MedsagaError
from medsaga.events import Event, Saved
from napari_medsaga.fine_tune.annotated.data_box import DataBox
from napari_medsaga.fine_tune.annotated.layer_follower import LayerFollower
from napari_medsaga.fine_tune.fill_box import FillBox
from napari_medsaga.fine_tune.interrupted_box import InterruptedBox
from napari_medsaga.fine_tune.painting.painting_box import PaintingBox
from napari_medsaga.fine_tune.plan_box import PlanBox
from napari_medsaga.fine_tune.results.trust_box import TrustBox
from napari_medsaga.fine_tune.run_box import RunBox, describe_plan
from napari_medsaga.fine_tune.under_way import (
    Cursor,
    TrainingUnderWay,
    begin_training,
    continue_interrupted,
    make_request,
)
from napari_medsaga.jobs.computer import ComputerWatch
from napari_medsaga.jobs.job import Job
from napari_medsaga.layers.predictions import prediction_of
from napari_medsaga.widgets.dock_panel import DockPanel
from napari_medsaga.widgets.dock_tabs import DockTabs
from napari_medsaga.widgets.plain_text import show_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari import Viewer
    from napari.layers import Image, Labels

    from medsaga.frontend import Interrupted
    from napari_medsaga.fine_tune.annotated.annotation import AnnotationReport
    from napari_medsaga.fine_tune.training import TrainingRequest


class FineTunePanel(DockPanel):
    """The dock: data above, plan in the middle, the run below."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.training: TrainingUnderWay | None = None
        self._cursor = Cursor()
        self._wants_start = False
        self._kept: Path | None = None

        self.data = DataBox(napari_viewer)
        self.plan = PlanBox()
        self.interrupted = InterruptedBox()
        self.run = RunBox()
        self.computer = ComputerWatch(self)
        self._follower = LayerFollower(
            napari_viewer, self.data, lambda: self.training is not None, self
        )
        self.fill = FillBox(napari_viewer, self.data, self._follower.check)
        self.painting = PaintingBox(napari_viewer, self.data, self.fill)
        self.trust = TrustBox(napari_viewer)

        self._lay_out()
        self._connect()
        self._on_plan_changed()

    def _lay_out(self) -> None:
        self.tabs = DockTabs(
            {
                "Paint": (self.data, self.painting),
                "Train": (self.data.slices, self.plan),
                "Result": (self.trust, self.run.plot),
            }
        )
        layout = QVBoxLayout(self)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(self.interrupted)
        layout.addWidget(self.run)

    def _connect(self) -> None:
        self.data.reported.connect(self._on_annotation_reported)
        self.data.labels.chosen.connect(self._follow_prediction)
        self.data.labels.chosen.connect(self.trust.follow)
        self.painting.compared.connect(self.trust.swap)
        self.trust.corrected.connect(self._on_corrected)
        self.plan.changed.connect(self._on_plan_changed)
        self.interrupted.continued.connect(self._on_continue_clicked)
        self.interrupted.failed.connect(self._show_error)
        self.run.started.connect(self._on_start_clicked)
        self.run.stopped.connect(lambda: self._tell_job(Job.stop))
        self.run.paused.connect(lambda on: self._tell_job(lambda j: j.set_paused(on)))
        self.run.advanced.connect(
            lambda part: self._tell_job(lambda job: job.show_progress(part))
        )
        self.computer.gpu_found.connect(self.plan.suit_gpu)
        self.computer.changed.connect(self._show_plan)
        self.run.segments.toggled.connect(self._show_plan)
        self._viewer.dims.events.point.connect(self._on_point_changed)
        self._viewer.dims.events.order.connect(self._on_order_changed)

    def _on_annotation_reported(self, report: AnnotationReport | None) -> None:
        self.run.name_image(is_2d=report is not None and report.image.is_2d)
        self._show_plan()
        if self._wants_start:
            self._wants_start = False
            self._start(report)

    def _on_plan_changed(self) -> None:
        self._follow_prediction()
        self._show_plan()

    def _follow_prediction(self, _: object = None) -> None:
        self.plan.follow(prediction_of(self.data.labels_layer()))

    def _show_plan(self, _: object = None) -> None:
        report = self.data.report()
        problem = self.plan.problem()
        try:
            settings = self.plan.expected_settings()
            canvas = self.plan.expected_canvas()
        except MedsagaError as error:
            problem, settings, canvas = str(error), None, None
        can_start = (
            self.training is None
            and report is not None
            and report.is_usable
            and problem is None
        )
        self.run.start.setEnabled(can_start)
        if problem is not None or settings is None:
            self.run.plan.setText(problem or "")
            return
        sentence = describe_plan(
            self.computer.computer,
            settings,
            self.computer.speed,
            report,
            canvas=canvas,
            segments=self.run.segments.isChecked(),
        )
        self.run.plan.setText(sentence)

    def _on_start_clicked(self) -> None:
        """Look at the layers once more: the last stroke may be a moment old."""
        self._wants_start = True
        self.run.start.setEnabled(False)
        self.data.look_again()

    def _start(self, report: AnnotationReport | None) -> None:
        image, labels = self.data.image_layer(), self.data.labels_layer()
        if report is None or not report.is_usable or image is None or labels is None:
            return
        try:
            self._follower.check(image, labels)
            request = self._make_request(report, image, labels)
        except MedsagaError as error:
            self._show_error(error)
            return
        self._run(begin_training(self._viewer, image, labels, report, request))

    def _on_continue_clicked(self, entry: Interrupted) -> None:
        segments = self.run.segments.isChecked()
        try:
            training = continue_interrupted(
                self._viewer, self._cursor, entry, segments=segments
            )
        except MedsagaError as error:
            self._show_error(error)
            self.interrupted.look_again()
            return
        self._run(training)

    def _run(self, training: TrainingUnderWay) -> None:
        self.training, self._kept = training, None
        if training.layers is not None:
            training.layers.begin()
        self._on_point_changed()
        self._set_running(True)
        self.tabs.show_page(self.run.plot)
        self.run.begin(training.settings, training.classes)
        training.job.reported.connect(self._on_event)
        training.job.ended.connect(self._on_ended)
        training.job.waits.connect(self._on_job_waits)
        training.job.start()

    def _make_request(
        self, report: AnnotationReport, image: Image, labels: Labels
    ) -> TrainingRequest:
        return make_request(
            self.data.training_data(report, image, labels),
            self.data.complete(self.plan.settings()),
            self.plan,
            self._cursor,
            name=image.name,
            segments=self.run.segments.isChecked(),
        )

    def _on_job_waits(self) -> None:
        self.run.status.setText("Waiting for the other job to end…")

    def _tell_job(self, tell: Callable[[Job], None]) -> None:
        if self.training is not None:
            tell(self.training.job)

    def _set_running(self, running: bool) -> None:
        self.data.set_running(running)
        self.plan.setEnabled(not running)
        self.interrupted.setEnabled(not running)
        if not running:
            self.interrupted.look_again()
        self.run.set_running(running)
        self._show_plan()

    # While it runs

    def _on_point_changed(self, _: object = None) -> None:
        """Tell the training which slice is being looked at."""
        if self.training is not None and self.training.layers is not None:
            self._cursor.follow(self._viewer, self.training.layers)

    def _on_order_changed(self, _: object = None) -> None:
        """Another plane is shown: on a tie, it is the one that was painted."""
        if self.training is None:
            self.data.look_again()

    def _on_event(self, event: Event) -> None:
        training = self.training
        if training is None:
            return
        if isinstance(event, Saved):
            self._kept = event.path
        training.show(event)
        # After the layers: napari's bar may handle the end of the job meanwhile.
        self.run.show_event(event)

    # When it ends

    def _on_corrected(self, layer: Labels) -> None:
        self.data.labels.choose(layer)
        self.tabs.show_page(self.data)

    def _on_ended(self, status: str, value: Any) -> None:
        training, self.training = self.training, None
        if training is None:
            return
        self.run.plot.end()
        training.end()
        self.computer.look_again()
        self._set_running(False)
        if status == "failed":
            self._show_failure(value)
            return
        if value is None:
            self.run.status.setText("Stopped before anything was learned.")
            return
        self.run.status.setText(value.describe(is_stopped=status == "stopped"))
        if value.problem is not None:
            show_error(value.problem)
        layer = training.remember(value)
        self.trust.follow(layer)
        self.painting.look_again()
        self.tabs.show_page(self.trust)
        if layer is not None:
            self.run.status.setText(
                f"{self.run.status.text()} To correct it, repaint slices of "
                f"{layer.name} and click Fine-tune again."
            )

    def _show_failure(self, error: Exception) -> None:
        if isinstance(error, MedsagaError):
            self._show_error(error)
            return
        self.run.status.setText(
            f"The training failed: {error}"
            if self._kept is None
            else f"Kept as model {self._kept.name}, but segmenting failed: {error}"
        )
        raise error  # napari shows it with its traceback

    def _show_error(self, error: MedsagaError) -> None:
        self.run.status.setText(str(error))
        show_error(str(error))
        self._show_plan()

    def on_dock_closed(self) -> None:
        """Stop a training, whose model is kept."""
        self._wants_start = False
        self.data.reported.disconnect(self._on_annotation_reported)
        self.data.disconnect_viewer()
        self._viewer.dims.events.point.disconnect(self._on_point_changed)
        self._viewer.dims.events.order.disconnect(self._on_order_changed)
        self._follower.disconnect_viewer()
        self.painting.close_down()
        self.fill.close_down()
        training, self.training = self.training, None
        if training is not None:
            training.job.reported.disconnect(self._on_event)
            training.job.ended.disconnect(self._on_ended)
            training.abandon()

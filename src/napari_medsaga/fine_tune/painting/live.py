"""Live: after each stroke, what the shown slice may be, in a layer of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from medsaga import MedsagaError
from napari_medsaga.fine_tune.painting.live_layer import LiveLayer
from napari_medsaga.fine_tune.painting.live_session import (
    LiveAnswer,
    LiveQuery,
    LiveSession,
    ReadPaint,
    answer_live,
    read_later,
    read_report,
)
from napari_medsaga.jobs.latest import LatestAnswer
from napari_medsaga.layers.convert import array_of, volume_of
from napari_medsaga.layers.layer_watch import LayerWatch
from napari_medsaga.layers.plane import Plane, limits_shown
from napari_medsaga.layers.predictions import prediction_of

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels

    from napari_medsaga.fine_tune.annotated.annotation import AnnotationReport
    from napari_medsaga.fine_tune.annotated.data_box import DataBox

_SETTLE_MS = 30
_SETTLE_CONTRAST_MS = 400  # all that was seen is seen anew
_BEGUN = (
    "Live: the outlines are what each slice may be, learned anew after each stroke. "
    "Accept takes them over."
)
_OTHER_PLANE = (
    "Live suggests slices along the axis that is painted across: look at that plane."
)


class Live(QObject):
    """Suggests the shown slice whenever something is painted or scrolled to.

    Parameters
    ----------
    viewer
        The viewer.
    data
        Where image and labels are chosen, and what is painted is looked at.
    parent
        Qt parent.

    Attributes
    ----------
    is_on
        Whether it suggests.
    layer
        Where; None before the first suggestion.
    """

    said = Signal(str)
    """Emits a sentence: that it has begun, or what is in the way."""
    switched = Signal(bool)
    """Emits whether it is on."""

    def __init__(self, viewer: Viewer, data: DataBox, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._data = viewer, data
        self._answers = LatestAnswer(answer_live, self)
        self._watch = LayerWatch(viewer, self)
        self._image: Image | None = None
        self._session: tuple[Any, LiveSession] | None = None
        self._told: AnnotationReport | None = None
        # Slices that were read since the last report, which does not know them yet.
        self._fresh: set[int] = set()
        self._problem = ""
        self._ahead: list[int] = []
        # What is not answered yet: no look ahead may take its place.
        self._asked: LiveQuery | None = None
        self.is_on = False
        self.layer: LiveLayer | None = None
        self._timer = self._make_timer(_SETTLE_MS, self._ask)
        self._slow_timer = self._make_timer(_SETTLE_CONTRAST_MS, self._ask)
        # Later: napari deletes several layers one after the other, and must not find
        # that another one is gone in the meantime.
        self._restart = self._make_timer(0, self._begin_anew)
        self._connect()

    def switch(self, *, on: bool) -> None:
        """Suggest from now on, or no more."""
        has_layers = None not in (self._data.image_layer(), self._data.labels_layer())
        if on and not has_layers:
            self.said.emit("Choose an image and a Labels layer first.")
        is_on = on and has_layers
        if is_on != self.is_on:
            self.is_on = is_on
            self._begin_anew()
            if is_on:
                self.said.emit(_BEGUN)
        self.switched.emit(self.is_on)

    def disconnect_viewer(self) -> None:
        """Stop following the viewer, and take the suggestions away."""
        self.switch(on=False)
        self._data.reported.disconnect(self._on_changed)
        self._viewer.dims.events.point.disconnect(self._on_changed)
        self._viewer.dims.events.order.disconnect(self._on_changed)
        self._viewer.layers.events.removed.disconnect(self._on_removed)

    def _make_timer(self, milliseconds: int, then: Any) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(milliseconds)
        timer.timeout.connect(then)
        return timer

    def _connect(self) -> None:
        self._watch.changed.connect(self._timer.start)
        self._answers.answered.connect(self._on_answered)
        self._answers.failed.connect(self._on_failed)
        self._data.reported.connect(self._on_changed)
        self._data.image.chosen.connect(self._on_layer_chosen)
        self._data.labels.chosen.connect(self._on_layer_chosen)
        self._viewer.dims.events.point.connect(self._on_changed)
        self._viewer.dims.events.order.connect(self._on_changed)
        self._viewer.layers.events.removed.connect(self._on_removed)

    # What is asked

    def _begin_anew(self) -> None:
        """Forget what was learned, and watch the layers that are chosen now."""
        for timer in (self._timer, self._slow_timer, self._restart):
            timer.stop()
        self._end_session()
        if self._image is not None:
            self._image.events.contrast_limits.disconnect(self._on_contrast_changed)
        self._image = self._data.image_layer() if self.is_on else None
        if self._image is not None:
            self._image.events.contrast_limits.connect(self._on_contrast_changed)
        self._watch.follow(None, self._data.labels_layer() if self.is_on else None)
        if self.is_on:
            self._timer.start()

    def _end_session(self) -> None:
        layer, self.layer = self.layer, None
        if layer is not None:
            layer.remove()
        self._session = self._told = self._asked = None
        self._problem = ""
        self._fresh.clear()
        self._ahead.clear()

    def _ask(self) -> None:
        image, labels = self._data.image_layer(), self._data.labels_layer()
        plane = None if image is None else Plane.shown(self._viewer, image)
        if not self.is_on or image is None or labels is None or plane is None:
            return
        report = self._data.report()
        if report is not None and report.slices and report.axis != plane.axis:
            self._tell(_OTHER_PLANE)
            return
        try:
            session = self._session_of(image, plane.axis)
            painted, others = self._painted(report, image, labels, plane)
        except MedsagaError as error:
            self._tell(str(error))
            return
        self._ahead = [plane.index + 1, plane.index - 1]
        self._asked = LiveQuery(
            session=session,
            index=plane.index,
            painted=session.untold(self._asked, others) | painted,
            others=others,
        )
        self._answers.ask(self._asked)

    def _session_of(self, image: Image, axis: int) -> LiveSession:
        """Give what learns of the image as it is seen, sliced along the axis."""
        # What is seen is what is segmented.
        key = image, array_of(image), axis, limits_shown(image)
        known = self._session
        if known is None or not _are_same(known[0], key):
            self._end_session()
            session = LiveSession(volume_of(image), axis, limits_shown(image))
            self._session = known = key, session
        return known[1]

    def _painted(
        self,
        report: AnnotationReport | None,
        image: Image,
        labels: Labels,
        plane: Plane,
    ) -> tuple[dict[int, ReadPaint], set[int]]:
        """Give what was painted since the last query, and which slices are at all.

        All after a report, else the shown slice: a report of the last stroke comes
        later. Of a predicted layer the report alone knows what was corrected.
        """
        background = self._data.sparse.background_value()
        ticked = set() if report is None else {*self._data.ticked_slices()}
        painted: dict[int, ReadPaint] = {}
        if report is not None and report is not self._told:
            painted = read_report(report, ticked, background)
            self._fresh.clear()
            self._told = report
        index, is_empty = (
            plane.index,
            report is not None and plane.index in report.empty,
        )
        is_unticked = report is not None and index in {*report.slices} - ticked
        if prediction_of(labels) is None and not is_unticked:
            shown = array_of(labels)[plane.labels_place(labels, image)]
            if shown.any():
                painted[index] = read_later(shown, background)
                self._fresh.add(index)
            elif not is_empty:
                painted.pop(index, None)
                ticked.discard(index)
                self._fresh.discard(index)
        return painted, ticked | self._fresh

    # What is answered

    def _on_answered(self, answer: LiveAnswer) -> None:
        query = answer.query
        is_current = self._session is not None and self._session[1] is query.session
        if not (self.is_on and is_current):
            return
        if not query.is_ahead:
            self._tell(answer.problem)
            self._show(answer)
        if self._asked in (None, query):
            self._asked = None
            self._look_ahead(query.session)

    def _show(self, answer: LiveAnswer) -> None:
        image, labels = self._data.image_layer(), self._data.labels_layer()
        if image is None or labels is None:
            return
        if self.layer is None:
            axis = answer.query.session.axis
            self.layer = LiveLayer(self._viewer, image, labels, axis)
        self.layer.show(answer, labels)

    def _look_ahead(self, session: LiveSession) -> None:
        """Have a neighbour of the slice seen before it is scrolled to."""
        total = session.volume.shape[session.axis]
        while self._ahead:
            index = self._ahead.pop(0)
            if 0 <= index < total and not self._timer.isActive():
                self._answers.ask(
                    LiveQuery(session=session, index=index, is_ahead=True)
                )
                return

    def _tell(self, problem: str) -> None:
        """Say what is in the way, once, and that it is gone."""
        if problem != self._problem:
            self.said.emit(problem or _BEGUN)
        self._problem = problem

    def _on_failed(self, error: Exception) -> None:
        self.switch(on=False)
        self.said.emit(f"Nothing can be suggested: {error}")
        raise error  # napari shows it with its traceback

    # What changes

    def _on_changed(self, _: object = None) -> None:
        if self.is_on:
            self._timer.start()

    def _on_contrast_changed(self, _: object = None) -> None:
        self._slow_timer.start()

    def _on_layer_chosen(self, _: object = None) -> None:
        if self.is_on:
            self._restart.start()

    def _on_removed(self, _: object = None) -> None:
        """Take a layer that the user has deleted for a switch that was turned."""
        if self.is_on and self.layer is not None and self.layer.is_gone:
            self.layer = None
            self.switch(on=False)


def _are_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    *known, limits = one
    *wanted, others = other
    return limits == others and all(a is b for a, b in zip(known, wanted, strict=True))

"""What is annotated on a Labels layer, worked out in a thread as the user paints."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from medsaga import (
    ClassCount,
    MedsagaError,
    Volume,
    annotated_slices,
    check_pair,
    class_table,
    count_classes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_medsaga._predictions import Prediction


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnotationQuery:
    """What to look at. Arrays are read in the thread, never written.

    `number` counts the queries. `axis` is None where the one with the fewest annotated
    slices is to be found; on a tie it is `shown_axis`. `unticked` are slices that the
    user does not want.
    """

    number: int
    image: Volume
    labels: Volume
    axis: int | None
    shown_axis: int
    unticked: frozenset[int]
    names: Mapping[int, str]
    prediction: Prediction | None


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnotationReport:
    """What is annotated.

    Attributes
    ----------
    number
        Of the query.
    labels
        Volume with the labels that would train.
    axis
        Array axis that the slices lie across.
    slices
        Those that can train, the unticked ones too.
    changed
        Slices of a predicted layer that the user changed.
    counts
        Each class on the ticked slices.
    sentence
        What is annotated, or what keeps it from being used.
    is_usable
        Whether a training can start from it.
    """

    number: int
    labels: Volume
    axis: int
    slices: tuple[int, ...]
    changed: frozenset[int]
    counts: tuple[ClassCount, ...]
    sentence: str
    is_usable: bool


def report_annotation(query: AnnotationQuery) -> AnnotationReport:
    """Find the annotated slices and count the classes on them."""
    try:
        check_pair(query.image, query.labels)
        if query.prediction is not None:
            return _report_prediction(query, query.prediction)
        labels = query.labels.with_array(np.asarray(query.labels.array))
        found = annotated_slices([labels], query.axis, on_tie=query.shown_axis)
        slices = tuple(index for _, index in found.slices)
        return _count(query, labels, found.axis, slices, frozenset(), found.sentence)
    except MedsagaError as error:
        return AnnotationReport(
            number=query.number,
            labels=query.labels,
            axis=query.axis or 0,
            slices=(),
            changed=frozenset(),
            counts=(),
            sentence=str(error),
            is_usable=False,
        )


def _report_prediction(
    query: AnnotationQuery, prediction: Prediction
) -> AnnotationReport:
    array = np.asarray(query.labels.array)
    flat = array[0] if query.labels.is_2d else array
    changed = prediction.changed_slices(flat)
    slices = tuple(sorted({*changed, *prediction.trained}))
    merged = np.zeros_like(array)
    for index in slices:
        place = (slice(None),) * prediction.axis + (index,)
        merged[place] = prediction.slice_to_train(
            flat, index, is_changed=index in changed
        )
    labels = query.labels.with_array(merged)
    sentence = _describe_corrections(len(changed), len(slices) - len(changed))
    return _count(query, labels, prediction.axis, slices, frozenset(changed), sentence)


def _describe_corrections(n_changed: int, n_trained: int) -> str:
    if n_changed:
        slices = "1 slice" if n_changed == 1 else f"{n_changed} slices"
        return (
            f"{slices} of the predicted layer changed, {n_trained} more that trained "
            "its model."
        )
    if n_trained:
        return (
            "Nothing of the predicted layer was changed: correct some slices, or train "
            f"on with the {n_trained} that trained its model."
        )
    return "Nothing of the predicted layer was changed: correct some slices first."


def _count(
    query: AnnotationQuery,
    labels: Volume,
    axis: int,
    slices: tuple[int, ...],
    changed: frozenset[int],
    sentence: str,
) -> AnnotationReport:
    ticked = [index for index in slices if index not in query.unticked]
    report = AnnotationReport(
        number=query.number,
        labels=labels,
        axis=axis,
        slices=slices,
        changed=changed,
        counts=(),
        sentence=sentence,
        is_usable=False,
    )
    if not slices:
        return report
    if not ticked:
        return replace(report, sentence="No slice is ticked: tick one that trains.")
    try:
        annotation = annotated_slices([labels], axis, ticked)
        table = class_table([labels], annotation, query.names)
    except MedsagaError as error:
        return replace(report, sentence=str(error))
    counts = tuple(count_classes([labels], annotation, table))
    return replace(report, counts=counts, is_usable=bool(counts))


class AnnotationWatch(QObject):
    """Works out reports in a thread, one at a time; of several queries the last."""

    reported = Signal(object)
    """Emits `(AnnotationReport)` on the GUI thread."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._lock = threading.Lock()
        self._next: AnnotationQuery | None = None
        self._is_busy = False

    def ask(self, query: AnnotationQuery) -> None:
        """Ask for a report; it comes as `reported`."""
        with self._lock:
            self._next = query
            if self._is_busy:
                return
            self._is_busy = True
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                query, self._next = self._next, None
                if query is None:
                    self._is_busy = False
                    return
            self._emit(report_annotation(query))

    def _emit(self, report: Any) -> None:
        try:
            self.reported.emit(report)
        except RuntimeError:  # the dock was closed in the meantime
            return

"""What is annotated on a Labels layer, worked out in a thread as the user paints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from medsaga import MedsagaError
from medsaga.frontend import (
    annotated_slices,
    check_pair,
    slice_place,
    survey_annotation,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from medsaga import Volume
    from medsaga.frontend import ClassCount, SliceId
    from napari_medsaga.layers.predictions import Prediction


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnotationQuery:
    """What to look at. Arrays are read in the thread, never written.

    `number` counts the queries. `axis` is None where the one with the fewest annotated
    slices is to be found; on a tie it is `shown_axis`. `unticked` are slices that the
    user does not want, `empty` those that are marked as empty, `accepted` those that
    were suggested and found right, both by (axis, index). With a `background_value`
    what is not painted is unknown. `others` are the labels of further images.
    """

    number: int
    image: Volume
    labels: Volume
    axis: int | None
    shown_axis: int
    unticked: frozenset[int | SliceId]
    empty: frozenset[tuple[int, int]]
    accepted: frozenset[tuple[int, int]]
    background_value: int | None
    names: Mapping[int, str]
    prediction: Prediction | None
    others: tuple[Volume, ...] = ()

    def empty_along(self, axis: int) -> set[int]:
        """Give the slices across `axis` that are marked as empty."""
        return {i for a, i in self.empty if a == axis and i < self.image.shape[axis]}


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnotationReport:
    """What is annotated.

    Attributes
    ----------
    number
        Of the query.
    image
        What is annotated.
    labels
        Volume with the labels that would train.
    axis
        Array axis that the slices lie across.
    sentence
        What is annotated, or what keeps it from being used.
    slices
        Those that can train, the unticked ones too.
    changed
        Slices of a predicted layer that the user changed.
    empty
        Slices that are marked as showing nothing, and not painted on since.
    earlier
        Other slices that trained the model of a predicted layer, the unticked ones too.
    counts
        Each class on the ticked slices.
    background
        What is known as background on them in a sparse annotation, None in others.
    finest
        How wide the finest class on them is, where it is known; those of `earlier` are
        not counted.
    doubts
        Questions about labels that are hardly meant as classes.
    is_usable
        Whether a training can start from it.
    """

    number: int
    image: Volume
    labels: Volume
    axis: int
    sentence: str
    slices: tuple[int, ...] = ()
    changed: frozenset[int] = frozenset()
    empty: frozenset[int] = frozenset()
    earlier: tuple[SliceId, ...] = ()
    counts: tuple[ClassCount, ...] = ()
    background: ClassCount | None = None
    finest: float | None = None
    doubts: tuple[str, ...] = ()
    is_usable: bool = False

    def labels_of(self, slices: Iterable[int]) -> Volume:
        """Give a copy of the labels that has nothing but those of `slices`."""
        copied = np.zeros_like(self.labels.array)
        for index in slices:
            place = slice_place(self.axis, index)
            copied[place] = self.labels.array[place]
        return self.labels.with_array(copied)


def report_annotation(query: AnnotationQuery) -> AnnotationReport:
    """Find the annotated slices and count the classes on them."""
    try:
        check_pair(query.image, query.labels)
        if query.prediction is not None:
            return _report_prediction(query, query.prediction)
        return _report_painted(query)
    except MedsagaError as error:
        return AnnotationReport(
            number=query.number,
            image=query.image,
            labels=query.labels,
            axis=query.axis or 0,
            sentence=str(error),
        )


def _report_painted(query: AnnotationQuery) -> AnnotationReport:
    labels = query.labels.with_array(np.asarray(query.labels.array))
    background = query.background_value
    found = annotated_slices(
        [labels], query.axis, on_tie=query.shown_axis, background_value=background
    )
    empty = query.empty_along(found.axis) - {index for _, index in found.slices}
    if empty:
        found = annotated_slices(
            [labels],
            found.axis,
            empty_slices=sorted(empty),
            background_value=background,
        )
    report = AnnotationReport(
        number=query.number,
        image=query.image,
        labels=labels,
        axis=found.axis,
        sentence=found.sentence,
        slices=tuple(index for _, index in found.slices),
        empty=frozenset(empty),
    )
    return _count(query, report)


def _report_prediction(
    query: AnnotationQuery, prediction: Prediction
) -> AnnotationReport:
    array = np.asarray(query.labels.array)
    flat = array[0] if query.labels.is_2d else array
    changed = prediction.changed_slices(flat)
    right = {i for a, i in query.accepted if a == prediction.axis}
    changed = sorted({*changed, *right.difference(prediction.trained)})
    empty = query.empty_along(prediction.axis).difference(changed)
    slices = tuple(sorted({*changed, *prediction.trained, *empty}))
    merged = np.zeros_like(array)
    for index in sorted({*slices} - empty):
        place = slice_place(prediction.axis, index)
        merged[place] = prediction.slice_to_train(
            flat, index, is_changed=index in changed
        )
    own = {query.image.slice_id(prediction.axis, index) for index in slices}
    earlier = {
        one: labels
        for one, labels in prediction.earlier.items()
        if one.among([query.image]) not in own
    }
    report = AnnotationReport(
        number=query.number,
        image=query.image,
        labels=query.labels.with_array(merged),
        axis=prediction.axis,
        sentence=_describe_corrections(
            len(changed),
            len(empty),
            len(slices) - len(changed) - len(empty),
            len(earlier),
            n_replaced=len(prediction.earlier) - len(earlier),
            of_model=prediction.model is not None,
        ),
        slices=slices,
        changed=frozenset(changed),
        empty=frozenset(empty),
        earlier=tuple(earlier),
    )
    return _count(query, report, earlier)


def _describe_corrections(
    n_changed: int,
    n_empty: int,
    n_trained: int,
    n_earlier: int,
    *,
    n_replaced: int,
    of_model: bool,
) -> str:
    known = "that trained its model" if of_model else "that were painted before"
    if n_changed or n_empty:
        slices = {0: "No slice", 1: "1 slice"}.get(n_changed, f"{n_changed} slices")
        empty = f", {n_empty} marked as empty" if n_empty else ""
        left_out = (
            f" Left out, as they are changed here: {n_replaced}." if n_replaced else ""
        )
        return (
            f"{slices} of the predicted layer changed{empty}, "
            f"{n_trained + n_earlier} more {known}.{left_out}"
        )
    if n_trained:
        return (
            "Nothing of the predicted layer was changed: correct some slices, or train "
            f"on with the {n_trained} {known}."
        )
    return "Nothing of the predicted layer was changed: correct some slices first."


def _count(
    query: AnnotationQuery,
    report: AnnotationReport,
    earlier: Mapping[SliceId, NDArray[Any]] = MappingProxyType({}),
) -> AnnotationReport:
    """Count the classes on the ticked slices, and see whether they can train."""
    ticked = [index for index in report.slices if index not in query.unticked]
    if not report.slices:
        return report
    if not ticked:
        return replace(report, sentence="No slice is ticked: tick one that trains.")
    others = [labels for name, labels in earlier.items() if name not in query.unticked]
    try:
        for labels in query.others:
            others += _painted_slices(labels, report.axis, query.background_value)
        found = survey_annotation(
            report.image,
            report.labels,
            report.axis,
            ticked,
            names=query.names,
            background_value=query.background_value,
            others=others,
        )
    except MedsagaError as error:
        return replace(report, sentence=str(error))
    return replace(
        report,
        counts=found.counts,
        background=found.background,
        finest=found.finest,
        doubts=found.doubts,
        is_usable=bool(found.counts),
    )


def _painted_slices(
    labels: Volume, axis: int, background_value: int | None
) -> list[NDArray[Any]]:
    """Give the painted slices of another image across an axis.

    Raises
    ------
    MedsagaError
        If nothing is painted there, or across another axis: each slice that the paint
        meets would train as if it were painted as a whole.
    """
    try:
        found = annotated_slices(
            [labels], on_tie=axis, background_value=background_value
        )
    except MedsagaError as error:
        raise MedsagaError(
            f"Nothing is painted on {labels.name}: paint a slice of it, or untick it."
        ) from error
    if found.axis != axis:
        raise MedsagaError(
            f"{labels.name} is painted across axis {found.axis}, and the chosen labels "
            f"across axis {axis}: untick it, or paint it along that axis."
        )
    return [labels.slice(axis, index) for _, index in found.slices]

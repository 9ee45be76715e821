"""What is suggested live, worked out in a thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medsaga import MedsagaError
from napari_medsaga.jobs.guests import as_guest
from napari_medsaga.jobs.job import is_computing
from napari_medsaga.jobs.torch_import import import_engine

if TYPE_CHECKING:
    from medsaga import LivePredictor, Volume
    from napari_medsaga.fine_tune.annotated.annotation import AnnotationReport

SlicePaint: TypeAlias = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""Label values of a slice, and where they say anything; None where everywhere."""
ReadPaint: TypeAlias = Callable[[], SlicePaint]
"""Reads a slice in the thread: many large ones would hold up the viewer."""


def read_later(values: NDArray[Any], background_value: int | None) -> ReadPaint:
    """Have a slice read; with a `background_value` what is not painted is unknown."""
    return partial(_read, values, background_value)


def read_report(
    report: AnnotationReport, slices: Iterable[int], background_value: int | None
) -> dict[int, ReadPaint]:
    """Have slices of a report read."""
    return {
        index: read_later(report.labels.slice(report.axis, index), background_value)
        for index in slices
    }


def _read(values: NDArray[Any], background_value: int | None) -> SlicePaint:
    """Read a slice; one without any paint is one that shows nothing."""
    if background_value is None or not values.any():
        return values, None
    is_background = values == background_value
    return np.where(is_background, values.dtype.type(0), values), values != 0


@dataclass(eq=False)
class LiveSession:
    """An image that is sliced along an axis, and what has learned from its paint."""

    volume: Volume
    axis: int
    limits: tuple[float, float] | None
    painted: set[int] = field(default_factory=set)

    @cached_property
    def predictor(self) -> LivePredictor:
        """What suggests; it brings torch, and so is made in the thread."""
        import_engine()
        from medsaga import LivePredictor

        return LivePredictor(self.volume, axis=self.axis, limits=self.limits)

    def untold(
        self, asked: LiveQuery | None, still: Collection[int]
    ) -> dict[int, ReadPaint]:
        """Give what an unanswered query says of slices: the next takes its place."""
        if asked is None or asked.session is not self:
            return {}
        return {i: read for i, read in asked.painted.items() if i in still}


@dataclass(frozen=True, eq=False, kw_only=True)
class LiveQuery:
    """A slice, for the thread.

    Attributes
    ----------
    session
        Of the image.
    index
        Of the slice that is to be suggested, or only to be seen in advance.
    painted
        What is painted now on some slices.
    others
        Further slices that stay as they were; what was painted on the rest is gone.
    is_ahead
        Whether it is only to be seen.
    """

    session: LiveSession
    index: int
    painted: Mapping[int, ReadPaint] = field(default_factory=dict)
    others: Collection[int] = ()
    is_ahead: bool = False


@dataclass(frozen=True, eq=False)
class LiveAnswer:
    """What is suggested; `n_fits` tells apart what has learned more since."""

    query: LiveQuery
    mask: NDArray[Any] | None = None
    n_fits: int = 0
    problem: str = ""


def answer_live(query: LiveQuery) -> LiveAnswer:
    """Suggest a slice, between two steps of a training that runs."""
    session = query.session
    try:
        predictor = session.predictor
        if query.is_ahead:
            if not is_computing():
                predictor.look_at(query.index)
            return LiveAnswer(query)
        with as_guest(beside_job=is_computing()):
            _tell_paint(query)
            mask = predictor.suggest(query.index)
    except MedsagaError as error:
        return LiveAnswer(query, problem=str(error))
    return LiveAnswer(query, mask, predictor.n_fits)


def _tell_paint(query: LiveQuery) -> None:
    session, predictor = query.session, query.session.predictor
    for index in session.painted.difference(query.painted, query.others):
        predictor.erase(index)
    for index, read in query.painted.items():
        predictor.paint(index, *read())
    session.painted.intersection_update({*query.painted, *query.others})
    session.painted.update(query.painted)

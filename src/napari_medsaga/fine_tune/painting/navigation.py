"""Where to go next: the slice that is worth a look, and why."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from medsaga.frontend import count
from napari_medsaga.fine_tune.painting.slice_bar import SliceState
from napari_medsaga.layers.convert import shape_of
from napari_medsaga.layers.predictions import prediction_of
from napari_medsaga.layers.slice_marks import marked_slices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari import Viewer
    from napari.layers import Image, Labels

    from medsaga import Advice
    from napari_medsaga.fine_tune.annotated.annotation import AnnotationReport


def advice_on(viewer: Viewer, image: Image, axis: int) -> Advice | None:
    """Give the advice of the uppermost result on an image, sliced along an axis.

    It is of all slices that the image has now.
    """
    n_slices = shape_of(image)[axis]
    for layer in reversed(viewer.layers):
        prediction = prediction_of(layer)
        if prediction is None or prediction.image() is not image:
            continue
        advice = prediction.advice
        if advice is None or not advice.is_complete:
            continue
        if (advice.axis, advice.n_slices) == (axis, n_slices):
            return advice
    return None


def known_slices(
    report: AnnotationReport, image: Image, labels: Labels
) -> dict[int, str]:
    """Give what is known of slices along the axis that is painted across, by index."""
    accepted = {
        i for a, i in marked_slices(labels, image, "accepted") if a == report.axis
    }
    kinds = dict.fromkeys(report.slices, "painted")
    kinds |= dict.fromkeys(accepted & {*report.slices}, "accepted")
    return kinds | dict.fromkeys(report.empty, "empty")


def slice_states(
    known: Mapping[int, str], advice: Advice | None, n_slices: int
) -> tuple[SliceState, ...]:
    """Give the state of each slice, for a strip."""
    doubts = () if advice is None else advice.doubts
    most = max((d for i, d in enumerate(doubts) if i not in known), default=0.0)
    return tuple(
        SliceState(
            known.get(index, "open"),
            None if advice is None else doubts[index] / most if most else 0.0,
        )
        for index in range(n_slices)
    )


def next_slice(
    known: Mapping[int, str],
    advice: Advice | None,
    n_slices: int,
    here: int,
    names: Mapping[int, str],
) -> tuple[int, str] | None:
    """Choose the slice to go to, and say why.

    Parameters
    ----------
    known
        What :func:`known_slices` gives.
    advice
        Where the result may be wrong; without it the slice is the middle of the widest
        gap between known ones.
    n_slices, here
        How many there are, and the one that is looked at, which is not chosen.
    names
        Of the classes.

    Returns
    -------
    tuple of int and str, or None
        None where no other slice is left.
    """
    if len(known) >= n_slices:
        return None
    if advice is None:
        return _widest_gap(sorted(known), n_slices)
    left = replace(advice, painted=tuple(sorted(known)))
    order = [index for index in left.to_paint(2) if index != here]
    if not order:
        return None
    return order[0], _why(advice, order[0], names)


def _widest_gap(known: list[int], n_slices: int) -> tuple[int, str]:
    if not known:
        return n_slices // 2, "Nothing is painted yet: begin in the middle."
    # Beyond the last painted slice it goes two thirds of the way: at the very end of a
    # volume there is often nothing left of what is painted.
    last = n_slices - 1
    ends = [-known[0] / 3, *known, last + (last - known[-1]) / 3]
    gaps = [(high - low, round((low + high) / 2)) for low, high in pairwise(ends)]
    free = [(gap, middle) for gap, middle in gaps if middle not in known]
    _, middle = max(free)
    return middle, "The middle of the widest gap between painted slices."


def _why(advice: Advice, index: int, names: Mapping[int, str]) -> str:
    errors, value = advice.errors[index], advice.most_doubtful[index]
    if not value or errors < 1:
        return "The result is sure here; no other slice is as far from paint."
    name = names.get(value, f"class {value}")
    return f"About {count(round(errors), 'pixel')} may be wrong here, most of {name}."

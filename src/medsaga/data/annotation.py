"""Which slices of a label volume are annotated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medsaga.data.volume import AXIS_NAMES, Volume
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """Which slices are annotated.

    Attributes
    ----------
    axis
        The slices are cut across this axis of (z, y, x).
    slices
        (volume index, slice index) of each annotated slice, in order.
    sentence
        The same for the user, such as "5 of 30 slices are annotated along axis 0
        (axial)."
    """

    axis: int
    slices: tuple[tuple[int, int], ...]
    sentence: str = ""


def annotated_slices(
    labels: Sequence[Volume],
    axis: int | None = None,
    slices: Sequence[int] | None = None,
    *,
    on_tie: int = 0,
    may_be_empty: bool = False,
) -> Annotation:
    """Find the annotated slices: those that carry any label.

    Parameters
    ----------
    labels
        Masks, 0 where nothing is labelled.
    axis
        Axis of (z, y, x) that the slices are cut across; None takes the one with the
        fewest labelled slices over all the volumes. 2-D images are always cut across
        axis 0.
    slices
        Only these indices along the axis, in every volume that carries a label and is
        long enough. One without a label there counts as annotated too: as a slice that
        shows nothing of any class.
    on_tie
        The axis to take if no other has fewer labelled slices; of others with as few,
        the first.
    may_be_empty
        Whether the asked for `slices` may all be without a label, as others train
        beside them.

    Raises
    ------
    MedsagaError
        If nothing is labelled, or the axis or an index does not exist.
    """
    if axis is not None and axis not in (0, 1, 2):
        raise MedsagaError(f"There is no axis {axis}: choose 0, 1 or 2.")
    # For each volume and axis, whether each slice carries a label.
    labelled = [_labelled_slices(label) for label in labels]
    may_be_empty = may_be_empty and slices is not None
    if not (may_be_empty or any(flags[0].any() for flags in labelled)):
        raise MedsagaError(
            "No slice is labelled: paint every structure on at least one slice, then "
            "start again."
        )
    if any(label.is_2d for label in labels):
        axis = 0
    if axis is None:
        axis = min(
            (on_tie, *range(3)),
            key=lambda a: sum(int(flags[a].sum()) for flags in labelled),
        )
    along = [flags[axis] for flags in labelled]
    chosen = (
        _labelled(along)
        if slices is None
        else _asked_for(along, slices, axis, may_be_empty=may_be_empty)
    )
    return Annotation(
        axis=axis, slices=chosen, sentence=_describe(labels, along, chosen, axis)
    )


def iterate_slices(
    labels: Sequence[Volume], annotation: Annotation
) -> Iterator[NDArray[Any]]:
    """Give the label values of each annotated slice."""
    for v, s in annotation.slices:
        yield labels[v].slice(annotation.axis, s)


def _labelled_slices(label: Volume) -> list[NDArray[np.bool_]]:
    labelled = label.array != 0
    return [labelled.any(axis=tuple({0, 1, 2} - {a})) for a in range(3)]


def _labelled(along: Sequence[NDArray[np.bool_]]) -> tuple[tuple[int, int], ...]:
    return tuple(
        (v, int(s)) for v, flags in enumerate(along) for s in np.flatnonzero(flags)
    )


def _asked_for(
    along: Sequence[NDArray[np.bool_]],
    slices: Sequence[int],
    axis: int,
    *,
    may_be_empty: bool,
) -> tuple[tuple[int, int], ...]:
    """Take the wanted indices of every volume that is annotated at all."""
    longest = max(len(flags) for flags in along)
    for s in slices:
        if not 0 <= s < longest:
            raise MedsagaError(
                f"There is no slice {s} along axis {axis}: give numbers from 0 to "
                f"{longest - 1}."
            )
    wanted = sorted({int(s) for s in slices})
    chosen = tuple(
        (v, s)
        for v, flags in enumerate(along)
        for s in wanted
        if (may_be_empty or flags.any()) and s < len(flags)
    )
    if not (may_be_empty or any(along[v][s] for v, s in chosen)):
        raise MedsagaError(
            "None of the chosen slices carries a label: choose at least one that does, "
            "or paint one of them."
        )
    return chosen


def _describe(
    labels: Sequence[Volume],
    along: Sequence[NDArray[np.bool_]],
    chosen: tuple[tuple[int, int], ...],
    axis: int,
) -> str:
    total = sum(len(flags) for flags in along)
    empty = sum(not along[v][s] for v, s in chosen)
    blank = f", {empty} of them with nothing on it" if empty else ""
    verb = "is" if len(chosen) == 1 else "are"
    if all(label.is_2d for label in labels):
        return f"{len(chosen)} of {count(total, 'image')} {verb} annotated{blank}."
    within = "" if len(labels) == 1 else f" of {len(labels)} volumes"
    # Without an affine nobody knows how the patient lies in the array.
    known = all(label.affine is not None for label in labels)
    axis_name = next(name for name, a in AXIS_NAMES.items() if a == axis)
    where = f"axis {axis} ({axis_name})" if known else f"axis {axis}"
    return (
        f"{len(chosen)} of {count(total, 'slice')}{within} {verb} annotated along "
        f"{where}{blank}."
    )


def count(number: int, noun: str) -> str:
    """Say a number of things: 1 slice, 2 slices."""
    return f"{number} {noun}" + ("" if number == 1 else "s")

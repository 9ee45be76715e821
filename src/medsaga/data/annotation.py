"""Which slices of a label volume are annotated, and what their pixels say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from medsaga.data.on_demand import remembered
from medsaga.data.volume import AXIS_NAMES, Volume, check_axis
from medsaga.errors import MedsagaError
from medsaga.wording import count, verb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


EmptySlice: TypeAlias = int | tuple[int, int]
"""A slice that shows nothing: its index in every volume, or (volume, index)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SliceLabels:
    """What the pixels of an annotated slice are said to be.

    Attributes
    ----------
    values
        (rows, columns) label values, 0 for background and where nothing is known.
    known
        (rows, columns), whether anything is said of the pixel; None where of all.
    """

    values: NDArray[Any]
    known: NDArray[np.bool_] | None

    @property
    def has_background(self) -> bool:
        """Whether any pixel is said to be background."""
        is_zero = self.values == 0
        return bool((is_zero if self.known is None else is_zero & self.known).any())


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """Which slices are annotated, and how.

    Attributes
    ----------
    axis
        The slices are cut across this axis of (z, y, x).
    slices
        (volume index, slice index) of each annotated slice, in order.
    sentence
        The same for the user, such as "5 of 30 slices are annotated along axis 0
        (axial)."
    background_value
        Label value that is painted for background, 0 being unknown (a *sparse*
        annotation); None where 0 is background. A slice without any label is all
        background either way.
    """

    axis: int
    slices: tuple[tuple[int, int], ...]
    sentence: str = ""
    background_value: int | None = None

    def read(self, labels: Volume, index: int) -> SliceLabels:
        """Give what slice `index` of a volume says."""
        painted = labels.slice(self.axis, index)
        if self.background_value is None or not painted.any():
            return SliceLabels(values=painted, known=None)
        known = painted != 0
        is_background = painted == self.background_value
        return SliceLabels(
            values=np.where(is_background, painted.dtype.type(0), painted),
            known=None if known.all() else known,
        )


def annotated_slices(
    labels: Sequence[Volume],
    axis: int | None = None,
    slices: Sequence[int] | None = None,
    *,
    empty_slices: Sequence[EmptySlice] = (),
    background_value: int | None = None,
    on_tie: int = 0,
    may_be_empty: bool = False,
) -> Annotation:
    """Find the annotated slices: those that carry any label, or are said to be empty.

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
    empty_slices
        Slices that show nothing of any class, beside the others: an index along the
        axis, in every volume that carries a label and is long enough, or a pair
        (volume, index).
    background_value
        The annotation is sparse: label 0 is unknown, and this value is background.
    on_tie
        The axis to take if no other has fewer labelled slices; of others with as few,
        the first.
    may_be_empty
        Whether the slices that are asked for may all be without a label, as others
        train beside them.

    Raises
    ------
    MedsagaError
        If nothing is labelled, the axis or an index does not exist, or an empty slice
        carries a label.
    """
    if axis is not None:
        check_axis(axis)
        axis = int(axis)  # numpy's integers are not in JSON
    # For each volume and axis, whether each slice carries a label.
    labelled = [labelled_slices(label) for label in labels]
    may_be_empty = may_be_empty and (slices is not None or bool(empty_slices))
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
    empty = _said_to_be_empty(
        labels, along, empty_slices, axis, may_be_empty=may_be_empty
    )
    chosen = tuple(sorted({*chosen, *empty}))
    meaning = (
        ""
        if background_value is None
        else f" What is not painted is unknown, {background_value} is background."
    )
    return Annotation(
        axis=axis,
        slices=chosen,
        sentence=_describe(labels, along, chosen, axis) + meaning,
        background_value=background_value,
    )


def iterate_slices(
    labels: Sequence[Volume], annotation: Annotation
) -> Iterator[SliceLabels]:
    """Give what each annotated slice says, in order."""
    for v, s in annotation.slices:
        yield annotation.read(labels[v], s)


def labelled_slices(label: Volume) -> Sequence[NDArray[np.bool_]]:
    """Tell whether each slice carries a label: (n,) for each axis of (z, y, x)."""

    def find() -> Sequence[NDArray[np.bool_]]:
        labelled = np.asarray(label.array) != 0
        return [labelled.any(axis=tuple({0, 1, 2} - {a})) for a in range(3)]

    return remembered(label.array, "labelled slices", find)


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
    chosen = _everywhere(along, slices, axis, may_be_empty=may_be_empty)
    if not (may_be_empty or any(along[v][s] for v, s in chosen)):
        raise MedsagaError(
            "None of the chosen slices carries a label: choose at least one that does, "
            "or paint one of them."
        )
    return chosen


def _said_to_be_empty(
    labels: Sequence[Volume],
    along: Sequence[NDArray[np.bool_]],
    slices: Sequence[EmptySlice],
    axis: int,
    *,
    may_be_empty: bool,
) -> tuple[tuple[int, int], ...]:
    pairs = [(int(item[0]), int(item[1])) for item in slices if isinstance(item, tuple)]
    for v, s in pairs:
        if not (0 <= v < len(along) and 0 <= s < len(along[v])):
            raise MedsagaError(
                f"There is no slice {s} along axis {axis} of image {v}: give pairs of "
                "an image and a slice that it has, both counted from 0."
            )
    indices = [item for item in slices if not isinstance(item, tuple)]
    pairs += _everywhere(along, indices, axis, may_be_empty=may_be_empty)
    for v, s in pairs:
        if along[v][s]:
            name = labels[v].slice_id(axis, s).name
            raise MedsagaError(
                f"{name} is said to be empty but carries labels: "
                "erase them, or leave it out of the empty slices."
            )
    return tuple(pairs)


def _everywhere(
    along: Sequence[NDArray[np.bool_]],
    slices: Sequence[int],
    axis: int,
    *,
    may_be_empty: bool,
) -> tuple[tuple[int, int], ...]:
    """Take indices of every volume that is annotated at all."""
    longest = max(len(flags) for flags in along)
    for s in slices:
        if not 0 <= s < longest:
            raise MedsagaError(
                f"There is no slice {s} along axis {axis}: give numbers from 0 to "
                f"{longest - 1}."
            )
    wanted = sorted({int(s) for s in slices})
    return tuple(
        (v, s)
        for v, flags in enumerate(along)
        for s in wanted
        if (may_be_empty or flags.any()) and s < len(flags)
    )


def _describe(
    labels: Sequence[Volume],
    along: Sequence[NDArray[np.bool_]],
    chosen: tuple[tuple[int, int], ...],
    axis: int,
) -> str:
    total = sum(len(flags) for flags in along)
    empty = sum(not along[v][s] for v, s in chosen)
    blank = f", {empty} of them with nothing on it" if empty else ""
    are = verb(len(chosen))
    if all(label.is_2d for label in labels):
        return f"{len(chosen)} of {count(total, 'image')} {are} annotated{blank}."
    within = "" if len(labels) == 1 else f" of {len(labels)} volumes"
    # Without an affine nobody knows how the patient lies in the array.
    known = all(label.affine is not None for label in labels)
    axis_name = next(name for name, a in AXIS_NAMES.items() if a == axis)
    where = f"axis {axis} ({axis_name})" if known else f"axis {axis}"
    return (
        f"{len(chosen)} of {count(total, 'slice')}{within} {are} annotated along "
        f"{where}{blank}."
    )

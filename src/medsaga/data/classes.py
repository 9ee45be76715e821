"""The classes of a model: label values, names and colours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medsaga.data.annotation import iterate_slices
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from medsaga.data.annotation import Annotation
    from medsaga.data.volume import Volume

_INTEGER_TYPES = (
    np.uint8,
    np.int8,
    np.uint16,
    np.int16,
    np.uint32,
    np.int32,
    np.uint64,
    np.int64,
)
MOST_CLASSES = 256
"""That a model tells apart, background included."""
LONGEST_NAME = 1000
"""Characters that the name of a class may have."""
_COLOUR = re.compile("#[0-9a-fA-F]{6}")


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """The classes of a model, in the order of its outputs.

    Attributes
    ----------
    values
        Label value of each class, background's 0 first; others as the user painted
        them, in any order and with gaps.
    names
        What to call each class.
    colours
        Each class's colour as ``#rrggbb``, or None where it has none.

    Raises
    ------
    MedsagaError
        If the first value is not 0, a value comes twice, or the lengths differ.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    colours: tuple[str | None, ...]

    def __post_init__(self) -> None:
        n = len(self.values)
        if (
            self.values[:1] != (0,)
            or len(set(self.values)) != n
            or len(self.names) != n
            or len(self.colours) != n
        ):
            raise MedsagaError(
                "The table of classes is damaged: give background (0) first, and for "
                "every class one value of its own, one name and one colour or none."
            )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def names_by_value(self) -> dict[int, str]:
        """What to call each label value."""
        return dict(zip(self.values, self.names, strict=True))

    @property
    def colours_by_value(self) -> dict[int, str]:
        """The colour of each label value that has one."""
        pairs = zip(self.values, self.colours, strict=True)
        return {value: colour for value, colour in pairs if colour is not None}

    def title(self, index: int) -> str:
        """Name a class at the begin of a sentence: ``Class 3 (spleen)``."""
        value, name = self.values[index], self.names[index]
        if value == 0:
            return "Background"
        return f"Class {value}" + ("" if name == _default_name(value) else f" ({name})")

    def index_of(
        self, labels: NDArray[Any], known: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Class index of each label value; -1 (ignored) where it is of no class.

        With `known`, a mask, it is also -1 where that is False.
        """
        order = np.argsort(self.values)
        ordered = np.asarray(self.values, dtype=np.int64)[order]
        if labels.dtype.kind in "bu":
            labels = labels.astype(np.int64)
        place = np.searchsorted(ordered, labels).clip(max=len(self) - 1)
        counts = ordered[place] == labels
        return np.where(counts if known is None else counts & known, order[place], -1)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest integer type that holds all label values."""
        low, high = min(self.values), max(self.values)
        limits = ((kind, np.iinfo(kind)) for kind in _INTEGER_TYPES)
        return np.dtype(next(k for k, i in limits if i.min <= low and high <= i.max))

    def to_values(self, indices: NDArray[np.integer]) -> NDArray[np.integer]:
        """Label value of each class index, in the table's `dtype`.

        Ignored pixels (-1) become background.
        """
        values: NDArray[np.integer] = np.asarray(self.values, dtype=self.dtype)
        mapped: NDArray[np.integer] = values[np.maximum(indices, 0)]
        return mapped


def class_table(
    labels: Sequence[Volume],
    annotation: Annotation,
    names: Mapping[int, str] | None = None,
    colours: Mapping[int, str] | None = None,
    *,
    besides: Iterable[int] = (),
) -> ClassTable:
    """Make the table of the classes on the annotated slices.

    Parameters
    ----------
    labels
        Masks with label values.
    annotation
        The annotated slices.
    names, colours
        By label value; those of values that are not on the slices are left out.
    besides
        Label values that are classes without being on the slices.

    Raises
    ------
    MedsagaError
        If the values are not whole numbers, or too many to be classes. If in a sparse
        annotation nothing is painted as background, or nothing else is. If a name is
        too long, or a colour is no ``#rrggbb``.
    """
    elsewhere = set(besides)
    found: set[float] = {0, *elsewhere}
    has_background = 0 in elsewhere
    for label in iterate_slices(labels, annotation):
        found.update(np.unique(label.values).tolist())
        has_background |= label.has_background
    if annotation.background_value is not None:
        _check_background(annotation.background_value, found, has_background)
    broken = next((v for v in found if not float(v).is_integer()), None)
    if broken is not None:
        raise MedsagaError(
            f"The labels contain {broken:g}, but label values are whole numbers: "
            "check that the label image is not an image or a probability map."
        )
    if len(found) > MOST_CLASSES:
        raise MedsagaError(
            f"The labels hold {len(found)} values, more than {MOST_CLASSES} classes: "
            "check that the label image is not an image or a map of single objects."
        )
    values = (0, *sorted(int(v) for v in found if v != 0))
    given_names, given_colours = names or {}, colours or {}
    _check_words(values, given_names, given_colours)
    return ClassTable(
        values=values,
        names=tuple(given_names.get(v) or _default_name(v) for v in values),
        colours=tuple(given_colours.get(v) for v in values),
    )


def _check_words(
    values: Iterable[int], names: Mapping[int, str], colours: Mapping[int, str]
) -> None:
    """Check that a card can hold what the classes are called and shown in."""
    for value in values:
        if len(names.get(value) or "") > LONGEST_NAME:
            raise MedsagaError(
                f"The name of class {value} has {len(names[value])} characters: give "
                f"one of at most {LONGEST_NAME}."
            )
        colour = colours.get(value)
        if colour is not None and not _COLOUR.fullmatch(colour):
            raise MedsagaError(
                f"The colour of class {value} is {colour!r}: give it as #rrggbb."
            )


def _check_background(
    value: int, found: Collection[float], has_background: bool
) -> None:
    """Check that a sparse annotation says what is background and what is not."""
    if value in found:
        raise MedsagaError(
            f"Label {value} is a class on the earlier slices: choose another value "
            "for background."
        )
    if not has_background:
        raise MedsagaError(
            f"Nothing is painted as background: paint some of it with label {value}, "
            "or every pixel would become one of the classes."
        )
    if set(found) == {0}:
        raise MedsagaError(
            f"Only background, label {value}, is painted: paint some of every "
            "structure too, with a label of its own."
        )


def _default_name(value: int) -> str:
    return "background" if value == 0 else f"class {value}"

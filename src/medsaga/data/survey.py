"""What is painted: how much of each class, and how fine it is."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medsaga.data.annotation import annotated_slices, iterate_slices
from medsaga.data.canvas import physical_shape
from medsaga.data.classes import class_table
from medsaga.data.label_doubts import label_doubts
from medsaga.data.volume import Volume
from medsaga.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from medsaga.data.annotation import Annotation
    from medsaga.data.canvas import Spacing
    from medsaga.data.classes import ClassTable


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """How much of one class is annotated.

    Attributes
    ----------
    value, name
        The class.
    n_slices, n_pixels
        Over the annotated slices.
    warning
        What to do about it, in a sentence, or None where that is enough.
    """

    value: int
    name: str
    n_slices: int
    n_pixels: int
    warning: str | None


def count_classes(
    labels: Sequence[Volume], annotation: Annotation, table: ClassTable
) -> list[ClassCount]:
    """Count the annotated pixels of each class but background.

    A class has too few to be learned below 30 over all the annotated slices, or below
    one in 2000 pixels of a slice if that is more: at a working size of 128 x 128 these
    are 8 pixels.
    """
    return _count_all(labels, annotation, table)[1:]


def count_background(
    labels: Sequence[Volume], annotation: Annotation, table: ClassTable
) -> ClassCount | None:
    """Count the pixels known as background in a sparse annotation, None in others.

    Its `value` is the one that is painted. On an empty slice every pixel counts.
    """
    value = annotation.background_value
    if value is None:
        return None
    return replace(_count_all(labels, annotation, table)[0], value=value)


def label_check(
    labels: Sequence[Volume],
    annotation: Annotation,
    table: ClassTable,
    besides: Iterable[int] = (),
) -> list[str]:
    """Say, one sentence each, which classes have too few pixels to be learned.

    Background is one of them in a sparse annotation. Nothing is said of the values
    `besides`, which other slices show.
    """
    elsewhere = set(besides) - {0}
    counts = _count_all(labels, annotation, table)
    asked = counts[0 if annotation.background_value is not None else 1 :]
    return [
        c.warning for c in asked if c.warning is not None and c.value not in elsewhere
    ]


@dataclass(frozen=True, kw_only=True)
class AnnotationSurvey:
    """What is painted on the slices that are to train.

    Attributes
    ----------
    counts
        Each class but background.
    background
        What is known as background in a sparse annotation, None in others.
    finest
        How wide the finest class is, as part of a slice's long side; None where that
        is not known.
    doubts
        Questions about labels that are hardly meant as classes.
    """

    counts: tuple[ClassCount, ...]
    background: ClassCount | None
    finest: float | None
    doubts: tuple[str, ...] = ()


def survey_annotation(
    image: Volume,
    labels: Volume,
    axis: int,
    slices: Sequence[int],
    *,
    names: Mapping[int, str] | None = None,
    background_value: int | None = None,
    others: Sequence[NDArray[np.generic]] = (),
) -> AnnotationSurvey:
    """Count the classes on some slices, and measure how fine they are.

    Parameters
    ----------
    image, labels
        What is annotated, and its labels.
    axis, slices
        Which slices train.
    names
        Names of the classes by label value.
    background_value
        The annotation is sparse: label 0 is unknown, and this value is background.
    others
        Labels (rows, columns) of slices that train besides. They count, but how fine
        they are is not looked at.

    Raises
    ------
    MedsagaError
        If the slices cannot train: nothing is labelled, or no background is.
    """
    found = annotated_slices(
        [labels],
        axis,
        slices,
        background_value=background_value,
        may_be_empty=bool(others),
    )
    beside = [Volume(array=np.expand_dims(other, axis)) for other in others]
    volumes = [labels, *beside]
    places = tuple((v, 0) for v in range(1, len(volumes)))
    annotation = replace(found, slices=(*found.slices, *places))
    table = class_table(volumes, annotation, names)
    return AnnotationSurvey(
        counts=tuple(count_classes(volumes, annotation, table)),
        background=count_background(volumes, annotation, table),
        finest=finest_width([image], [labels], found),
        doubts=tuple(label_doubts([labels], found)),
    )


def _count_all(
    labels: Sequence[Volume], annotation: Annotation, table: ClassTable
) -> list[ClassCount]:
    pixels = np.zeros(len(table), dtype=np.int64)
    slices = np.zeros(len(table), dtype=np.int64)
    slice_size = 0
    for label in iterate_slices(labels, annotation):
        index = table.index_of(label.values, label.known)
        counts = np.bincount(index[index >= 0], minlength=len(table))
        pixels += counts
        slices += counts > 0
        slice_size = max(slice_size, label.values.size)
    enough = max(30, slice_size // 2000)
    return [
        ClassCount(
            value=table.values[i],
            name=table.names[i],
            n_slices=int(slices[i]),
            n_pixels=int(pixels[i]),
            warning=None
            if pixels[i] >= enough
            else f"{table.title(i)} has {count(pixels[i], 'pixel')} on "
            f"{count(slices[i], 'slice')}: paint more, or it will not be learned.",
        )
        for i in range(len(table))
    ]


def finest_width(
    images: Sequence[Volume], labels: Sequence[Volume], annotation: Annotation
) -> float | None:
    """Measure how wide the finest class is; see :func:`width_of_finest`.

    Parameters
    ----------
    images, labels
        Pairs of the same shape.
    annotation
        Which slices are annotated.

    Returns
    -------
    float or None
        None where nothing is known of widths: strokes have but the brush's, and a class
        without an edge has none.
    """
    if annotation.background_value is not None:
        return None
    said = iterate_slices(labels, annotation)
    return width_of_finest(
        (label.values, images[v].slice_spacing(annotation.axis))
        for (v, _), label in zip(annotation.slices, said, strict=True)
    )


def width_of_finest(
    slices: Iterable[tuple[NDArray[Any], Spacing | None]],
) -> float | None:
    """Measure how wide the finest class is, as part of a slice's long side.

    The width of a class is four times its area divided by its circumference, both
    summed over the slices: the diameter of its parts if they are discs, twice the
    thickness if they are lines. The circumference is pi / 4 of the pixel sides along
    it, which is right in the mean over all directions.

    Parameters
    ----------
    slices
        (rows, columns) label values of each slice of which all is known, and the size
        of its pixels in mm.

    Returns
    -------
    float or None
        None where no class has an edge.
    """
    areas: defaultdict[int, float] = defaultdict(float)
    outlines: defaultdict[int, float] = defaultdict(float)
    for painted, spacing in slices:
        rows, cols = painted.shape
        shape = physical_shape(rows, cols, spacing)
        height, width = (side / max(shape) for side in shape)
        row, col = height / rows, width / cols
        _add(areas, painted[painted != 0], row * col)
        _add(outlines, _beside_an_edge(painted), col)
        _add(outlines, _beside_an_edge(painted.T), row)
    widths = [
        4 * areas[value] / (outline * math.pi / 4)
        for value, outline in outlines.items()
        if value
    ]
    return min(widths, default=None)


def _beside_an_edge(painted: NDArray[np.generic]) -> NDArray[np.generic]:
    """Give both values wherever a row's differs from the next row's."""
    above, below = painted[:-1], painted[1:]
    differs = above != below
    return np.concatenate([above[differs], below[differs]])


def _add(
    sums: defaultdict[int, float], values: NDArray[np.generic], weight: float
) -> None:
    for value, number in zip(*np.unique(values, return_counts=True), strict=True):
        sums[int(value)] += float(number) * weight

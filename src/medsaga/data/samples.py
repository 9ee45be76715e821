"""Samples: the annotated slices, their classes, and what a training learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medsaga.data.intensity import IntensityRule, to_unit
from medsaga.data.sizing import (
    Canvas,
    pad_image,
    pad_target,
    resize_image,
    resize_target,
)
from medsaga.data.volume import AXIS_NAMES, Volume
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

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
_MOST_CLASSES = 256


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

    def index_of(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """Class index of each label value; -1 (ignored) where it is of no class."""
        order = np.argsort(self.values)
        ordered = np.asarray(self.values, dtype=np.int64)[order]
        if labels.dtype.kind in "bu":
            labels = labels.astype(np.int64)
        place = np.searchsorted(ordered, labels).clip(max=len(self) - 1)
        return np.where(ordered[place] == labels, order[place], -1)

    def to_values(self, indices: NDArray[np.integer]) -> NDArray[np.integer]:
        """Label value of each class index, in the smallest type that holds them all.

        Ignored pixels (-1) become background.
        """
        low, high = min(self.values), max(self.values)
        dtype = next(
            kind
            for kind in _INTEGER_TYPES
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max
        )
        values: NDArray[np.integer] = np.asarray(self.values, dtype=dtype)
        mapped: NDArray[np.integer] = values[np.maximum(indices, 0)]
        return mapped


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """One annotated slice, ready for a model.

    Attributes
    ----------
    image
        (3, H, W) float32 in [0, 1], padded; not to be written into.
    target
        (H, W) int64 class indices; -1 where ignored, such as padding.
    volume_index, slice_index
        Where the slice comes from.
    name
        What to call the slice.
    truth
        (rows, columns) label values at the slice's own resolution.
    spacing
        Pixel size in mm along (rows, columns) of the slice; None where unknown.
    content
        Height and width of the part of `image` that is not padding.
    """

    image: Tensor
    target: Tensor
    volume_index: int
    slice_index: int
    name: str
    truth: NDArray[Any]
    spacing: tuple[float, float] | None
    content: tuple[int, int]


def check_pairs(images: Sequence[Volume], labels: Sequence[Volume]) -> None:
    """Raise MedsagaError unless there is a mask of the same shape for each image."""
    if not images:
        raise MedsagaError("There is no image: give at least one with its labels.")
    if len(images) != len(labels):
        raise MedsagaError(
            f"There are {len(images)} images and {len(labels)} label images: give one "
            "label image for each image."
        )
    for image, label in zip(images, labels, strict=True):
        if label.is_rgb:
            raise MedsagaError(
                f"The labels of {image.name} are a colour image: give one whole number "
                "a pixel, 0 where nothing is labelled."
            )
        if image.shape != label.shape:
            raise MedsagaError(
                f"{image.name} has the shape {image.shape} and its labels have "
                f"{label.shape}: give labels that were painted on this very image."
            )


def annotated_slices(
    labels: Sequence[Volume],
    axis: int | None = None,
    slices: Sequence[int] | None = None,
) -> Annotation:
    """Find the annotated slices: those that carry any label.

    Parameters
    ----------
    labels
        Masks, 0 where nothing is labelled.
    axis
        Axis of (z, y, x) that the slices are cut across; None takes the one with the
        fewest labelled slices over all the volumes, on a tie the first. 2-D images are
        always cut across axis 0.
    slices
        Only these indices along the axis, in every volume that carries a label and is
        long enough. One without a label there counts as annotated too: as a slice that
        shows nothing of any class.

    Raises
    ------
    MedsagaError
        If nothing is labelled, or the axis or an index does not exist.
    """
    if axis is not None and axis not in (0, 1, 2):
        raise MedsagaError(f"There is no axis {axis}: choose 0, 1 or 2.")
    # For each volume and axis, whether each slice carries a label.
    labelled = [_labelled_slices(label) for label in labels]
    if not any(flags[0].any() for flags in labelled):
        raise MedsagaError(
            "No slice is labelled: paint every structure on at least one slice, then "
            "start again."
        )
    if any(label.is_2d for label in labels):
        axis = 0
    if axis is None:
        axis = min(
            range(3), key=lambda a: sum(int(flags[a].sum()) for flags in labelled)
        )
    along = [flags[axis] for flags in labelled]
    chosen = _labelled(along) if slices is None else _asked_for(along, slices, axis)
    return Annotation(
        axis=axis, slices=chosen, sentence=_describe(labels, along, chosen, axis)
    )


def class_table(
    labels: Sequence[Volume],
    annotation: Annotation,
    names: Mapping[int, str] | None = None,
    colours: Mapping[int, str] | None = None,
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

    Raises
    ------
    MedsagaError
        If the values are not whole numbers, or too many to be classes.
    """
    found: set[float] = {0}
    for label in _slices(labels, annotation):
        found.update(np.unique(label).tolist())
    broken = next((v for v in found if not float(v).is_integer()), None)
    if broken is not None:
        raise MedsagaError(
            f"The labels contain {broken:g}, but label values are whole numbers: "
            "check that the label image is not an image or a probability map."
        )
    if len(found) > _MOST_CLASSES:
        raise MedsagaError(
            f"The labels hold {len(found)} values, more than {_MOST_CLASSES} classes: "
            "check that the label image is not an image or a map of single objects."
        )
    values = (0, *sorted(int(v) for v in found if v != 0))
    given_names, given_colours = names or {}, colours or {}
    return ClassTable(
        values=values,
        names=tuple(given_names.get(v) or _default_name(v) for v in values),
        colours=tuple(given_colours.get(v) for v in values),
    )


def label_check(
    labels: Sequence[Volume], annotation: Annotation, table: ClassTable
) -> list[str]:
    """Say, one sentence each, which classes have too few pixels to be learned.

    That is fewer than 30 over all the annotated slices, or than one in 2000 pixels of
    a slice if that is more: at a working size of 128 x 128 these are 8 pixels.
    """
    pixels = np.zeros(len(table), dtype=np.int64)
    slices = np.zeros(len(table), dtype=np.int64)
    slice_size = 0
    for label in _slices(labels, annotation):
        index = table.index_of(label)
        counts = np.bincount(index[index >= 0], minlength=len(table))
        pixels += counts
        slices += counts > 0
        slice_size = max(slice_size, label.size)
    enough = max(30, slice_size // 2000)
    return [
        f"{_full_name(table, i)} has {_count(pixels[i], 'pixel')} on "
        f"{_count(slices[i], 'slice')}: paint more, or it will not be learned."
        for i in range(1, len(table))
        if pixels[i] < enough
    ]


def working_image(
    volume: Volume,
    axis: int,
    index: int,
    limits: tuple[float, float],
    canvas: Canvas,
) -> tuple[Tensor, tuple[int, int]]:
    """Make the image that a model sees of a slice.

    Parameters
    ----------
    volume
        Where the slice comes from.
    axis, index
        Slice `index` across `axis`.
    limits
        What :meth:`IntensityRule.limits` gives for the volume.
    canvas
        The size that the model works at.

    Returns
    -------
    image : Tensor
        (3, H, W) float32 in [0, 1], padded; not to be written into.
    content : tuple of int
        Height and width of the part that is not padding.
    """
    picked = volume.slice(axis, index)
    rows, cols = picked.shape[:2]
    spacing = volume.slice_spacing(axis)
    content = canvas.content_shape(rows, cols, spacing)
    image = resize_image(to_unit(picked, limits), content)
    return pad_image(image, canvas.padded_shape(rows, cols, spacing)), content


def build_samples(
    images: Sequence[Volume],
    labels: Sequence[Volume],
    annotation: Annotation,
    table: ClassTable,
    rule: IntensityRule,
    canvas: Canvas,
) -> list[Sample]:
    """Make a sample of each annotated slice, in the annotation's order.

    Raises
    ------
    MedsagaError
        If images and labels do not go together.
    """
    check_pairs(images, labels)
    axis = annotation.axis
    limits = {v: rule.limits(images[v]) for v in {v for v, _ in annotation.slices}}
    samples = []
    for v, s in annotation.slices:
        image, content = working_image(images[v], axis, s, limits[v], canvas)
        truth = labels[v].slice(axis, s)
        target = resize_target(table.index_of(truth), content)
        samples.append(
            Sample(
                image=image,
                target=pad_target(target, (image.shape[1], image.shape[2])),
                volume_index=v,
                slice_index=s,
                name=images[v].name if images[v].is_2d else f"{images[v].name} [{s}]",
                truth=truth,
                spacing=images[v].slice_spacing(axis),
                content=content,
            )
        )
    return samples


def _slices(labels: Sequence[Volume], annotation: Annotation) -> Iterator[NDArray[Any]]:
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
    along: Sequence[NDArray[np.bool_]], slices: Sequence[int], axis: int
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
        if flags.any() and s < len(flags)
    )
    if not any(along[v][s] for v, s in chosen):
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
        return f"{len(chosen)} of {_count(total, 'image')} {verb} annotated{blank}."
    within = "" if len(labels) == 1 else f" of {len(labels)} volumes"
    # Without an affine nobody knows how the patient lies in the array.
    known = all(label.affine is not None for label in labels)
    axis_name = next(name for name, a in AXIS_NAMES.items() if a == axis)
    where = f"axis {axis} ({axis_name})" if known else f"axis {axis}"
    return (
        f"{len(chosen)} of {_count(total, 'slice')}{within} {verb} annotated along "
        f"{where}{blank}."
    )


def _default_name(value: int) -> str:
    return "background" if value == 0 else f"class {value}"


def _full_name(table: ClassTable, index: int) -> str:
    value, name = table.values[index], table.names[index]
    return f"Class {value}" + ("" if name == _default_name(value) else f" ({name})")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")

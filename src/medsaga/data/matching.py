"""Labels and their image: that their voxels are the same ones, whatever turned them.

A file is read in canonical order by what its header says. Where the header of one of
two says nothing, or the two go by different forms of one header, their voxels are
turned apart although they are stored side by side. So a pair is looked at as stored.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from medsaga.data.formats.canonical import FileSpace, PlainFile
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsaga.data.volume import Volume

_Stored: TypeAlias = FileSpace | PlainFile
# Of a voxel: resampled or rounded by a program, but hardly drawn on another grid.
_NEARLY = 1.0


def match_labels(image: Volume, labels: Volume) -> tuple[Volume, str | None]:
    """Give labels on the grid of their image, and a sentence where there is a doubt.

    Two files that both say how they are oriented lie where they say. Else what was
    stored side by side belongs together; so it does where one of the two places that
    the header of one gives (NIfTI's sform and qform) is the place of the other. Volumes
    that come from no file are taken as they are.

    Raises
    ------
    MedsagaError
        If the shapes differ, the labels are a colour image, or they lie elsewhere, so
        that nothing tells which voxels belong together.
    """
    here, there = image.source, labels.source
    if not (isinstance(here, _Stored) and isinstance(there, _Stored)) or labels.is_rgb:
        return labels, check_pair(image, labels)
    if isinstance(here, FileSpace) and isinstance(there, FileSpace):
        if _same_orientation(here, there):
            return labels, _check_unturned(image, here, labels, there)
        if here.forms and there.forms:
            return _match_places(image, here, labels, there)
    return _match_stored(image, here, labels, there)


def _check_unturned(
    image: Volume, here: FileSpace, labels: Volume, there: FileSpace
) -> str | None:
    """Check a pair that is stored in one order, by a place that both headers give."""
    pairs = list(product(here.readings(), there.readings()))
    if not pairs:  # one of them gives none
        return check_pair(image, replace(labels, affine=None))
    if any(_lie_together(one, other) for one, other in pairs[1:]):
        return None if _lie_together(*pairs[0]) else _by_other_form(image, labels)
    return check_pair(image, labels)


def check_pair(image: Volume, labels: Volume) -> str | None:
    """Check that labels fit an image, voxel by voxel.

    Returns
    -------
    str or None
        A sentence of warning where they lie by less than a voxel elsewhere.

    Raises
    ------
    MedsagaError
        If the shapes differ, or the labels are a colour image.
    """
    if labels.is_rgb:
        raise MedsagaError(
            f"The labels of {image.name} are a colour image: give one whole number a "
            "pixel, 0 where nothing is labelled."
        )
    if image.shape != labels.shape:
        raise MedsagaError(
            f"The image {image.name} has the shape {_sizes(image)}, its labels "
            f"{labels.name} have {_sizes(labels)}: give labels that were drawn on this "
            "image."
        )
    if image.affine is None or labels.affine is None:
        return None
    if _same_place(image.affine, labels.affine, image.shape):
        return None
    if image.is_2d != labels.is_2d:  # the axes of one have been turned, not the other's
        raise MedsagaError(
            f"Of the image {image.name} and its labels one is a 2-D image, the other a "
            "volume of a single slice, which lies elsewhere: save both as the same."
        )
    if not _same_place(image.affine, labels.affine, image.shape, voxels=_NEARLY):
        raise MedsagaError(
            f"The labels {labels.name} lie elsewhere in space than the image "
            f"{image.name}, so that no voxel is known to belong to another: save the "
            "labels on the image's grid again or, if they were drawn on it and their "
            "header alone is wrong, with the image's header. Affine of the image: "
            f"{_written(image.affine)}; of the labels: {_written(labels.affine)}."
        )
    return (
        f"The labels of {image.name} lie by a fraction of a voxel elsewhere in space "
        "than the image: they are matched voxel by voxel; check that they line up."
    )


def _match_places(
    image: Volume, here: FileSpace, labels: Volume, there: FileSpace
) -> tuple[Volume, str | None]:
    """Match by a place that both headers give: the ones in use, or others."""
    if image.is_2d != labels.is_2d:
        return labels, check_pair(image, labels)
    marks = there.stored(labels.array)
    pairs = list(product(here.readings(), there.readings()))
    # As stored, and thence by what the image is turned by.
    fitting = [
        here.canonical(one.stored(other.canonical(marks)))
        for one, other in pairs
        if _lie_together(one, other)
    ]
    if here.grid == there.grid and any(
        _same_place(one.affine, other.affine, here.grid[::-1]) for one, other in pairs
    ):  # what has the very place of the other was stored with it
        fitting.append(here.canonical(marks))
    if any(not np.array_equal(one, fitting[0]) for one in fitting):
        raise MedsagaError(
            f"Of {image.name} and {labels.name} one has a header that gives two places "
            "(sform and qform), and the labels fit both: save it again with the right "
            "one in both."
        )
    if fitting:
        doubt = None if _lie_together(*pairs[0]) else _by_other_form(image, labels)
        return _on_grid(image, labels, fitting[0]), doubt
    if image.shape != labels.shape:
        check_pair(image, labels)  # says so
    raise MedsagaError(
        f"The labels {labels.name} lie elsewhere in space than the image {image.name}, "
        f"and are turned differently ({here.axis_codes()} and {there.axis_codes()}), "
        "so that no voxel is known to belong to another: save the labels on the "
        f"image's grid again. Affine of the image: {_written(here.affine)}; of the "
        f"labels: {_written(there.affine)}."
    )


def _lie_together(one: FileSpace, other: FileSpace) -> bool:
    """Whether two files are one grid in canonical order."""
    shapes = [space.canonical_shape() for space in (one, other)]
    return shapes[0] == shapes[1] and _same_place(
        one.canonical_affine(), other.canonical_affine(), shapes[0]
    )


def _by_other_form(image: Volume, labels: Volume) -> str:
    return (
        f"{image.name} and {labels.name} go by different ones of the two places that a "
        "NIfTI header gives (sform and qform): the labels are matched by the one that "
        "both have; check that they line up."
    )


def _match_stored(
    image: Volume, here: _Stored, labels: Volume, there: _Stored
) -> tuple[Volume, str | None]:
    """Match voxels as they are stored: one of the two says nothing of orientation."""
    stored = there.stored(labels.array)
    silent = labels if not there.forms else image
    if stored.shape != here.stored(_grey(image)).shape:
        check_pair(image, labels)
        return _on_grid(image, labels, labels.array), (
            f"{silent.name} does not say how it is oriented, and of {image.name} and "
            "its labels the shapes fit only in the order in which images are shown "
            "(from foot to head, back to front, left to right): they are matched so; "
            "check that they line up."
        )
    matched = _on_grid(image, labels, here.canonical(stored))
    if np.array_equal(matched.array, labels.array):
        return matched, None
    return matched, (
        f"{silent.name} does not say how it is oriented: {image.name} and its labels "
        "are matched in the order in which both are stored, not as images are shown; "
        "check that they line up, or save both as NIfTI."
    )


def _grey(image: Volume) -> NDArray[Any]:
    array: NDArray[Any] = image.array[..., 0] if image.is_rgb else image.array
    return array


def _on_grid(image: Volume, labels: Volume, array: NDArray[Any]) -> Volume:
    return replace(
        image.with_array(np.ascontiguousarray(array)),
        name=labels.name,
        holds_labels=labels.holds_labels,
    )


def _same_orientation(here: FileSpace, there: FileSpace) -> bool:
    return np.array_equal(here.orientation, there.orientation)


def _sizes(volume: Volume) -> str:
    shape = volume.shape[1:] if volume.is_2d else volume.shape
    return " x ".join(map(str, shape))


def _written(affine: NDArray[np.float64]) -> str:
    rows = ("[" + " ".join(f"{n:.4g}" for n in row) + "]" for row in affine[:3])
    return " ".join(rows)


def _same_place(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    shape: tuple[int, ...],
    *,
    voxels: float = 0.25,
) -> bool:
    """Whether two grids (z, y, x) agree, but for so much of a voxel in the centre.

    The least is what a header's rounding may move.

    Quaternions in single precision turn a volume by up to half a thousandth, which
    moves the origin of a large one by a fraction of a voxel: hence the centres.
    """
    voxel = np.linalg.norm(a[:3, :3], axis=0)
    centre = np.array([*((n - 1) / 2 for n in shape[::-1]), 1.0])
    turned = np.abs(a[:3, :3] - b[:3, :3]) > 4e-3 * voxels * voxel
    shift = np.linalg.norm(((a - b) @ centre)[:3])
    return not turned.any() and bool(shift < voxels * voxel.min())

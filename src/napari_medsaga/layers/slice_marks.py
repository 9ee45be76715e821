"""Slices that the user has said something of, kept with their Labels layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from napari_medsaga.layers.convert import index_on

if TYPE_CHECKING:
    from napari.layers import Image, Labels

Mark = Literal["empty", "accepted"]
"""They show nothing; or their labels were suggested and found right."""


def marked_slices(
    labels: Labels, image: Image, mark: Mark
) -> frozenset[tuple[int, int]]:
    """Give the marked slices of a Labels layer as (axis, index) on an image's grid."""
    marks: frozenset[tuple[int, int]] = labels.metadata.get(_key(mark), frozenset())
    return frozenset((a, index_on(labels, image, a, i)) for a, i in marks)


def mark_slice(
    labels: Labels, mark: Mark, axis: int, index: int, *, is_set: bool = True
) -> None:
    """Set a mark on a slice, by the layer's own index, or take it away."""
    marks = labels.metadata.get(_key(mark), frozenset())
    changed = marks | {(axis, index)} if is_set else marks - {(axis, index)}
    if changed != marks:
        labels.metadata = {**labels.metadata, _key(mark): changed}


def _key(mark: Mark) -> str:
    return f"medsaga_{mark}_slices"

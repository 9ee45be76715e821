"""Tiles: the parts of a large working image that a network sees one at a time.

Where what is painted would vanish at the usual working size, images are worked at
finer, up to their own resolution, and are seen in tiles.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from medsaga.windows import content_of, scaled_window, view_size, windows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from medsaga.data.samples import Sample
    from medsaga.windows import Window


def draw_centre(
    sample: Sample, tile: int, random: np.random.Generator
) -> tuple[float, float]:
    """Draw where a view of a sample is cut out: row and column of its middle.

    It nearly always shows some pixel of a class, all classes being equally likely, and
    as little as can be of what lies beside the slice.
    """
    classes = sorted(sample.class_places)
    places = sample.class_places[int(random.choice(classes))]
    place = places[random.integers(len(places))] * sample.content
    moved = place + random.uniform(-0.5, 0.5, 2) * 0.8 * tile
    half = np.minimum(sample.content, tile) / 2
    row, col = np.clip(moved, half, sample.content - half)
    return float(row), float(col)


def is_tiled(sample: Sample, tile: int) -> bool:
    """Whether a sample is larger than a tile."""
    return view_size(sample.padded, tile) != sample.padded


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """What a network is judged by of one sample.

    Attributes
    ----------
    sample
        A window of it, or the sample itself.
    place
        Rows and columns of the slice that it shows, at the slice's own resolution.
    classes
        Indices of the classes that are judged on it, without background.
    """

    sample: Sample
    place: Window
    classes: tuple[int, ...]


def parts_to_judge(
    sample: Sample, tile: int, n_classes: int, *, n_drawn: int = 0
) -> list[Part]:
    """Give the parts of a sample that a network is judged by.

    The sample itself where it is seen at once. Else, so that a large image does not
    take a hundred windows, for each class the one with the most of it; a sample without
    any class is judged by its middle.

    Parameters
    ----------
    sample, tile
        What is judged, and the longest side of a window.
    n_classes
        How many there are, background included.
    n_drawn
        So many windows are drawn at random before: where the classes are dense they may
        be found more easily than elsewhere. Only for those that none of these shows
        another one is looked for.
    """
    every = tuple(range(1, n_classes))
    if not is_tiled(sample, tile):
        return [Part(sample=sample, place=(slice(None), slice(None)), classes=every)]
    found = windows(sample.content, sample.padded, tile)
    order = np.random.default_rng(0).permutation(len(found))
    drawn: list[int] = order[:n_drawn].tolist()
    judged: dict[int, list[int]] = defaultdict(list, {number: [] for number in drawn})
    for index in torch.unique(sample.target[sample.target > 0]).tolist():
        shown = [int((sample.target[place] == index).sum()) for place in found]
        if not any(shown[number] for number in drawn):
            judged[int(np.argmax(shown))].append(index)
    chosen = judged or {len(found) // 2: list(every)}
    return [
        Part(
            sample=cut(sample, found[number]),
            place=scaled_window(found[number], sample.content, sample.truth.shape),
            classes=tuple(chosen[number]),
        )
        for number in sorted(chosen)
    ]


def cut(sample: Sample, window: Window) -> Sample:
    """Give what a window of the working image shows, as a sample of its own."""
    rows, cols = window
    height, width = sample.labels.shape
    labels = sample.labels[scaled_window(window, sample.content, (height, width))]
    own = scaled_window(window, sample.content, sample.truth.shape)
    return replace(
        sample,
        image=sample.image[:, rows, cols],
        target=sample.target[rows, cols],
        labels=labels,
        truth=sample.truth[own],
        known=None if sample.known is None else sample.known[own],
        content=content_of(window, sample.content),
    )


def class_places(labels: Tensor, most: int = 10_000) -> dict[int, NDArray[np.float64]]:
    """Give where the classes of a slice are: rows and columns as parts of its sides.

    Parameters
    ----------
    labels
        (rows, columns) class indices, -1 where ignored.
    most
        So many pixels of each class are enough, drawn at random.
    """
    random, places = np.random.default_rng(0), {}
    array = labels.numpy()
    for index in np.unique(array[array >= 0]).tolist():
        found = np.flatnonzero(array == index)
        if len(found) > most:
            found = found[random.integers(len(found), size=most)]
        pixels = np.stack(np.unravel_index(found, array.shape), axis=1)
        places[int(index)] = (pixels + 0.5) / array.shape
    return places

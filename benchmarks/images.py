"""What a task is, and how its images are read and scaled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import imageio.v3 as imageio
import numpy as np
import torch
from torch.nn import functional as F

import medsaga
from medsaga import Volume

if TYPE_CHECKING:
    from pathlib import Path

Image = tuple[Volume, Volume]  # with its truth
Judged = tuple[Volume, Volume, list[int]]  # with its truth and the slices that count


@dataclass(frozen=True)
class Task:
    """What trains, and what is judged.

    Attributes
    ----------
    training
        Images with labels; a slice without a label does not train.
    test
        Images with truth, and the slices that count. Large sets read each when it is
        judged.
    axis
        The slices are cut across this axis of (z, y, x); None: as the engine chooses.
    is_sparse
        Whether a pixel without paint is unknown (the setting `sparse`).
    keeps_neighbours
        Whether the slices next to those that train are kept (the setting `neighbours`).
    looked_at
        Which of `test` were looked at when the default was chosen (docs/choices.md).
    facts
        What the results say about it, such as how it was split.
    """

    training: list[Image]
    test: Sequence[Judged]
    axis: int | None = None
    is_sparse: bool = False
    keeps_neighbours: bool = True
    looked_at: frozenset[int] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)


class OnDemand(Sequence[Judged]):
    """Images that are read anew each time they are asked for, and not kept."""

    def __init__(self, readers: Sequence[Callable[[], Judged]]) -> None:
        self._readers = readers

    def __len__(self) -> int:
        return len(self._readers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return OnDemand(self._readers[index])
        return self._readers[index]()


def annotate(image: Volume, truth: Volume, slices: list[int]) -> Image:
    """Give the image with the labels of these slices (of axis 0) alone."""
    labels = np.zeros_like(truth.array)
    labels[slices] = truth.array[slices]
    return image, truth.with_array(labels)


def draw_strokes(labels: Volume, background: int) -> Volume:
    """Give the labels as strokes: one pixel wide, along the middle of each class.

    Background has strokes of the value `background`, on the slices (of axis 0) that
    carry a label; all other pixels are 0, unknown.
    """
    from skimage.morphology import skeletonize

    painted = np.zeros(labels.shape, np.uint8)
    for index in np.flatnonzero(labels.array.any(axis=(1, 2))):
        for value in np.unique(labels.array[index]):
            line = skeletonize(labels.array[index] == value)
            painted[index][line] = value or background
    return labels.with_array(painted)


def read_grey(path: Path) -> Volume:
    """Read a picture; a coloured one in grey, without its alpha."""
    pixels = imageio.imread(path)
    if pixels.ndim == 3:  # ITU-R BT.601 luma
        pixels = (pixels[..., :3] @ (0.299, 0.587, 0.114)).round().astype(np.uint8)
    return medsaga.volume_from_array(pixels, name=path.stem, rgb=False)


def resize(volume: Volume, mode: str, size: int) -> Volume:
    """Scale the slices of an 8-bit image to `size` x `size` pixels."""
    planes = torch.from_numpy(volume.array).float()[None]
    resized = F.interpolate(planes, size=(size, size), mode=mode)[0].round()
    return volume.with_array(resized.numpy().astype(np.uint8))


def on_square(
    volume: Volume, side: int, *, enlarge: bool, is_labels: bool = False
) -> Volume:
    """Bring slices to `side` x `side` pixels at their true proportions.

    Parameters
    ----------
    volume
        (z, y, x), as read from a file.
    side
        Slices that are longer are scaled down to it; what is missing on all sides is
        filled with the darkest value of the volume, labels with 0.
    enlarge
        Scale shorter slices up too, rather than only fill them.
    is_labels
        Take the nearest value in place of a mean.

    Returns
    -------
    Volume
        Its spacing is that of the scaled pixels. It has no affine.
    """
    array, spacing = volume.array, volume.spacing
    rows, cols = array.shape[1:]
    if max(rows, cols) > side or (enlarge and max(rows, cols) < side):
        factor = side / max(rows, cols)
        size = max(1, round(rows * factor)), max(1, round(cols * factor))
        array = _scaled(array, size, is_labels=is_labels)
        if spacing is not None:
            y, x = spacing[1] * rows / size[0], spacing[2] * cols / size[1]
            spacing = spacing[0], y, x
    height, width = array.shape[1:]
    top, left = (side - height) // 2, (side - width) // 2
    margins = (0, 0), (top, side - height - top), (left, side - width - left)
    fill = 0 if is_labels else array.min()
    array = np.pad(array, margins, constant_values=fill)
    return replace(volume, array=array, spacing=spacing, affine=None, source=None)


def take_slices(volume: Volume, slices: list[int]) -> Volume:
    """Stack these slices (of axis 0); the stack keeps the spacing, not the place."""
    return replace(volume, array=volume.array[slices], affine=None, source=None)


def _scaled(array: Any, size: tuple[int, int], *, is_labels: bool) -> Any:
    planes = torch.from_numpy(array.astype(np.float32))[None]
    if is_labels:
        scaled = F.interpolate(planes, size=size, mode="nearest-exact")
    else:
        scaled = F.interpolate(planes, size=size, mode="bilinear", antialias=True)
    found = scaled[0].numpy()
    return found.round().astype(array.dtype) if array.dtype.kind in "iu" else found


def spread(total: int, n: int) -> list[int]:
    """Pick n indices, each in the middle of one of n equal parts."""
    return [int((i + 0.5) * total / n) for i in range(n)]

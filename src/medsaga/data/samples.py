"""Samples: the annotated slices as a model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medsaga.data.integers import smallest_integers
from medsaga.data.intensity import IntensityRule, to_unit
from medsaga.data.sizing import (
    labels_for_views,
    pad_image,
    pad_target,
    resize_image,
    resize_target,
)
from medsaga.data.tiles import class_places
from medsaga.errors import MedsagaError
from medsaga.windows import WorkingImage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from medsaga.data.annotation import Annotation
    from medsaga.data.canvas import Canvas
    from medsaga.data.classes import ClassTable
    from medsaga.data.identity import SliceId
    from medsaga.data.volume import Volume
    from medsaga.windows import Size


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """One annotated slice, ready for a model.

    Attributes
    ----------
    image
        (3, H, W) float32 in [0, 1], padded; not to be written into.
    target
        (H, W) int64 class indices; -1 where ignored, such as padding.
    labels
        int16 class indices over the content alone, what views are drawn from: as fine
        as the slice itself (:func:`~medsaga.data.sizing.labels_for_views`), of strokes
        as coarse as `target`, or they would fall between a view's pixels.
    id
        Which slice it is.
    truth
        (rows, columns) label values at the slice's own resolution, 0 for background.
    known
        (rows, columns), whether `truth` says anything of the pixel; None where of all.
    spacing
        Pixel size in mm along (rows, columns) of the slice; None where unknown.
    content
        Height and width of the part of `image` that is not padding.
    """

    image: Tensor
    target: Tensor
    labels: Tensor
    id: SliceId
    truth: NDArray[Any]
    spacing: tuple[float, float] | None
    content: tuple[int, int]
    known: NDArray[np.bool_] | None = None

    @property
    def padded(self) -> Size:
        """Height and width of `image`."""
        return self.seen.padded

    @property
    def seen(self) -> WorkingImage:
        """What a model sees of it."""
        size = self.truth.shape[0], self.truth.shape[1]
        return WorkingImage(image=self.image, content=self.content, size=size)

    @cached_property
    def class_places(self) -> Mapping[int, NDArray[np.float64]]:
        """Where each class is, background among them: parts of the content's sides."""
        return class_places(self.labels)


def working_image(
    volume: Volume,
    axis: int,
    index: int,
    limits: tuple[float, float],
    canvas: Canvas,
) -> WorkingImage:
    """Make the image that a model sees of a slice.

    Its channels are the slice's colours, grey three times, or slices `index` - 1,
    `index` and `index` + 1, of which the volume's ends repeat the slice itself.

    Parameters
    ----------
    volume
        Where the slice comes from.
    axis, index
        Slice `index` across `axis`.
    limits
        What :meth:`IntensityRule.limits` gives for the volume.
    canvas
        The size that the model works at, and what its channels hold.

    Raises
    ------
    MedsagaError
        If neighbours are wanted of a colour image.
    """
    if canvas.neighbours:
        picked = _with_neighbours(volume, axis, index)
    else:
        picked = volume.slice(axis, index)
    rows, cols = picked.shape[:2]
    spacing = volume.slice_spacing(axis)
    content = canvas.content_shape(rows, cols, spacing)
    image = resize_image(to_unit(picked, limits), content)
    return WorkingImage(
        image=pad_image(image, canvas.padded_shape(rows, cols, spacing)),
        content=content,
        size=(rows, cols),
    )


def scale_labels(
    indices: NDArray[Any], seen: WorkingImage, known: NDArray[np.bool_] | None
) -> tuple[Tensor, Tensor]:
    """Make `target` and `labels` of a :class:`Sample` from its class indices."""
    is_sparse = known is not None
    target = resize_target(indices, seen.content, keep_strokes=is_sparse)
    labels = target.short() if is_sparse else labels_for_views(indices, seen.content)
    return pad_target(target, seen.padded), labels


def drawn_sample(seed: int, view: int, n_samples: int) -> int:
    """Give the index of the sample that view number `view` of a training shows.

    Each sample is drawn once in `n_samples` views, in an order shuffled anew for each
    round over them.
    """
    order = np.random.default_rng([seed, view // n_samples]).permutation(n_samples)
    return int(order[view % n_samples])


def _with_neighbours(volume: Volume, axis: int, index: int) -> NDArray[Any]:
    """Give (rows, columns, 3): the slices below, at and above `index`."""
    if volume.is_rgb:
        raise MedsagaError(
            f"{volume.name} is a colour image, and the model looks at the grey slices "
            "below and above in place of colours: give a grey image, or train a model "
            "with neighbours off."
        )
    last = volume.shape[axis] - 1
    below, above = max(index - 1, 0), min(index + 1, last)
    planes = [volume.slice(axis, i) for i in (below, index, above)]
    return np.stack(planes, axis=-1)


def build_samples(
    images: Sequence[Volume],
    labels: Sequence[Volume],
    annotation: Annotation,
    table: ClassTable,
    rule: IntensityRule,
    canvas: Canvas,
) -> list[Sample]:
    """Make a sample of each annotated slice, in the annotation's order.

    Images and labels are pairs of the same shape.

    Raises
    ------
    MedsagaError
        If neighbours are wanted of a colour image.
    """
    axis = annotation.axis
    limits = {v: rule.limits(images[v]) for v in {v for v, _ in annotation.slices}}
    samples = []
    for v, s in annotation.slices:
        seen = working_image(images[v], axis, s, limits[v], canvas)
        label = annotation.read(labels[v], s)
        indices = table.index_of(label.values, label.known)
        target, drawn = scale_labels(indices, seen, label.known)
        samples.append(
            Sample(
                image=seen.image,
                target=target,
                labels=drawn,
                id=images[v].slice_id(axis, s),
                # A view would keep the whole labels in memory.
                truth=smallest_integers(label.values),
                spacing=images[v].slice_spacing(axis),
                content=seen.content,
                known=label.known,
            )
        )
    return samples


def whole_slices(samples: Iterable[Sample]) -> dict[SliceId, NDArray[Any]]:
    """Give the `truth` of the slices of which every pixel is known."""
    return {one.id: one.truth for one in samples if one.known is None}


def classes_of(sample: Sample) -> np.ndarray:
    """Give the indices of the classes on a slice, background among them."""
    classes = torch.unique(sample.target)
    known: np.ndarray = classes[classes >= 0].numpy()
    return known

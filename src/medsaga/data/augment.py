"""Augmentation: random views of a slice, the same for the same number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medsaga.data.sizing import IGNORE
from medsaga.data.tiles import cut, draw_centre, is_tiled
from medsaga.windows import view_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from medsaga.data.intensity import IntensityRule
    from medsaga.data.samples import Sample
    from medsaga.settings.fields import Switch
    from medsaga.settings.fine_tune import FineTuneSettings
    from medsaga.windows import Size, Window

# Of the range from black to white. Nuclei of two stains differ from their ground by
# 0.26 to 0.8 either way, lungs and hippocampi by -0.44 to 0.18.
_CLEAR = 0.25


def choose_negatives(
    negatives: Switch, samples: Iterable[Sample], rule: IntensityRule
) -> Switch:
    """Choose whether views are shown as negatives too: on or off.

    With ``auto`` they are where a class is clearly brighter than the background on one
    of the annotated slices and clearly darker on another, as nuclei are that were
    stained in two ways; never where intensities have a meaning of their own.
    """
    if negatives != "auto":
        return negatives
    if rule.kind == "window":
        return "off"
    brighter: set[int] = set()
    darker: set[int] = set()
    for sample in samples:
        for index, contrast in _contrasts(sample).items():
            if abs(contrast) > _CLEAR:
                (brighter if contrast > 0 else darker).add(index)
    return "on" if brighter & darker else "off"


def _contrasts(sample: Sample) -> dict[int, float]:
    """How much brighter each class is than the background, in the median."""
    grey, target = sample.image.mean(0), sample.target
    if not (target == 0).any():
        return {}
    ground = grey[target == 0].median()
    classes = torch.unique(target[target > 0]).tolist()
    return {c: float(grey[target == c].median() - ground) for c in classes}


class Augmenter:
    """Gives random views of a slice: turned, scaled, shifted, with other contrast.

    View number `index` is always the same, whatever was asked for before, so that a
    training that goes on from a checkpoint equals one that never stopped.

    What comes into view from outside the slice is black and ignored. Mirroring the
    slice there would teach wrong anatomy (a second, reversed liver), and black is what
    the model sees beside a padded slice when it segments.

    Parameters
    ----------
    settings
        How far the views may go; `negatives` as :func:`choose_negatives` has chosen.
    seed
        Of everything random.
    tile
        Longest side of a view; 0: views are as large as the slice.
    """

    def __init__(self, settings: FineTuneSettings, seed: int, tile: int = 0) -> None:
        self._settings = settings
        self._seed = seed
        self._tile = tile

    def view(self, sample: Sample, index: int) -> tuple[Tensor, Tensor]:
        """Give view number `index` of a sample; see :meth:`__call__`.

        Of a sample that is seen in tiles, it is cut out around a place that is drawn.
        """
        centre = None
        if is_tiled(sample, self._tile):
            random = np.random.default_rng((self._seed, index, 1))
            row, col = draw_centre(sample, self._tile, random)
            near = self._near(sample, (row, col))
            # All of a large image is not looked at for a small view of it.
            sample = cut(sample, near)
            centre = row - near[0].start, col - near[1].start
        return self(sample.image, sample.labels, index, sample.content, centre)

    def _near(self, sample: Sample, centre: tuple[float, float]) -> Window:
        """Give what a tile around `centre` can come from, however it is turned."""
        reach = self._tile / math.sqrt(2) / max(1 - self._settings.zoom, 0.1) + 2
        rows, cols = (
            slice(max(0, math.floor(at - reach)), min(side, math.ceil(at + reach)))
            for at, side in zip(centre, sample.padded, strict=True)
        )
        return rows, cols

    def __call__(
        self,
        image: Tensor,
        labels: Tensor,
        index: int,
        content: Size | None = None,
        centre: tuple[float, float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Give view number `index`.

        Parameters
        ----------
        image
            (3, H, W) float32 in [0, 1], on the CPU.
        labels
            (rows, columns) class indices of the part that is not padding, -1 where
            ignored, at any resolution.
        index
            0 or larger.
        content
            Height and width of the top left part that is not padding; None: all of it.
        centre
            Row and column of the image that come to lie in the middle of a tile; None:
            views are of the whole image.

        Returns
        -------
        tuple of Tensor
            The view, as large as `image` or a tile, and its (H, W) int64 target; both
            are new, but the planes of a grey image share their memory.
        """
        random = np.random.default_rng((self._seed, index))
        height, width = image.shape[1:]
        grid = self._draw_grid(random, (height, width), centre)
        is_grey = torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
        planes = image[:1] if is_grey else image
        weight = torch.zeros_like(planes[:1])
        content = content or (height, width)
        weight[:, : content[0], : content[1]] = 1
        planes, inside = self._move_image(planes, weight, grid)
        planes = self._change_intensities(planes, inside, random) * inside
        moved = self._draw_target(labels, _within(grid, (height, width), content))
        moved = moved.masked_fill(~inside[0], IGNORE)
        return planes.expand(3, -1, -1), moved

    def _draw_grid(
        self,
        random: np.random.Generator,
        image: Size,
        centre: tuple[float, float] | None,
    ) -> Tensor:
        """Draw where each pixel of the view comes from: one grid for both."""
        settings = self._settings
        size_of_view = image if centre is None else view_size(image, self._tile)
        angle = random.uniform(-1, 1) * settings.rotation
        size = 1 + random.uniform(-1, 1, 2) * settings.zoom
        shift = random.uniform(-1, 1, 2) * settings.shift * size_of_view
        mirror = random.choice((-1, 1), 2) if settings.flips else 1
        turn = np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        # The grid maps the view to the slice, so an object grows where it shrinks.
        matrix, offset = turn * (mirror / size), turn @ shift
        # In pixels from the centre, rows first; torch counts in half sides, columns
        # first.
        half, half_view = np.array(image) / 2, np.array(size_of_view) / 2
        if centre is not None:  # drawn already, so that nothing shifts it
            offset = np.array(centre) - half
        theta = np.column_stack([matrix * half_view / half[:, None], offset / half])
        theta = theta[::-1, [1, 0, 2]].astype(np.float32)
        return F.affine_grid(
            torch.from_numpy(theta)[None], [1, 1, *size_of_view], align_corners=False
        )

    def _move_image(
        self, planes: Tensor, weight: Tensor, grid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Move (c, H, W); also give (1, H, W), whether it is the slice's inside.

        `weight` is (1, H, W), 1 on the slice and 0 on its padding.
        """
        moved = _sample(torch.cat([planes, weight]), grid, "bilinear")
        planes, weight = moved[:-1], moved[-1:]
        # Divided by what of a pixel lies inside, the slice has no dark rim.
        return planes / weight.clamp(min=0.5), weight >= 0.5

    def _draw_target(self, labels: Tensor, grid: Tensor) -> Tensor:
        # Counted from 0, so that the zeros from outside become "ignored".
        counted = (labels - IGNORE).float()[None]
        moved = _sample(counted, grid, "nearest")
        return moved[0].round().long() + IGNORE

    def _change_intensities(
        self, planes: Tensor, inside: Tensor, random: np.random.Generator
    ) -> Tensor:
        settings = self._settings
        factor = 1 + random.uniform(-1, 1) * settings.contrast
        gamma = float(np.exp(random.uniform(-0.5, 0.5) * settings.contrast))
        deviation = random.uniform(0, 1) * settings.noise
        mean = (planes * inside).sum() / (inside.sum() * len(planes)).clamp(min=1)
        planes = (mean + (planes - mean) * factor).clamp(0, 1) ** gamma
        noise: NDArray[np.float32] = random.standard_normal(
            tuple(planes.shape), dtype=np.float32
        )
        planes = (planes + torch.from_numpy(noise) * deviation).clamp(0, 1)
        is_negative = settings.negatives == "on" and random.random() < 0.5
        return 1 - planes if is_negative else planes


def _within(grid: Tensor, padded: Size, content: Size) -> Tensor:
    """Count a grid over the padded image from corner to corner of its content."""
    height, width = (p / max(c, 1) for p, c in zip(padded, content, strict=True))
    return (grid + 1) * torch.tensor((width, height)) - 1


def _sample(planes: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Sample (c, H, W) at a grid; zeros come in from outside."""
    moved = F.grid_sample(
        planes[None], grid, mode=mode, padding_mode="zeros", align_corners=False
    )
    return moved[0]

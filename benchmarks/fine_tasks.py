"""Tasks with structures that are fine in large images: cells, and a tree of vessels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from images import Image, Task, read_grey, spread
from scipy import ndimage
from skimage.draw import disk

import medsaga
from medsaga import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_TILE, _ROWS = 256, 4  # pixels of a nuclei image, and how many make a mosaic's side
_MOST_MOSAICS, _IMAGES = 10, 40
_SIDE = 1024
_TRUNK, _THINNEST = 5.0, 0.8  # half widths in pixels
_TAPER, _STEP = 0.001, 1.5
_TWIGS = 0.009  # branches a pixel of length


def cells(data: Path, n: int) -> Task:
    """Nuclei on n mosaics of 1024 x 1024; others, of other images, are judged.

    The images of a mosaic are drawn at random from one half of those of 256 x 256 that
    train where 40 are annotated.
    """
    folder = data / "nuclei-microscopy"
    paths = sorted((folder / "images").iterdir())
    pairs = [
        (read_grey(path), medsaga.read_labels(folder / "masks" / path.name))
        for path in (paths[i] for i in spread(len(paths), _IMAGES))
    ]
    pairs = [pair for pair in pairs if pair[0].shape[1:] == (_TILE, _TILE)]
    if n > _MOST_MOSAICS:
        raise MedsagaError(f"cells has no more than {_MOST_MOSAICS} mosaics to train.")
    training = [_mosaic(pairs[::2], number, "training") for number in range(n)]
    test = [_mosaic(pairs[1::2], number, "test") for number in range(3)]
    return Task(training, [(*pair, [0]) for pair in test])


def vessels(data: Path, n: int) -> Task:
    """Draw trees of thin vessels on n images of 1024 x 1024; three others are judged.

    They are drawn here, so that `data` is not looked at.
    """
    drawn = [_draw_tree(seed) for seed in range(n + 3)]
    return Task(drawn[3:], [(*pair, [0]) for pair in drawn[:3]])


def _mosaic(pairs: Sequence[Image], seed: int, use: str) -> Image:
    random = np.random.default_rng(seed)
    chosen = random.choice(len(pairs), _ROWS**2).reshape(_ROWS, _ROWS)
    image, truth = (
        np.block([[pairs[k][which].array[0] for k in row] for row in chosen])
        for which in (0, 1)
    )
    name = f"{use} mosaic {seed}"
    return (
        medsaga.volume_from_array(image, name=name, rgb=False),
        medsaga.volume_from_array(truth, name=name, rgb=False),
    )


def _draw_tree(seed: int) -> Image:
    """Draw vessels that branch and taper, with gaps, on blotches, under noise."""
    random = np.random.default_rng([seed, 7])
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    shown = np.zeros((_SIDE, _SIDE), np.float32)
    for row, col, radius, contrast in _walk(random):
        # Drawn as fine as a pixel: the thinnest are hardly two of them wide.
        pixels = disk((row, col), max(radius, 0.8), shape=mask.shape)
        mask[pixels] = 1
        shown[pixels] = np.maximum(shown[pixels], contrast)
    ground = sum(
        amplitude * _smooth_noise(random, width)
        for width, amplitude in ((60, 0.10), (8, 0.05))
    )
    image = 0.45 + ground + 0.3 * ndimage.gaussian_filter(shown, 0.8)
    image += random.normal(0, 0.08, image.shape)
    pixels_8bit = (255 * image.clip(0, 1)).round().astype(np.uint8)
    name = f"tree {seed}"
    return (
        medsaga.volume_from_array(pixels_8bit, name=name, rgb=False),
        medsaga.volume_from_array(mask, name=name, rgb=False),
    )


def _smooth_noise(random: np.random.Generator, width: float) -> NDArray[np.float64]:
    """Draw noise whose blotches are `width` pixels wide, of deviation 1."""
    noise = ndimage.gaussian_filter(random.standard_normal((_SIDE, _SIDE)), width)
    return np.asarray(noise / noise.std())


def _walk(
    random: np.random.Generator,
) -> Iterator[tuple[float, float, float, float]]:
    """Give row, column, half width and contrast of points along all the vessels."""
    waiting = [
        (np.array([random.uniform(0, _SIDE), start]), turn, _TRUNK)
        for start, turn in 2 * ((0.0, 0.0), (_SIDE - 1.0, math.pi))
    ]
    while waiting:
        place, angle, radius = waiting.pop()
        bend, contrast = 0.0, 1.0
        while radius > _THINNEST and (place >= 0).all() and (place < _SIDE).all():
            yield place[0], place[1], radius, contrast
            bend = 0.95 * bend + random.normal(0, 0.004)
            angle += bend * _STEP
            place = place + _STEP * np.array([math.sin(angle), math.cos(angle)])
            radius *= 1 - _TAPER * _STEP
            # A gap comes on slowly, and is a vessel all the same.
            contrast = float(np.clip(contrast + random.normal(0, 0.06), 0.35, 1))
            if random.random() < _TWIGS * _STEP:
                side = random.choice((-1, 1))
                share = random.uniform(0.5, 0.8)
                turned = angle + side * random.uniform(0.4, 1.1)
                waiting.append((place, turned, radius * share))
                radius *= (1 - share**3) ** (1 / 3)

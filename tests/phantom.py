"""A small synthetic volume, and settings that train on it in a second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medsaga import FineTuneSettings, TrainingData, drain, fine_tune
from medsaga.frontend import SliceId

VALUES = (1, 5, 117)


def make_phantom(n_slices: int = 12, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Make three bright, dark and grey blobs that move along z, and their labels."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(
        np.arange(n_slices), np.arange(size), np.arange(size), indexing="ij"
    )
    image = rng.normal(100, 5, (n_slices, size, size))
    labels = np.zeros(image.shape, np.uint8)
    blobs = ((10, 10, 180), (28, 12, 20), (24, 29, 240))
    for value, (row, column, intensity) in zip(VALUES, blobs, strict=True):
        inside = (y - row) ** 2 + (x - column - z / 4) ** 2 < 36
        image[inside] += intensity - 100
        labels[inside] = value
    return image.astype(np.float32), labels


def keep_slices(labels: np.ndarray, kept: list[int]) -> np.ndarray:
    """Leave labels on a few slices only."""
    annotated = np.zeros_like(labels)
    annotated[kept] = labels[kept]
    return annotated


# Exact steps on the tiny random backbone. Hundreds of tests train with these.
TINY = replace(
    FineTuneSettings(),
    backbone="tiny",
    steps=6,
    head_views=6,
    head_steps=20,
    batch_size=2,
    long_side=64,
    rank=8,
    precision="fp32",
    warmup_steps=2,
    validations=1,
)


def train(images, labels, settings=None, *, start=None, preview=None, **data):
    """Train on images and labels; `data` is more of what is said of them.

    `preview` are what previews are asked for. Gives the model, and the events of its
    training.
    """
    events = []
    wanted = TrainingData(images, labels, **data)
    stream = fine_tune(wanted, settings, start=start, **preview or {})
    return drain(stream, events.append), events


def slice_of(image: str, index: int, axis: int = 0, *, is_2d: bool = False) -> SliceId:
    """Name a slice of an image that is known by its name."""
    return SliceId(image=image, axis=axis, index=index, image_name=image, is_2d=is_2d)

"""A volume of two tubes whose truth is known, some of its slices painted."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from medsaga.data.annotation import annotated_slices
from medsaga.data.volume import Volume
from medsaga.propagation.carrying import Carrier
from medsaga.propagation.paint import Paint

PAINTED = [2, 9, 16]
SIDE = 58


def make_tubes(n_slices: int = 19, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Two tubes that cross the slices at a slant, one of them widening, on texture."""
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:n_slices, :side, :side].astype(np.float32)
    texture = ndimage.gaussian_filter(
        rng.normal(size=(n_slices, side, side)), (3, 4, 4)
    )
    image = 100 + 15 * texture / texture.std()
    labels = np.zeros(image.shape, np.uint8)
    first = np.hypot(y - 20 - z, x - 24) < 9
    second = np.hypot(y - 44, x - 50 + 0.8 * z) < 5 + 0.3 * z
    image[first] += 80
    image[second] -= 60
    labels[first], labels[second] = 3, 7
    image += rng.normal(0, 3, image.shape)
    return image.astype(np.float32), labels


def carrier_of(image, painted, empty_slices=(), **options):
    volume = Volume(array=image)
    annotation = annotated_slices(
        [volume.with_array(painted)], 0, empty_slices=empty_slices
    )
    paint = Paint.of_labels(volume.with_array(painted), annotation, 0, (3, 7))
    limits = float(image.min()), float(image.max())
    return Carrier(volume, paint, limits, **options)


def logits_of(labels: np.ndarray, sure: float = 4.0) -> torch.Tensor:
    """Logits of a model that says `labels`."""
    return (
        torch.stack([torch.from_numpy(labels == v).float() for v in (0, 3, 7)]) * sure
    )

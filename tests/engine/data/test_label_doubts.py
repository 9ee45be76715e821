"""Labels that are hardly meant as classes are asked about before they train."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from tests.phantom import TINY, keep_slices, make_phantom
from tests.real_images import DATA

from medsaga import TrainingData, fine_tune, read_labels
from medsaga.data.annotation import annotated_slices
from medsaga.data.label_doubts import label_doubts
from medsaga.data.volume import volume_from_array
from medsaga.events import Notice


def doubts_of(*arrays: np.ndarray) -> list[str]:
    volumes = [volume_from_array(array, name=f"m{n}") for n, array in enumerate(arrays)]
    return label_doubts(volumes, annotated_slices(volumes, 0))


def objects(n: int, size: int = 128) -> np.ndarray:
    """Discs in a grid, a number each."""
    mask = np.zeros((size, size), np.uint16)
    y, x = np.mgrid[:size, :size]
    for number in range(n):
        row, column = 8 + 16 * (number // 8), 8 + 16 * (number % 8)
        mask[(y - row) ** 2 + (x - column) ** 2 < 25] = number + 1
    return mask


def smoothed(mask: np.ndarray) -> np.ndarray:
    return np.rint(ndimage.gaussian_filter(255.0 * (mask > 0), 0.7)).astype(np.uint8)


@pytest.mark.parametrize("factor", [1, 37])
def test_numbers_of_objects(factor):
    (doubt,) = doubts_of(objects(60) * factor)
    assert "60 values" in doubt
    assert "numbers of single objects" in doubt


def test_numbers_of_objects_in_a_stack():
    stack = np.stack([objects(60), np.roll(objects(60), 1, 0), np.zeros((128, 128))])
    (doubt,) = doubts_of(stack.astype(np.uint16))
    assert "numbers of single objects" in doubt


@pytest.mark.parametrize(("n", "n_slices"), [(14, 1), (40, 3)])
def test_few_objects_and_such_as_are_on_several_slices(n, n_slices):
    (doubt,) = doubts_of(np.stack([objects(n)] * n_slices))
    assert f"{n} values" in doubt


def test_a_smoothed_mask():
    (doubt,) = doubts_of(smoothed(objects(30)))
    assert "all but 255 along edges" in doubt


@pytest.mark.parametrize("sigma", [1, 3])
def test_a_mask_that_was_smoothed_widely(sigma):
    mask = np.rint(ndimage.gaussian_filter(255.0 * (objects(30) > 0), sigma))
    (doubt,) = doubts_of(mask.astype(np.uint8))
    assert "smoothed" in doubt


def test_an_image_in_place_of_labels():
    picture = np.random.default_rng(0).integers(0, 200, (64, 64), dtype=np.uint8)
    (doubt,) = doubts_of(picture)
    assert "or an image" in doubt


def test_one_and_255_in_one_data_set():
    mask = (objects(9) > 0).astype(np.uint8)
    assert doubts_of(mask, mask) == []
    (doubt,) = doubts_of(mask, mask * 255)
    assert "m0 marks with the value 1 and m1 with 255" in doubt
    (doubt,) = doubts_of(mask, mask.astype(np.uint16) * 65535)
    assert "m0 marks with the value 1 and m1 with 65535" in doubt


def test_organs_are_classes():
    _, labels = make_phantom()
    assert doubts_of(keep_slices(labels, [1, 4, 7, 10])) == []
    grid = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((40, 40), int))
    assert doubts_of(grid) == []


@pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not here")
def test_real_organs_and_nuclei_are_classes():
    organs = read_labels(DATA / "multi-organ-ct-3mm" / "example_seg.nii.gz")
    assert len(np.unique(organs.array)) > 16
    annotation = annotated_slices([organs], 0, [3, 9, 15, 21, 27])
    assert label_doubts([organs], annotation) == []


def test_it_is_asked_before_anything_trains():
    image = np.random.default_rng(0).normal(size=(128, 128))
    stream = fine_tune(TrainingData(image, objects(60)), TINY)
    said = []
    for event in stream:
        if not isinstance(event, Notice):
            break
        said.append(event.message)
    stream.close()
    assert any("numbers of single objects" in sentence for sentence in said)


def test_of_nothing_nothing_is_asked():
    nothing = volume_from_array(np.zeros((3, 9, 9), int))
    found = annotated_slices([nothing], 0, [], may_be_empty=True)
    assert label_doubts([nothing], found) == []

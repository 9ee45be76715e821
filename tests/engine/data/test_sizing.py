import numpy as np
import pytest
import torch
from torch.nn import functional as F

from medsaga.data.canvas import Canvas, choose_long_side
from medsaga.data.sizing import (
    collate,
    labels_for_views,
    pad_image,
    pad_target,
    resize_image,
    resize_target,
)
from medsaga.network.inference import SliceLogits
from medsaga.settings.fine_tune import FineTuneSettings

CANVAS = Canvas(long_side=128, multiple=32)


def discs(rows, cols):
    """Three overlapping ellipses as class indices."""
    y, x = np.mgrid[:rows, :cols]
    indices = np.zeros((rows, cols), np.int64)
    for i, (v, u, r) in enumerate(
        [(0.3, 0.3, 0.22), (0.6, 0.7, 0.25), (0.9, 0.1, 0.3)]
    ):
        indices[np.hypot(y / rows - v, x / cols - u) < r] = i + 1
    return indices


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(
    ("rows", "cols", "spacing", "expected"),
    [
        (512, 512, None, (128, 128)),
        (100, 200, None, (64, 128)),
        (200, 100, (1.0, 1.0), (128, 64)),
        (30, 50, None, (77, 128)),
        # 30 slices of 5 mm by 512 pixels of 0.8 mm: 150 mm by 409.6 mm
        (30, 512, (5.0, 0.8), (47, 128)),
        (512, 30, (0.8, 5.0), (128, 47)),
        (30, 512, (0.0, 0.8), (8, 128)),
        (30, 512, (float("nan"), 0.8), (8, 128)),
        (1, 5000, None, (1, 128)),
    ],
)
def test_content_keeps_the_physical_proportions(rows, cols, spacing, expected):
    assert CANVAS.content_shape(rows, cols, spacing) == expected


def test_extreme_spacing_does_not_squeeze_the_fine_axis():
    height, width = CANVAS.content_shape(40, 300, (50.0, 0.2))
    assert height == 128
    assert 300 / width < 3


def test_padded_shape_is_the_content_rounded_up():
    assert CANVAS.padded_shape(100, 200, None) == (64, 128)
    assert CANVAS.padded_shape(30, 512, (5.0, 0.8)) == (64, 128)
    assert Canvas(long_side=100, multiple=16).padded_shape(50, 50, None) == (112, 112)


@pytest.mark.parametrize(
    ("shapes", "settings", "multiple", "expected"),
    [
        ([((512, 400), None)], {}, 32, 128),
        ([((512, 400), None)], {"max_long_side": 1024}, 32, 512),
        ([((500, 400), None)], {"max_long_side": 1024}, 16, 512),
        ([((35, 50), None)], {"max_long_side": 256}, 32, 64),
        ([((35, 70), None)], {"max_long_side": 256}, 32, 96),
        ([((20, 30), None)], {"max_long_side": 256}, 32, 64),
        ([((35, 50), None)], {"max_long_side": 32}, 32, 32),
        ([((35, 150), None)], {"max_long_side": 100}, 32, 96),
        ([((35, 50), None), ((200, 90), None)], {"max_long_side": 256}, 32, 224),
        # 26 slices of 5 mm by 160 pixels of 0.5 mm are 260 by 160 fine pixels
        ([((26, 160), (5.0, 0.5))], {"max_long_side": 512}, 32, 224),
        ([((40, 160), (4.0, 0.5))], {"max_long_side": 512}, 32, 320),
        ([((512, 400), None)], {"long_side": 200}, 32, 224),
        ([((512, 400), None)], {"long_side": 64, "max_long_side": 32}, 32, 64),
        ([((20, 20), None)], {"max_long_side": 32}, 64, 64),
    ],
)
def test_long_side(shapes, settings, multiple, expected):
    chosen = choose_long_side(shapes, FineTuneSettings(**settings), multiple)
    assert chosen == expected
    assert chosen % multiple == 0


def test_grey_is_repeated_and_colour_kept():
    ramp = np.linspace(0, 1, 60, dtype=np.float32)
    grey = resize_image(np.tile(ramp, (40, 1)), (20, 30))
    assert grey.shape == (3, 20, 30)
    assert torch.equal(grey[0], grey[2])
    colour = np.stack([np.full((40, 60), v, np.float32) for v in (0.1, 0.5, 0.9)], -1)
    scaled = resize_image(colour, (20, 30))
    np.testing.assert_allclose(scaled.mean((1, 2)), [0.1, 0.5, 0.9], atol=1e-6)


def test_shrinking_averages_instead_of_picking():
    stripes = np.tile(np.array([1, 0, 0, 0], np.float32), (64, 16))
    scaled = resize_image(stripes, (16, 16))[0, 2:-2, 2:-2]
    np.testing.assert_allclose(scaled, 0.25, atol=0.02)


def test_mirrored_and_read_only_arrays_are_taken():
    array = np.random.default_rng(0).random((9, 7), dtype=np.float32)
    array.setflags(write=False)
    same = resize_image(array[::-1, ::-1], (9, 7))[1]
    np.testing.assert_allclose(same, array[::-1, ::-1], atol=1e-6)
    indices = (array > 0.5).astype(">i4")[::-1]
    np.testing.assert_array_equal(resize_target(indices, (9, 7)), indices)


def test_target_keeps_only_its_classes_and_ignored_pixels():
    indices = discs(100, 90)
    indices[:5] = -1
    scaled = resize_target(indices, (57, 128))
    assert scaled.dtype == torch.int64
    assert set(scaled.unique().tolist()) == {-1, 0, 1, 2, 3}


def test_target_is_picked_at_the_middle_of_each_pixel():
    columns = np.tile(np.arange(20), (10, 1))
    assert resize_target(columns, (2, 4))[0].tolist() == [2, 7, 12, 17]


@pytest.mark.parametrize("size", [(64, 64), (60, 100), (100, 140)])
def test_boundaries_of_a_target_lie_where_those_of_the_image_do(size):
    y, x = np.mgrid[:128, :120]
    disc = (np.hypot(y - 70, x - 50) < 40).astype(np.float32)
    seen = resize_image(disc, size)[0] > 0.5
    target = resize_target(disc.astype(np.int64), size) == 1
    assert (seen != target).sum() <= 2  # only where both have about a half
    finest = labels_for_views(disc.astype(np.int64), (40, 16))
    assert finest.shape == (128, 64)  # its own, four times the working size
    assert labels_for_views(disc.astype(np.int64), (150, 150)).shape == (150, 150)


def test_padding_is_black_and_ignored():
    image, target = torch.ones(3, 5, 7), torch.ones(5, 7, dtype=torch.int64)
    image, target = pad_image(image, (8, 8)), pad_target(target, (8, 8))
    assert image.shape == (3, 8, 8)
    assert image.sum() == 3 * 35
    assert (image[:, :5, :7] == 1).all()
    assert (target[:5, :7] == 1).all()
    assert (target == -1).sum() == 64 - 35


def test_collate_pads_to_the_largest():
    pairs = [
        (torch.ones(3, 32, 64), torch.zeros(32, 64, dtype=torch.int64)),
        (torch.ones(3, 64, 32), torch.ones(64, 32, dtype=torch.int64)),
    ]
    images, targets = collate(pairs)
    assert images.shape == (2, 3, 64, 64)
    assert targets.shape == (2, 64, 64)
    assert ((targets == -1) == (images[:, 0] == 0)).all()
    assert images.sum() == 2 * 3 * 32 * 64
    images[0, 0] = 5  # the batch is its own, not one plane seen three times
    assert images[0, 1].max() == 1


@pytest.mark.parametrize(
    ("rows", "cols", "spacing"),
    [
        (101, 122, None),
        (512, 512, None),
        (35, 51, None),
        (60, 512, (4.0, 0.8)),
        (300, 200, None),
    ],
)
@pytest.mark.parametrize("fraction", [1, 4])
def test_target_comes_back_at_its_own_resolution(rows, cols, spacing, fraction):
    truth = discs(rows, cols)
    canvas = Canvas(long_side=256, multiple=32)
    content = canvas.content_shape(rows, cols, spacing)
    padded = canvas.padded_shape(rows, cols, spacing)
    target = pad_target(resize_target(truth, content), padded).clamp(min=0)
    logits = F.one_hot(target, 4).permute(2, 0, 1).float()
    logits = F.avg_pool2d(logits[None], fraction)[0]
    restored = SliceLogits(
        planes=logits, padded=padded, content=content, size=(rows, cols)
    ).restore()
    assert restored.shape == (4, rows, cols)
    mask = restored.argmax(0).numpy()
    for i in range(1, 4):
        assert dice(mask == i, truth == i) > (0.98 if fraction == 1 else 0.95)


def test_restoring_a_fraction_of_the_size_shifts_nothing():
    # 100 of 128 pixels are content: at a quarter of the size that is 25 of 32. And 90
    # are 22.5, a cut within a pixel.
    for height in (100, 90):
        y = (torch.arange(32) + 0.5) * 4  # in working pixels
        logits = y[None, :, None].expand(1, 32, 32)
        restored = SliceLogits(
            planes=logits, padded=(128, 128), content=(height, 128), size=(height, 64)
        ).restore()
        expected = torch.arange(height) + 0.5
        inner = slice(4, height - 4)
        torch.testing.assert_close(
            restored[0, inner, 20], expected[inner], atol=1e-3, rtol=0
        )


def test_half_precision_logits_come_back_as_float32():
    logits = torch.rand(2, 32, 32).bfloat16()
    restored = SliceLogits(
        planes=logits, padded=(128, 128), content=(128, 96), size=(50, 40)
    ).restore()
    assert restored.dtype == torch.float32


def test_a_coarser_embedding_takes_larger_images():
    shapes = [((100, 90), None)]
    settings = FineTuneSettings(max_long_side=128)
    assert choose_long_side(shapes, settings, 4, 4) == 128
    assert choose_long_side(shapes, settings, 16, 16) == 512
    assert choose_long_side([((35, 50), None)], settings, 16, 16) == 256
    assert choose_long_side([((300, 90), None)], settings, 16, 16) == 512
    assert choose_long_side(shapes, FineTuneSettings(long_side=96), 16, 16) == 96

"""Large images with fine structures, which are seen in tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.engine.data.test_augment import STILL
from torch import nn

from medsaga import FineTuneSettings, Volume
from medsaga.data.annotation import annotated_slices
from medsaga.data.augment import Augmenter
from medsaga.data.canvas import Canvas, choose_canvas
from medsaga.data.classes import class_table
from medsaga.data.intensity import IntensityRule
from medsaga.data.samples import build_samples
from medsaga.data.tiles import parts_to_judge
from medsaga.network.inference import predict_image
from medsaga.windows import windows

SIDES = (200, 330)


def sample_of(mask, *, background=None, long_side=330):
    """The mask is the image too, so that both can be told to move together."""
    image, labels = Volume(array=mask * np.float32(100)), Volume(array=mask)
    annotation = annotated_slices([labels], 0, [0], background_value=background)
    table = class_table([labels], annotation)
    rule = IntensityRule(kind="window", low=0.0, high=200.0)
    canvas = Canvas(long_side=long_side, multiple=32)
    return build_samples([image], [labels], annotation, table, rule, canvas)[0]


@pytest.fixture
def sample():
    mask = np.zeros((1, *SIDES), np.uint8)
    mask[0, 20:24, 30:300] = 1
    mask[0, 150:158, 310:318] = 2
    return sample_of(mask)


@pytest.mark.parametrize("content", [(200, 330), (64, 330), (20, 20), (96, 97)])
def test_windows_cover_the_content_and_overlap(content):
    padded = tuple(-(-side // 32) * 32 for side in content)
    seen = np.zeros(padded, int)
    for rows, cols in windows(content, padded, 96):
        assert rows.stop <= padded[0]
        assert cols.stop <= padded[1]
        assert (rows.stop - rows.start, cols.stop - cols.start) == (
            min(96, padded[0]),
            min(96, padded[1]),
        )
        seen[rows, cols] += 1
    assert seen[: content[0], : content[1]].min() > 0
    if content == (200, 330):
        assert (seen[:200, 90:100] > 1).any()


class _Pixelwise(nn.Module):
    """Logits that depend on their own pixel alone."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([[1.0], [-2.0]]))
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape[-2:]))
        return images[:, :1] * self.scale[:, :, None]


def test_tiles_fade_into_what_the_whole_would_give(sample):
    network, size = _Pixelwise(), (sample.seen, "fp32")
    whole = predict_image(network, *size)
    tiled = predict_image(network, *size, 96)
    torch.testing.assert_close(tiled, whole)
    assert set(network.seen[1:]) == {(96, 96)}
    assert len(network.seen) == 1 + len(windows(sample.content, sample.padded, 96))
    assert predict_image(network, *size, 352).equal(whole)  # it is no larger than that


def test_a_view_is_a_part_of_the_image_at_its_own_size(sample):
    augment = Augmenter(FineTuneSettings(**STILL, flips=False), 0, 96)
    for index in range(8):
        image, target = augment.view(sample, index)
        assert image.shape == (3, 96, 96)
        assert target.shape == (96, 96)
        assert (target >= 0).float().mean() > 0.95  # little lies outside
        # Places between pixels blur by at most one.
        torch.testing.assert_close(
            image[0].sum() / 0.5, target.clamp(0).sum().float(), atol=40, rtol=0.1
        )


def test_views_show_rare_classes_as_often_as_others(sample):
    augment = Augmenter(FineTuneSettings(), 0, 96)
    shown = [set(augment.view(sample, i)[1].unique().tolist()) for i in range(60)]
    for index in (1, 2):
        assert sum(index in classes for classes in shown) > 15
    again = Augmenter(FineTuneSettings(), 0, 96).view(sample, 7)
    for one, other in zip(again, augment.view(sample, 7), strict=True):
        assert torch.equal(one, other)


def test_views_of_strokes_show_some_of_them():
    mask = np.zeros((1, *SIDES), np.uint8)
    mask[0, 180, 300:320] = 1
    mask[0, 10, 10:30] = 9  # background
    sample = sample_of(mask, background=9)
    augment = Augmenter(FineTuneSettings(), 0, 96)
    known = [bool((augment.view(sample, i)[1] >= 0).any()) for i in range(30)]
    assert sum(known) > 25


def test_what_is_judged_shows_each_class_and_stays_aligned(sample):
    parts = parts_to_judge(sample, 96, 3)
    assert sorted(c for part in parts for c in part.classes) == [1, 2]
    for part in parts:
        seen = part.sample
        assert set(part.classes) <= set(seen.target.unique().tolist())
        assert seen.image.shape == (3, 96, 96)
        height, width = seen.content
        np.testing.assert_array_equal(seen.target[:height, :width], seen.truth)
        np.testing.assert_array_equal(seen.truth, sample.truth[part.place])
        assert torch.equal(seen.labels, seen.target[:height, :width].short())
    (whole,) = parts_to_judge(sample, 0, 3)
    assert whole.sample is sample
    assert whole.classes == (1, 2)


def test_windows_are_drawn_and_rare_classes_shown_all_the_same(sample):
    parts = parts_to_judge(sample, 96, 3, n_drawn=4)
    assert 4 <= len(parts) <= 6
    shown = {c for part in parts for c in part.sample.target.unique().tolist()}
    assert {1, 2} <= shown
    places = [(part.place[0].start, part.place[1].start) for part in parts]
    assert len(set(places)) == len(places)
    every = parts_to_judge(sample, 96, 3, n_drawn=1000)
    assert len(every) == len(windows(sample.content, sample.padded, 96))


def test_a_slice_without_any_class_is_judged_for_what_it_does_not_show():
    mask = np.zeros((1, *SIDES), np.uint8)
    mask[0, 0, 0] = 1
    sample = replace(sample_of(mask), target=torch.zeros(224, 352, dtype=torch.int64))
    (part,) = parts_to_judge(sample, 96, 3)
    assert part.classes == (1, 2)


def test_parts_of_slices_at_another_size_stay_aligned(sample):
    mask = np.kron(sample.truth, np.ones((2, 2), np.uint8))[None]
    for part in parts_to_judge(sample_of(mask), 96, 3):
        height, width = part.sample.content
        assert part.sample.truth.shape == (2 * height, 2 * width)
        smaller = part.sample.truth[::2, ::2]
        assert (smaller == part.sample.target[:height, :width].numpy()).mean() > 0.99


@pytest.mark.parametrize(
    ("side", "finest", "settings", "expected"),
    [
        (1000, 0.02, {}, (600, 128, 0.6)),  # 12 pixels wide
        (1000, 0.013, {}, (1000, 128, 1)),  # nearly its own: its own
        (1000, 0.005, {}, (1000, 128, 1)),
        (6000, 0.005, {"max_long_side": 250}, (2400, 256, 0.4)),
        (1000, 0.05, {}, (160, 0, 0)),  # wide enough as it is
        (1000, 0.02, {"tiles": False}, (256, 0, 0)),
        (1000, 0.02, {"long_side": 512}, (512, 0, 0)),
        (300, 0.02, {}, (256, 0, 0)),  # hardly finer than the usual size
        (1000, None, {}, (128, 0, 0)),
    ],
)
def test_images_are_cut_where_what_is_painted_is_too_fine(
    side, finest, settings, expected
):
    canvas = choose_canvas(
        [((side, side), None)], FineTuneSettings(**settings), 32, 4, finest
    )
    assert (canvas.long_side, canvas.tile, canvas.scale) == expected


def test_tiles_show_images_of_every_size_as_large_as_those_that_trained():
    sizes = [((1000, 800), None), ((500, 500), None)]
    canvas = choose_canvas(sizes, FineTuneSettings(), 32, 4, 0.02)
    assert canvas.content_shape(1000, 800, None) == (600, 480)
    assert canvas.content_shape(500, 500, None) == (300, 300)
    assert canvas.padded_shape(500, 400, (2.0, 1.0)) == (608, 256)


def test_sams_own_backbones_see_whole_images():
    canvas = choose_canvas(
        [((1000, 1000), None)], FineTuneSettings(), 16, 16, 0.01, neighbours=True
    )
    assert canvas == replace(canvas, tile=0, neighbours=True)

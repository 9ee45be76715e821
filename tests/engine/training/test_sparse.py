"""Sparse annotation (unpainted is unknown), and slices that show nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.phantom import VALUES, keep_slices

from medsaga import ModelLibrary, TrainingData, drain, fine_tune, segment
from medsaga.data.annotation import annotated_slices
from medsaga.data.canvas import Canvas
from medsaga.data.classes import class_table
from medsaga.data.intensity import WINDOWS, IntensityRule, choose_intensity
from medsaga.data.samples import build_samples
from medsaga.data.sizing import resize_target, scale_targets
from medsaga.data.survey import count_background, count_classes, label_check
from medsaga.data.volume import volume_from_array
from medsaga.errors import MedsagaError
from medsaga.metrics import score
from medsaga.models.kept_slices import load_slices
from medsaga.training.card import fingerprint
from medsaga.training.optim.losses import SegmentationLoss

BACKGROUND = 200


def scribbled(labels: np.ndarray, kept: list[int]) -> np.ndarray:
    """Paint every fourth row of some slices, background with a value of its own."""
    painted = np.where(labels == 0, BACKGROUND, labels)
    painted[:, np.arange(labels.shape[1]) % 4 != 0] = 0
    return keep_slices(painted, kept)


@pytest.fixture
def strokes(phantom, labels):
    return labels.with_array(scribbled(phantom[1], [1, 4, 7, 10]))


@pytest.fixture
def sparse(quick):
    return replace(quick, sparse=True, background_value=BACKGROUND)


def _samples(image, labels, annotation):
    table = class_table([labels], annotation)
    rule = IntensityRule(kind="window", low=0, high=300)
    canvas = Canvas(long_side=32, multiple=16)
    return build_samples([image], [labels], annotation, table, rule, canvas)


class TestWhatIsPainted:
    def test_the_background_value_is_no_class_and_background_comes_first(self, strokes):
        found = annotated_slices([strokes], background_value=BACKGROUND)
        assert found.slices == ((0, 1), (0, 4), (0, 7), (0, 10))
        assert "200 is background" in found.sentence
        table = class_table([strokes], found)
        assert (table.values, table.names[0]) == ((0, *VALUES), "background")

    def test_only_what_is_painted_is_counted(self, strokes):
        found = annotated_slices([strokes], background_value=BACKGROUND)
        table = class_table([strokes], found)
        counts = count_classes([strokes], found, table)
        assert [c.n_pixels for c in counts] == [
            (strokes.array == value).sum() for value in VALUES
        ]
        background = count_background([strokes], found, table)
        assert (background.value, background.name) == (BACKGROUND, "background")
        assert background.n_pixels == (strokes.array == BACKGROUND).sum()
        assert background.n_slices == 4

    def test_too_little_background_is_told(self, phantom, labels):
        array = keep_slices(phantom[1], [1])
        array[1, 0, :3] = BACKGROUND
        volume = labels.with_array(array)
        found = annotated_slices([volume], background_value=BACKGROUND)
        (warning,) = label_check([volume], found, class_table([volume], found))
        assert warning.startswith("Background has 3 pixels on 1 slice: paint more")

    def test_no_background_and_nothing_else_are_refused(self, labels, strokes):
        for array, reason in (
            (labels.array, "Nothing is painted as background"),
            (np.where(strokes.array == BACKGROUND, BACKGROUND, 0), "Only background"),
        ):
            volume = labels.with_array(array)
            found = annotated_slices([volume], background_value=BACKGROUND)
            with pytest.raises(MedsagaError, match=reason):
                class_table([volume], found)
        with pytest.raises(MedsagaError, match="choose another value"):
            class_table([strokes], found, besides=(0, BACKGROUND))

    def test_an_empty_slice_is_background_enough(self, labels):
        found = annotated_slices(
            [labels], empty_slices=[0], background_value=BACKGROUND
        )
        assert class_table([labels], found).values == (0, *VALUES)

    def test_unpainted_pixels_are_ignored_in_the_samples(self, image, strokes, phantom):
        found = annotated_slices([strokes], background_value=BACKGROUND)
        for s in _samples(image, strokes, found):
            full = phantom[1][s.id.index]
            np.testing.assert_array_equal(s.known, strokes.array[s.id.index] != 0)
            np.testing.assert_array_equal(s.truth, np.where(s.known, full, 0))
            assert 0.2 < (s.target == -1).float().mean() < 0.8
            assert s.target.unique().tolist() == [-1, 0, 1, 2, 3]

    def test_a_slice_that_is_filled_is_as_a_dense_one(self, image, labels):
        filled = np.where(labels.array == 0, BACKGROUND, labels.array)
        filled = labels.with_array(keep_slices(filled, [1, 4, 7, 10]))
        found = annotated_slices([filled], background_value=BACKGROUND)
        dense = _samples(image, labels, annotated_slices([labels]))
        for a, b in zip(_samples(image, filled, found), dense, strict=True):
            assert a.known is None
            assert torch.equal(a.target, b.target)
            np.testing.assert_array_equal(a.truth, b.truth)

    def test_the_fingerprint_tells_unknown_from_background(self, image, strokes):
        classes = np.where(strokes.array == BACKGROUND, 0, strokes.array)
        dense = strokes.with_array(classes)
        prints = {
            fingerprint(_samples(image, labels, annotated_slices([labels], **more)))
            for labels, more in (
                (strokes, {"background_value": BACKGROUND}),
                (dense, {}),
            )
        }
        assert len(prints) == 2

    def test_background_in_the_air_does_not_widen_the_window(self):
        ct = np.full((2, 40, 40), -1000.0)
        ct[:, 10:30, 10:30] = np.random.default_rng(0).normal(40, 10, (2, 20, 20))
        labels = np.zeros(ct.shape, np.uint8)
        labels[:, 15:25, 15:25], labels[:, :5] = 1, BACKGROUND
        pair = [volume_from_array(ct)], [volume_from_array(labels)]
        rule, _ = choose_intensity("auto", *pair, background_value=BACKGROUND)
        assert (rule.low, rule.high) == WINDOWS["soft tissue"]
        assert choose_intensity("auto", *pair)[0].low < -900


class TestEmptySlices:
    def test_they_train_beside_the_labelled_ones(self, labels):
        found = annotated_slices([labels], empty_slices=[0, 5])
        assert [s for _, s in found.slices] == [0, 1, 4, 5, 7, 10]
        assert "2 of them with nothing on it" in found.sentence

    def test_a_pair_is_of_one_image_and_an_index_of_all_that_are_annotated(
        self, labels
    ):
        bare = labels.with_array(np.zeros_like(labels.array))
        volumes = [labels, bare, labels]
        found = annotated_slices(volumes, 0, [1], empty_slices=[3, (1, 6)])
        assert found.slices == ((0, 1), (0, 3), (1, 6), (2, 1), (2, 3))

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            ([4], "said to be empty but carries labels"),
            ([12], "from 0 to 11"),
            ([(0, -1)], "no slice -1"),
            ([(1, 3)], "of image 1"),
        ],
    )
    def test_what_cannot_be_empty_is_refused(self, labels, wrong, reason):
        with pytest.raises(MedsagaError, match=reason):
            annotated_slices([labels], 0, empty_slices=wrong)

    @pytest.mark.parametrize("value", [None, BACKGROUND])
    def test_all_of_one_is_background(self, image, strokes, value):
        found = annotated_slices([strokes], empty_slices=[3], background_value=value)
        sample = _samples(image, strokes, found)[1]
        assert (sample.id.index, sample.known) == (3, None)
        assert set(sample.target.unique().tolist()) <= {-1, 0}
        height, width = sample.content
        assert (sample.target[:height, :width] == 0).all()

    def test_they_alone_are_not_enough(self, labels):
        bare = labels.with_array(np.zeros_like(labels.array))
        with pytest.raises(MedsagaError, match="paint"):
            annotated_slices([bare], empty_slices=[3])


class TestThinStrokes:
    @pytest.mark.parametrize("size", [(32, 32), (50, 33), (97, 200), (40, 160)])
    def test_one_pixel_is_enough(self, size):
        random = np.random.default_rng(0)
        for _ in range(20):
            indices = np.full((100, 120), -1)
            row, column = random.integers(100), random.integers(120)
            indices[row, column] = 2
            scaled = resize_target(indices, size, keep_strokes=True)
            assert set(scaled.unique().tolist()) == {-1, 2}
            place = (scaled == 2).nonzero().float().mean(0) + 0.5
            expected = torch.tensor([row + 0.5, column + 0.5]) * torch.tensor(size)
            off = (place - expected / torch.tensor([100, 120])).abs()
            assert (off <= torch.tensor(size) / torch.tensor([100, 120]) + 0.5).all()

    def test_they_get_no_thicker(self):
        indices = np.full((99, 99), -1)
        indices[50] = 1
        scaled = resize_target(indices, (70, 70), keep_strokes=True)
        assert ((scaled == 1).sum(0) == 1).all()

    def test_where_all_is_known_and_where_it_is_enlarged_nothing_is_special(self):
        random = np.random.default_rng(0)
        known = random.integers(0, 4, (60, 80))
        partly = np.where(random.random((60, 80)) < 0.5, known, -1)
        for indices, size in (
            (known, (33, 20)),
            (partly, (60, 80)),
            (partly, (90, 99)),
        ):
            kept = resize_target(indices, size, keep_strokes=True)
            nearest = scale_targets(torch.from_numpy(indices)[None], size)[0]
            assert torch.equal(kept, nearest)

    def test_they_count_in_a_loss_at_the_decoders_resolution(self):
        target = torch.full((1, 32, 32), -1)
        target[0, 5] = 1
        logits = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)], 1)
        assert SegmentationLoss(0.0)(logits, target) == 0
        loss = SegmentationLoss(0.0, keep_strokes=True)(logits, target)
        assert loss == pytest.approx(np.log1p(np.exp(-1)))


def test_only_known_pixels_are_scored_and_without_hd95():
    truth = np.zeros((8, 8), np.uint8)
    truth[2:6, 2:6] = 1
    mask = truth.copy()
    mask[:, 6:] = 1
    known = np.ones((8, 8), bool)
    known[:, 6:] = False
    scores = score(mask, truth, [1], known=known)
    assert scores.dice == {1: 1.0}
    assert (scores.hd95, scores.missing) == ({}, {1: "not all known"})
    assert score(mask, truth, [1]).dice[1] < 0.7


@pytest.fixture(scope="module")
def trained(phantom):
    """A model of strokes on four slices, and one that is empty."""
    from tests.phantom import TINY

    settings = replace(
        TINY, sparse=True, background_value=BACKGROUND, head_steps=200, head_views=12
    )
    image, strokes = phantom[0].copy(), scribbled(phantom[1], [1, 4, 7, 10])
    image[5] = image[5][:5].mean()  # nothing is there
    return image, drain(
        fine_tune(TrainingData(image, strokes, empty_slices=[5]), settings)
    )


class TestTraining:
    def test_background_is_0_in_the_masks(self, trained, phantom):
        image, model = trained
        mask = drain(segment(model, image)).mask.array
        assert set(np.unique(mask)) == {0, *VALUES}
        rest = [0, 2, 3, 6, 8, 9, 11]
        assert score(mask[rest], phantom[1][rest], VALUES).mean_dice > 0.7
        assert (mask[5] == 0).mean() > 0.95

    def test_the_card_says_how_and_scores_without_hd95(self, trained):
        card = trained[1].card
        assert card.classes.values == (0, *VALUES)
        assert [one.index for one in card.training_slices] == [1, 4, 5, 7, 10]
        assert card.settings["sparse"]
        assert card.settings["background_value"] == BACKGROUND
        assert set(card.metrics["dice"]) == set(map(str, VALUES))
        assert card.metrics["hd95"] == {}

    def test_what_was_unknown_stays_so_in_the_library(self, trained, tmp_path):
        model = trained[1]
        folder = ModelLibrary(tmp_path).add(model, "first")
        table = model.card.classes
        names = [sample.id for sample in model.samples]
        again = load_slices(folder, names, table)
        for before, after in zip(model.samples, again, strict=True):
            assert torch.equal(before.target, after.target)
            assert torch.equal(before.labels, after.labels)
            np.testing.assert_array_equal(before.truth, after.truth)
            if before.known is None:
                assert after.known is None
            else:
                np.testing.assert_array_equal(before.known, after.known)

    def test_it_trains_on_with_a_slice_that_is_painted_in_full(
        self, trained, phantom, quick, tmp_path
    ):
        image, model = trained
        folder = ModelLibrary(tmp_path).add(model, "first")
        earlier = [sample.id for sample in model.samples]
        corrected = keep_slices(phantom[1], [2])
        again = drain(
            fine_tune(
                TrainingData(image, corrected, earlier=earlier), quick, start=folder
            )
        )
        assert again.card.classes == model.card.classes
        slices = {s.id.index: s for s in again.samples}
        assert slices[2].known is None
        assert (slices[4].target == -1).float().mean() > 0.5

    def test_no_painted_background_is_refused_at_once(self, image, labels, sparse):
        with pytest.raises(MedsagaError, match="paint some of it with label 200"):
            next(fine_tune(TrainingData(image, labels), sparse))

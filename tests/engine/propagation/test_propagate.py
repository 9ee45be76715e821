"""Paint carried through volumes whose truth is known."""

from __future__ import annotations

import math
from itertools import pairwise

import dask.array
import numpy as np
import pytest
from scipy import ndimage
from tests.phantom import keep_slices
from tests.tubes import PAINTED, SIDE, carrier_of

from medsaga import MedsagaError, Stop, Volume, drain, propagate, score
from medsaga.events import CarriedSlice, Notice


def dice_of(mask: np.ndarray, truth: np.ndarray) -> float:
    """Mean Dice of both tubes on the slices that are not painted."""
    rest = [i for i in range(len(truth)) if i not in PAINTED]
    return score(mask[rest], truth[rest], (3, 7)).mean_dice


def carry(image, labels, **options):
    events = []
    return drain(propagate(image, labels, **options), events.append), events


def test_paint_follows_what_moves(tubes):
    image, truth = tubes
    found, _ = carry(image, keep_slices(truth, PAINTED))
    still, _ = carry(image, keep_slices(truth, PAINTED), follows_flow=False)
    assert dice_of(found.mask.array, truth) > 0.95
    assert dice_of(still.mask.array, truth) < dice_of(found.mask.array, truth) - 0.05


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_and_spacing(tubes, axis):
    image, truth = (np.moveaxis(array, 0, axis) for array in tubes)
    painted = np.moveaxis(keep_slices(tubes[1], PAINTED), 0, axis)
    spacing = [0.7, 0.7, 0.7]
    spacing[axis] = 4.0
    affine = np.diag([*spacing[::-1], 1.0])
    volume = Volume(array=image, spacing=tuple(spacing), affine=affine)
    found, events = carry(volume, volume.with_array(painted))
    assert found.axis == axis
    assert found.mask.affine is affine
    assert found.mask.array.dtype == np.uint8
    mask = np.moveaxis(found.mask.array, axis, 0)
    assert dice_of(mask, np.moveaxis(truth, axis, 0)) > 0.95
    gaps = [e.gap for e in events if isinstance(e, CarriedSlice)]
    assert gaps[:4] == [8.0, 4.0, 0.0, 4.0]


def test_flat_pixels_are_carried_too(tubes):
    image, truth = (array[:, :, ::3] for array in tubes)
    volume = Volume(array=image, spacing=(2.0, 1.0, 3.0))
    found, _ = carry(volume, volume.with_array(keep_slices(truth, PAINTED)))
    assert dice_of(found.mask.array, truth) > 0.93


def test_painted_slices_stay_as_they_are(tubes):
    image, truth = tubes
    found, _ = carry(image, keep_slices(truth, PAINTED))
    np.testing.assert_array_equal(found.mask.array[PAINTED], truth[PAINTED])


def test_every_slice_is_streamed_with_gap_and_agreement(tubes):
    image, truth = tubes
    found, events = carry(image, keep_slices(truth, PAINTED))
    slices = [e for e in events if isinstance(e, CarriedSlice)]
    assert [e.index for e in slices] == list(range(19))
    np.testing.assert_array_equal(np.stack([e.mask for e in slices]), found.mask.array)
    between = [e for e in slices if 2 < e.index < 16 and e.index != 9]
    assert all(0.5 < e.agreement <= 1 for e in between)
    assert math.isnan(slices[0].agreement)
    assert found.is_complete


def test_a_class_fades_out_before_the_slice_without_it(tubes):
    image, truth = tubes
    painted = keep_slices(truth, PAINTED)
    painted[9][painted[9] == 7] = 0
    found, _ = carry(image, painted)
    sizes = [int((s == 7).sum()) for s in found.mask.array[2:10]]
    assert sizes[1] > 0.5 * sizes[0]
    assert all(after <= before for before, after in pairwise(sizes))
    assert sizes[-2] == 0


def test_a_slice_said_to_be_empty_ends_the_classes(tubes):
    image, truth = tubes
    found, _ = carry(image, keep_slices(truth, [2, 9]), empty_slices=[16])
    assert not found.mask.array[15:].any()
    assert found.mask.array[10].any()


def test_one_painted_slice_reaches_both_ends(tubes):
    image, truth = tubes
    found, _ = carry(image, keep_slices(truth, [9]), axis=0)
    assert all(s.any() for s in found.mask.array)
    assert dice_of(found.mask.array, truth) > 0.85


@pytest.mark.parametrize("painted", [2, 57])
def test_slices_far_beyond_the_paint_stay_empty_and_it_is_said(painted):
    image = np.random.default_rng(0).normal(size=(60, 24, 24)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[painted, 6:18, 6:18] = 3
    volume = Volume(array=image, spacing=(10.0, 1.0, 1.0))
    found, events = carry(volume, volume.with_array(labels), axis=0)
    distances = np.abs(np.arange(60) - painted)
    filled = found.mask.array.any(axis=(1, 2))
    assert not filled[distances > 40].any()
    assert filled[distances < 5].all()
    said = [e.message for e in events if isinstance(e, Notice)]
    assert any("17 slices are more than 40 away" in message for message in said)


def test_what_shrinks_goes_on_shrinking_beyond_the_last_slice(tubes):
    image, truth = tubes[0][::-1], tubes[1][::-1]
    found, _ = carry(image, keep_slices(truth, [2, 9]), axis=0)
    beyond = found.mask.array[10:]
    assert (beyond[-1] == 7).sum() < 0.8 * (truth[9] == 7).sum()


def test_strokes_are_not_carried_and_said(tubes):
    image, truth = tubes
    painted = np.where(truth == 0, 200, truth).astype(np.uint8)
    painted[9][:, ::2] = 0  # some pixels are unknown
    painted = keep_slices(painted, PAINTED)
    found, events = carry(image, painted, background_value=200)
    assert any(
        isinstance(e, Notice) and "strokes is not carried" in e.message for e in events
    )
    assert set(np.unique(found.mask.array)) == {0, 3, 7}
    with pytest.raises(MedsagaError, match="Only strokes"):
        carry(image, keep_slices(painted, [9]), background_value=200, axis=0)


def test_a_2d_image_has_nowhere_to_carry_to(tubes):
    with pytest.raises(MedsagaError, match="one 2-D image"):
        carry(tubes[0][0], tubes[1][0])


def test_a_stop_keeps_what_is_carried(tubes):
    image, truth = tubes
    stream = propagate(image, keep_slices(truth, PAINTED))
    while not isinstance(event := next(stream), CarriedSlice) or event.index < 4:
        pass
    with pytest.raises(StopIteration) as end:
        stream.throw(Stop())
    found = end.value.value
    assert found.n_carried == 5
    assert not found.is_complete
    assert found.mask.array[4].any()
    assert not found.mask.array[5:].any()


def test_colours_and_lazy_arrays(tubes):
    image, truth = tubes
    grey = np.clip(image, 0, 255).astype(np.uint8)
    colour = np.stack([grey, grey // 2, grey], -1)
    painted = keep_slices(truth, PAINTED)
    found, _ = carry(colour, painted)
    assert dice_of(found.mask.array, truth) > 0.93
    eager, _ = carry(image, painted)
    lazy, _ = carry(
        Volume(array=dask.array.from_array(image, chunks=(1, SIDE, SIDE))), painted
    )
    np.testing.assert_array_equal(lazy.mask.array, eager.mask.array)


def test_a_spacing_that_means_nothing_counts_pixels(tubes):
    image, truth = tubes
    painted = keep_slices(truth, PAINTED)
    wrong = Volume(array=image, spacing=(0.0, math.nan, 1.0))
    found, events = carry(wrong, wrong.with_array(painted))
    plain, _ = carry(image, painted)
    np.testing.assert_array_equal(found.mask.array, plain.mask.array)
    assert [e.gap for e in events if isinstance(e, CarriedSlice)][:3] == [2.0, 1.0, 0.0]


def test_a_class_that_fills_its_slice_is_no_wider_than_that():
    image = np.random.default_rng(0).normal(size=(7, 40, 40)).astype(np.float32)
    for half in (np.s_[:, :20], np.s_[:, 20:]):
        painted = np.zeros(image.shape, np.uint8)
        painted[0] = 3
        painted[6][half] = 3
        found, _ = carry(image, painted, axis=0, follows_flow=False)
        sizes = [int((one == 3).sum()) for one in found.mask.array]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[3] == pytest.approx(1200, abs=450)


def test_thin_classes_go_on_shrinking_too():
    y, x = np.mgrid[:40, :40]
    image = np.zeros((9, 40, 40), np.float32)
    painted = np.zeros(image.shape, np.uint8)
    painted[0][np.hypot(y - 20, x - 20) < 4] = 3
    painted[4][np.hypot(y - 20, x - 20) < 2.5] = 3
    found, _ = carry(image, painted, axis=0, follows_flow=False)
    sizes = [int((one == 3).sum()) for one in found.mask.array]
    assert sizes[8] < 0.5 * sizes[4]


def test_unrelated_slices_are_not_followed(tubes):
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(19, SIDE, SIDE)).astype(np.float32)
    labels = np.zeros(noise.shape, np.uint8)
    labels[PAINTED, 20:50, 20:50] = 3
    noise += 0.5 * ndimage.gaussian_filter(noise, (0, 3, 3)) * 20
    auto = carrier_of(noise, labels).at(5)
    still = carrier_of(noise, labels, follows_flow=False).at(5)
    np.testing.assert_array_equal(auto.distances, still.distances)
    followed = carrier_of(tubes[0], keep_slices(tubes[1], PAINTED))
    other = carrier_of(tubes[0], keep_slices(tubes[1], PAINTED), follows_flow=False)
    assert not np.array_equal(followed.at(5).distances, other.at(5).distances)


def test_a_slice_by_itself_is_that_of_the_stream(tubes):
    carrier = carrier_of(tubes[0], keep_slices(tubes[1], PAINTED))
    for maps in carrier.stream():
        alone = carrier.at(maps.index)
        np.testing.assert_allclose(alone.distances, maps.distances, atol=0.05)
        assert (alone.below, alone.above) == (maps.below, maps.above)


def test_a_left_out_slice_is_carried_from_the_others(tubes):
    carrier = carrier_of(tubes[0], keep_slices(tubes[1], PAINTED))
    left_out = carrier.at(9, without=[9])
    assert (left_out.below, left_out.above) == (7.0, 7.0)
    inside = carrier.frame.from_grid(left_out.distances[0]) > 0
    truth = carrier.frame.cut(tubes[1][9]) == 3
    assert 2 * (inside & truth).sum() / (inside.sum() + truth.sum()) > 0.9
    assert carrier.at(16, without=[16]).above == math.inf

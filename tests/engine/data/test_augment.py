from types import SimpleNamespace

import pytest
import torch

from medsaga.data.augment import Augmenter, choose_negatives
from medsaga.data.intensity import IntensityRule
from medsaga.settings.fine_tune import FineTuneSettings

STILL = {"rotation": 0, "zoom": 0, "shift": 0, "contrast": 0, "noise": 0}
STANDARD = FineTuneSettings()


def only(**settings):
    return Augmenter(FineTuneSettings(**{**STILL, **settings}), seed=3)


def scene(height=96, width=128, padding=0):
    """Smooth blobs of two classes; the image has one intensity for each class."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    target = torch.zeros(height, width, dtype=torch.int64)
    target[torch.hypot(y - 40.0, x - 40.0) < 20] = 1
    target[torch.hypot(y - 60.0, x - 85.0) < 24] = 2
    image = (0.2 + 0.3 * target).expand(3, -1, -1).clone()
    if padding:
        target[-padding:] = -1
        image[:, -padding:] = 0
    return image, target


def test_without_any_change_the_slice_comes_back():
    image, target = scene(padding=16)
    seen, moved = only()(image, target[:80], 5, (80, 128))
    torch.testing.assert_close(seen, image, atol=1e-4, rtol=0)
    assert torch.equal(moved, target)


def test_boundaries_stay_where_finer_labels_have_them():
    """The nearest pixels at half the size lie a quarter of a pixel off, all alike."""
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    labels = (torch.hypot(y - 63.5, x - 63.5) < 40).short()
    image = labels.view(64, 2, 64, 2).float().mean((1, 3)).expand(3, -1, -1)
    augment, off = only(rotation=0.3, shift=0.05), []
    for index in range(40):
        seen, moved = augment(image, labels, index)
        off.append(_centre(moved == 1) - _centre(seen[0]))
    assert torch.stack(off).mean(0).abs().max() < 0.03


def _centre(weights):
    rows, cols = weights.float().sum(1), weights.float().sum(0)
    sides = [
        line @ torch.arange(float(len(line))) / line.sum() for line in (rows, cols)
    ]
    return torch.stack(sides)


def test_image_and_target_move_together():
    image, target = scene()
    augment = only(rotation=0.5, zoom=0.3, shift=0.2)
    for index in range(20):
        seen, moved = augment(image, target, index)
        assert not torch.equal(moved, target)
        inside = moved >= 0
        expected = 0.2 + 0.3 * moved
        wrong = ((seen[0] - expected).abs() > 0.01) & inside
        # Only the soft borders of the blobs may differ. The nearest pixel has at least
        # a quarter of the bilinear weight, and the largest step is 0.6.
        assert wrong.sum() < 0.05 * inside.sum()
        assert (seen[0] - expected).abs()[inside].max() <= 0.451
        assert (seen[:, ~inside] == 0).all()


def test_outside_is_black_ignored_and_without_a_dark_rim():
    image = torch.full((3, 64, 64), 0.8)
    target = torch.ones(64, 64, dtype=torch.int64)
    augment = only(rotation=0.6, shift=0.3)
    for index in range(10):
        seen, moved = augment(image, target, index)
        assert set(moved.unique().tolist()) == {-1, 1}
        torch.testing.assert_close(
            seen[:, moved == 1], torch.full_like(seen[:, moved == 1], 0.8)
        )
        assert (seen[:, moved == -1] == 0).all()


def test_padding_stays_black_and_ignored_whatever_the_intensities():
    image, target = scene(padding=32)
    augment = Augmenter(STANDARD, seed=0)
    for index in range(10):
        seen, moved = augment(image, target[:64], index, (64, 128))
        black = (seen == 0).all(0)
        assert black[moved == -1].all()
        # Hardly any of the slice itself was taken for padding.
        assert black[moved >= 0].float().mean() < 0.02
        assert 0.1 < (moved == -1).float().mean() < 0.7


def test_unknown_pixels_look_as_if_they_were_known():
    """Black ones too, which are air rather than padding."""
    image, target = scene(padding=16)
    image[:, :40] = 0
    strokes = torch.where(torch.arange(128) % 9 == 0, target, -1)
    augment, content = Augmenter(STANDARD, seed=0), (80, 128)
    for index in range(5):
        expected, known = augment(image, target[:80], index, content)
        seen, moved = augment(image, strokes[:80], index, content)
        assert torch.equal(seen, expected)
        assert torch.equal(moved[moved >= 0], known[moved >= 0])
        share = (moved >= 0).sum() / (known >= 0).sum()
        assert 0.08 < share < 0.15


def test_view_depends_on_its_number_and_the_seed_only():
    image, target = scene()
    first = Augmenter(STANDARD, seed=1)
    views = [first(image, target, i) for i in range(6)]
    resumed = Augmenter(STANDARD, seed=1)
    torch.manual_seed(99)
    for i in (5, 2, 2, 0):
        seen, moved = resumed(image, target, i)
        assert torch.equal(seen, views[i][0])
        assert torch.equal(moved, views[i][1])
    assert not torch.equal(views[0][0], views[1][0])
    other = Augmenter(STANDARD, seed=2)(image, target, 0)
    assert not torch.equal(other[0], views[0][0])


def test_asking_for_a_view_leaves_the_input_alone():
    image, target = scene()
    before = image.clone(), target.clone()
    Augmenter(STANDARD, seed=1)(image, target, 0)
    assert torch.equal(image, before[0])
    assert torch.equal(target, before[1])


def marker_corner(moved):
    """Say in which quarter the marker lies: (lower half, right half)."""
    y, x = (moved == 1).nonzero().float().mean(0).tolist()
    return y > moved.shape[0] / 2, x > moved.shape[1] / 2


def marker():
    target = torch.zeros(64, 64, dtype=torch.int64)
    target[12:20, 14:22] = 1
    return target.float().expand(3, -1, -1).clone(), target


def test_nothing_is_mirrored_unless_asked():
    image, target = marker()
    augment = only(rotation=0.3, zoom=0.2, shift=0.05)
    assert {marker_corner(augment(image, target, i)[1]) for i in range(40)} == {
        (False, False)
    }


def test_flips_mirror_both_axes():
    image, target = marker()
    augment = only(flips=True)
    corners = set()
    for i in range(40):
        seen, moved = augment(image, target, i)
        corners.add(marker_corner(moved))
        torch.testing.assert_close(seen[0], moved.float(), atol=1e-4, rtol=0)
    assert len(corners) == 4


def test_settings_bound_the_movements():
    image, target = scene()
    side = torch.tensor([96.0, 128.0])
    centre = (target == 1).nonzero().float().mean(0)
    size = (target == 1).sum()
    moves, sizes = [], []
    for i in range(60):
        _, moved = only(shift=0.1)(image, target, i)
        moves.append(((moved == 1).nonzero().float().mean(0) - centre) / side)
        _, moved = only(zoom=0.2)(image, target, i)
        sizes.append(float((moved == 1).sum() / size))
    shifts = torch.stack(moves).abs().amax(0)
    assert ((shifts > 0.07) & (shifts < 0.11)).all()
    assert 0.6 < min(sizes) < 0.85
    assert 1.15 < max(sizes) < 1.5


def test_rotation_is_in_radians_and_bounded():
    target = torch.zeros(101, 101, dtype=torch.int64)
    target[48:53, 75:80] = 1  # to the right of the centre
    image = target.float().expand(3, -1, -1)
    angles = []
    for i in range(60):
        _, moved = only(rotation=0.4)(image, target, i)
        y, x = ((moved == 1).nonzero().float().mean(0) - 50).tolist()
        angles.append(float(torch.atan2(torch.tensor(y), torch.tensor(x))))
    assert -0.43 < min(angles) < -0.3
    assert 0.3 < max(angles) < 0.43


def test_intensities_change_within_the_unit_interval_and_alike_in_grey():
    image, target = scene()
    spreads = []
    for i in range(30):
        seen, moved = only(contrast=0.5)(image, target, i)
        assert torch.equal(moved, target)
        spreads.append(float(seen[0].std() / image[0].std()))
    assert min(spreads) < 0.8
    assert max(spreads) > 1.2
    for i in range(10):
        seen, _ = only(noise=0.5, contrast=0.9)(image, target, i)
        assert seen.min() >= 0
        assert seen.max() <= 1
        assert torch.equal(seen[0], seen[1])


def test_noise_has_at_most_the_deviation_of_the_settings():
    image = torch.full((3, 64, 64), 0.5)
    target = torch.zeros(64, 64, dtype=torch.int64)
    deviations = [
        float((only(noise=0.1)(image, target, i)[0][0] - 0.5).std()) for i in range(40)
    ]
    assert max(deviations) < 0.105
    assert max(deviations) > 0.08
    assert min(deviations) < 0.02


def test_half_of_the_views_are_negatives_if_asked_and_outside_stays_black():
    image, target = scene(padding=16)
    n_negative = 0
    for i in range(60):
        plain, moved = only(shift=0.2)(image, target[:80], i, (80, 128))
        seen, same = only(shift=0.2, negatives="on")(image, target[:80], i, (80, 128))
        assert torch.equal(same, moved)
        inside = moved >= 0
        is_negative = not torch.equal(seen, plain)
        n_negative += is_negative
        expected = 1 - plain if is_negative else plain
        assert torch.equal(seen[:, inside], expected[:, inside])
        assert (seen[:, ~inside] == 0).all()
    assert 20 < n_negative < 40


@pytest.mark.parametrize(
    ("asked", "painted", "kind", "chosen"),
    [
        ("auto", [0.9, 0.1], "percentiles", "on"),
        ("auto", [0.9, 0.8, 0.5], "percentiles", "off"),
        ("auto", [0.9, 0.4], "percentiles", "off"),
        ("auto", [0.1], "percentiles", "off"),
        ("auto", [0.9, 0.1], "window", "off"),
        ("auto", [None, 0.1], "percentiles", "off"),
        ("off", [0.9, 0.1], "percentiles", "off"),
        ("on", [0.9], "window", "on"),
    ],
)
def test_negatives_are_chosen_where_bright_and_dark_things_are_painted(
    asked, painted, kind, chosen
):
    rule = IntensityRule(kind=kind, low=0.5, high=99.5)
    slices = [painted_slice(intensity) for intensity in painted]
    assert choose_negatives(asked, slices, rule) == chosen


def test_that_one_class_is_bright_and_another_dark_needs_no_negatives():
    rule = IntensityRule(kind="percentiles", low=0.5, high=99.5)
    slices = [painted_slice(0.9), painted_slice(0.1)]
    slices[1].target[slices[1].target == 1] = 2
    assert choose_negatives("auto", slices, rule) == "off"


def painted_slice(intensity):
    """A square on grey, of an intensity that is said; None: an empty slice."""
    image, target = torch.full((3, 16, 16), 0.5), torch.zeros(16, 16, dtype=torch.long)
    if intensity is not None:
        image[:, 2:6, 2:6], target[2:6, 2:6] = intensity, 1
    target[8:] = -1
    return SimpleNamespace(image=image, target=target)


def test_colour_channels_keep_apart():
    image, target = scene()
    image[1] = 0.9
    seen, _ = only(rotation=0.3)(image, target, 0)
    inside = seen[1] > 0
    torch.testing.assert_close(seen[1][inside], torch.full_like(seen[1][inside], 0.9))
    assert not torch.equal(seen[0], seen[1])


def test_slice_without_any_content_stays_finite():
    image = torch.zeros(3, 32, 32)
    target = torch.full((32, 32), -1)
    seen, moved = Augmenter(STANDARD, seed=0)(image, target, 0, (0, 0))
    assert (seen == 0).all()
    assert (moved == -1).all()

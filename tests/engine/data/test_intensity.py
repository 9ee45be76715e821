import json
import tracemalloc
from dataclasses import asdict, replace

import dask.array
import numpy as np
import pytest
from tests.real_images import DATA

from medsaga.data.intensity import (
    WINDOWS,
    IntensityRule,
    choose_intensity,
    image_doubts,
    looks_like_hounsfield,
    to_unit,
)
from medsaga.data.volume import Volume, volume_from_array
from medsaga.errors import MedsagaError


def read(path):
    nib = pytest.importorskip("nibabel")
    if not (DATA / path).exists():
        pytest.skip(f"{path} is not here")
    array = np.asarray(nib.as_closest_canonical(nib.load(DATA / path)).dataobj)
    return volume_from_array(array.T, name=path)


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def ct(random):
    """Air around a body of soft tissue with a lung and a spot of dense bone in it."""
    array = np.full((6, 64, 64), -1000.0)
    array[:, 10:54, 10:54] = 40
    array[:, 20:30, 20:40] = -800
    array[:, 40:44, 40:44] = 900
    return volume_from_array((array + random.normal(0, 15, array.shape)).round())


def labels_of(ct, *regions):
    array = np.zeros(ct.shape, np.uint8)
    for value, rows, cols in regions:
        array[2, rows, cols] = value
    return volume_from_array(array)


LIVER = (1, slice(46, 53), slice(12, 30))
LUNG = (7, slice(20, 30), slice(20, 40))
BONE = (3, slice(40, 44), slice(40, 44))


def test_ct_gets_the_soft_tissue_window(ct):
    rule, sentence = choose_intensity("auto", [ct], [labels_of(ct, LIVER)], None)
    assert rule == IntensityRule(kind="window", low=-160, high=240)
    assert "Hounsfield" in sentence
    assert "-160 to 240" in sentence


def test_window_is_widened_to_show_labelled_lungs(ct):
    labels = labels_of(ct, LIVER, LUNG)
    rule, sentence = choose_intensity("auto", [ct], [labels], None)
    lung = ct.array[labels.array == 7]
    assert rule.low <= np.percentile(lung, 1)
    assert rule.high == 240
    assert "labelled 7 " in sentence
    unit = to_unit(lung, rule.limits(ct))
    assert (
        0 < np.median(unit) < np.median(to_unit(ct.array[labels.array == 1], (0, 99)))
    )


def test_window_is_widened_upwards_and_ignores_a_few_stray_pixels(ct):
    stray = (9, slice(20, 22), slice(20, 24))
    bone = labels_of(ct, BONE).array
    bone[1:5] = bone[2]
    labels = volume_from_array(np.maximum(bone, labels_of(ct, LIVER, stray).array))
    rule, _ = choose_intensity("auto", [ct], [labels], None)
    assert rule.low == -160
    assert 900 < rule.high < 1000


def test_class_that_is_partly_gas_does_not_widen_the_window(ct):
    bowel = (4, slice(26, 36), slice(20, 40))  # four of its ten rows are air
    rule, _ = choose_intensity("auto", [ct], [labels_of(ct, bowel)], None)
    assert rule.low == -160


def test_other_images_get_percentiles(ct, random):
    mri = volume_from_array(random.gamma(2, 300, (5, 32, 32)))
    rgb = volume_from_array(
        random.integers(0, 255, (5, 32, 32, 3)).astype(np.int16) - 1000, rgb=True
    )
    phase = volume_from_array(random.uniform(-4096, 4096, (5, 32, 32)))
    normalised = volume_from_array(random.normal(0, 1, (5, 32, 32)))
    for volume in (mri, rgb, phase, normalised):
        assert not looks_like_hounsfield(volume)
        labels = volume_from_array(np.ones(volume.shape, np.uint8))
        rule, _ = choose_intensity("auto", [volume], [labels], None)
        assert rule == IntensityRule(kind="percentiles", low=0.5, high=99.5)


def test_ct_with_padding_outside_the_field_of_view_is_ct(ct):
    padded = ct.array.copy()
    padded[:, :8] = -3024
    assert looks_like_hounsfield(ct.with_array(padded))


def test_explicit_window_and_presets_win(ct):
    labels = [labels_of(ct, LUNG)]
    rule, sentence = choose_intensity("auto", [ct], labels, (-50, 300))
    assert (rule.low, rule.high) == (-50, 300)
    assert "as asked" in sentence
    for name, (low, high) in WINDOWS.items():
        rule, sentence = choose_intensity(name, [ct], labels, None)
        assert (rule.kind, rule.low, rule.high) == ("window", low, high)
        assert name in sentence
    rule, _ = choose_intensity("percentiles", [ct], labels, None)
    assert rule.kind == "percentiles"


def test_every_window_of_the_settings_exists():
    from typing import get_args

    from medsaga.settings.fine_tune import Intensity

    assert set(get_args(Intensity)) == {"auto", "percentiles", *WINDOWS}


@pytest.mark.parametrize("window", [(5, 5), (10, -10), (float("nan"), 1), (0, np.inf)])
def test_empty_window_is_refused(ct, window):
    with pytest.raises(MedsagaError, match="lower one first"):
        choose_intensity("auto", [ct], [labels_of(ct, LIVER)], window)


def test_window_outside_the_images_is_refused():
    volume = volume_from_array(np.arange(100.0).reshape(10, 10))
    with pytest.raises(MedsagaError, match="0 to 99"):
        choose_intensity("auto", [volume], [volume], (1000, 2000))


def test_percentiles_are_those_of_the_volume_without_the_broken_voxels(random):
    array = random.normal(100, 20, (8, 40, 40)).astype(np.float32)
    expected = np.percentile(array, (0.5, 99.5))
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    rule = IntensityRule(kind="percentiles", low=0.5, high=99.5)
    assert rule.limits(volume_from_array(array)) == pytest.approx(expected, rel=0.02)


def test_percentiles_of_a_large_volume_come_from_a_sample(random):
    array = random.integers(0, 1000, (30, 400, 400), dtype=np.int16)
    rule = IntensityRule(kind="percentiles", low=10, high=90)
    limits = rule.limits(volume_from_array(array))
    assert limits == pytest.approx((100, 900), abs=5)


def test_percentiles_of_a_few_large_slices_leave_none_out():
    array = np.zeros((2, 1100, 1100), np.float32)
    array[1] = 500
    rule = IntensityRule(kind="percentiles", low=0.5, high=99.5)
    assert rule.limits(volume_from_array(array)) == pytest.approx((0, 500))


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 8, 8), 7.0),
        np.full((2, 8, 8), np.nan),
        np.zeros((2, 8, 8), bool),
        np.zeros((2, 8, 8), np.uint16),
    ],
)
def test_constant_image_becomes_finite(array):
    volume = volume_from_array(array)
    limits = IntensityRule(kind="percentiles", low=0.5, high=99.5).limits(volume)
    unit = to_unit(volume.slice(0, 0), limits)
    assert limits[0] < limits[1]
    assert (unit == 0).all()


def test_few_bright_specks_stay_visible():
    array = np.zeros((1, 100, 100), np.uint8)
    array[0, 50, 50:53] = 200
    limits = IntensityRule(kind="percentiles", low=0.5, high=99.5).limits(
        Volume(array=array)
    )
    assert to_unit(array[0], limits)[50, 51] == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_noise_stays_dim_beside_a_few_small_objects(random, sign):
    """A nearly empty field of view: three nuclei on 0.3 % of it."""
    array = random.normal(100, 2, (1, 256, 256))
    nuclei = np.zeros(array.shape, bool)
    nuclei[0, 40:48, 40:48] = nuclei[0, 100:108, 30:38] = True
    nuclei[0, 200:208, 220:228] = True
    array[nuclei] += sign * 200
    rule = IntensityRule(kind="percentiles", low=0.5, high=99.5)
    unit = to_unit(array, rule.limits(volume_from_array(array)))
    noise = unit[~nuclei].std()
    contrast = abs(np.median(unit[nuclei]) - np.median(unit[~nuclei]))
    assert noise < 0.05  # 0.3 if the percentiles are taken as they are
    assert contrast > 0.8


def test_to_unit_is_linear_clips_and_keeps_colour():
    array = np.array([[-300, -160, 40, 240, 3000]], np.int16)
    unit = to_unit(array, (-160, 240))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [[0, 0, 0.5, 1, 1]])
    colour = to_unit(np.full((4, 5, 3), 51, np.uint8), (0, 255))
    np.testing.assert_allclose(colour, np.full((4, 5, 3), 0.2), rtol=1e-6)
    wide = np.array([[16_777_216, 16_777_217, 16_777_218]], np.int64)
    np.testing.assert_allclose(to_unit(wide, (16_777_216, 16_777_218)), [[0, 0.5, 1]])


def test_to_unit_of_broken_pixels():
    unit = to_unit(np.array([[np.nan, np.inf, -np.inf]]), (0, 1))
    np.testing.assert_array_equal(unit, [[0, 1, 0]])


def test_rule_goes_through_json():
    rule = IntensityRule(kind="percentiles", low=0.5, high=99.5)
    assert IntensityRule(**json.loads(json.dumps(asdict(rule)))) == rule
    with pytest.raises(MedsagaError, match="percentiles"):
        IntensityRule(kind="percentiles", low=-1, high=50)


def test_real_ct_gets_the_window():
    for case in ("example_ct_sm", "example_seg"), ("image", "label"):
        folder = "multi-organ-ct-3mm" if case[0] != "image" else "spleen-ct"
        image, labels = (read(f"{folder}/{name}.nii.gz") for name in case)
        organs = labels.with_array(
            np.where(np.isin(labels.array, (1, 2, 3, 5, 20, 52)), labels.array, 0)
        )
        rule, _ = choose_intensity("auto", [image], [organs], None)
        assert (rule.kind, rule.low, rule.high) == ("window", -160, 240)


def test_real_lungs_widen_the_window():
    image = read("multi-organ-ct-3mm/example_ct_sm.nii.gz")
    labels = read("multi-organ-ct-3mm/example_seg.nii.gz")
    lungs = np.isin(labels.array, (10, 11, 14))
    rule, _ = choose_intensity(
        "auto", [image], [labels.with_array(labels.array * lungs)], None
    )
    pixels = image.array[lungs]
    assert np.mean((pixels >= rule.low) & (pixels <= rule.high)) > 0.95


def test_real_mri_gets_percentiles():
    folder = DATA / "hippocampus-mri/images"
    if not folder.exists():
        pytest.skip("the hippocampus images are not here")
    images = [
        read(f"hippocampus-mri/images/{path.name}")
        for path in sorted(folder.iterdir())[:4]
    ]
    rule, _ = choose_intensity("auto", images, images, None)
    assert rule.kind == "percentiles"
    for image in images:
        unit = to_unit(image.array, rule.limits(image))
        assert 0.1 < unit.mean() < 0.9


MARKERS = [-32768, -9999, 1e20, -1e20, float(np.finfo(np.float32).max), 65535]


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("share", [0.0005, 0.2, 0.7])
def test_a_marker_takes_no_contrast(marker, share):
    random = np.random.default_rng(0)
    tissue = random.uniform(0, 900, (12, 40, 40)).astype(np.float32)
    marked = np.where(random.random(tissue.shape) < share, marker, tissue)
    rule = IntensityRule(kind="percentiles", low=0.5, high=99.5)
    limits = rule.limits(volume_from_array(marked.astype(np.float32)))
    assert limits == pytest.approx((4.5, 895.5), abs=6)


@pytest.mark.parametrize("marker", MARKERS)
def test_padding_makes_no_ct_of_an_mri_and_an_mri_of_no_ct(marker):
    random = np.random.default_rng(0)
    mri = random.uniform(0, 900, (12, 40, 40))
    ct = random.choice([-1000.0, -100, 40, 60, 400], (12, 40, 40))
    for image, is_ct in ((mri, False), (ct, True)):
        image[:, :, :8] = marker
        assert looks_like_hounsfield(volume_from_array(image)) == is_ct


def test_small_bright_objects_are_no_markers():
    image = np.random.default_rng(0).integers(90, 110, (100, 100)).astype(np.uint16)
    image[40:44, 40:44] = np.arange(1000, 5000, 250).reshape(4, 4)
    rule = IntensityRule(kind="percentiles", low=0.5, high=99.5)
    assert rule.limits(volume_from_array(image))[1] > 1000
    saturated = np.where(image > 1000, 255, np.clip(image, 0, 200)).astype(np.uint8)
    assert rule.limits(volume_from_array(saturated))[1] > 140


class TestDoubts:
    WINDOW = IntensityRule(kind="window", low=-160, high=240)
    PERCENTILES = IntensityRule(kind="percentiles", low=0.5, high=99.5)

    @pytest.fixture
    def ct(self):
        array = np.random.default_rng(0).uniform(-1000, 1000, (4, 30, 30))
        return volume_from_array(array, name="ct")

    def test_an_image_of_the_kind_that_trained_has_none(self, ct):
        assert image_doubts(ct, self.WINDOW) == image_doubts(ct, self.PERCENTILES) == []

    def test_an_image_that_was_scaled_is_one_grey(self, ct):
        scaled = ct.with_array((ct.array + 1000) / 2000)
        (doubt,) = image_doubts(scaled, self.WINDOW)
        assert "ct ranges from" in doubt
        assert "the model sees -160 to 240: to it the image is nearly one grey" in doubt
        assert image_doubts(scaled, self.PERCENTILES) == []

    def test_an_image_without_negative_values_is_hardly_hounsfield(self, ct):
        (doubt,) = image_doubts(ct.with_array(np.abs(ct.array) / 4), self.WINDOW)
        assert "is this a CT in Hounsfield units?" in doubt

    def test_a_constant_image_is_said(self, ct):
        for rule in (self.WINDOW, self.PERCENTILES):
            assert image_doubts(ct.with_array(np.full((4, 9, 9), 7)), rule) == [
                "ct is 7 everywhere: nothing is seen in it."
            ]

    def test_what_is_not_finite_is_counted(self, ct):
        array = ct.array.copy()
        array[0, 0, :5] = np.nan
        (doubt,) = image_doubts(ct.with_array(array), self.WINDOW)
        assert doubt.startswith("ct has 5 voxels of no finite value")
        (doubt,) = image_doubts(replace(ct, n_not_finite=1), self.WINDOW)
        assert doubt.startswith("ct has 1 voxel of")

    def test_a_lazy_array_is_not_computed_for_it(self, ct):
        def compute(block):
            raise AssertionError

        lazy = dask.array.from_array(np.zeros((4, 9, 9))).map_blocks(
            compute, dtype=float
        )
        assert image_doubts(ct.with_array(lazy), self.WINDOW) == []


def test_scaling_takes_little_more_memory_than_it_gives():
    image = np.random.default_rng(0).integers(0, 255, (3000, 3000), dtype=np.uint8)
    tracemalloc.start()
    unit = to_unit(image, (0, 255))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < unit.nbytes + 64 * 2**20  # all rows at once take 216 MB
    np.testing.assert_array_equal(unit, (image / 255.0).astype(np.float32))


@pytest.mark.parametrize("ends", [(-32768, 32767), (-1e20, 1e20)])
def test_markers_at_both_ends_take_no_contrast(ends):
    random = np.random.default_rng(0)
    image = random.uniform(-1000, 1500, (12, 40, 40))
    image[:, :, :4], image[:, :, 4:8] = ends
    limits = IntensityRule(kind="percentiles", low=0.5, high=99.5).limits(
        volume_from_array(image)
    )
    assert limits == pytest.approx((-987, 1487), abs=20)


@pytest.mark.parametrize("levels", [(0, 100, 8000), (0, 1, 65535)])
def test_of_few_values_each_may_mean_something(levels):
    image = np.random.default_rng(0).choice(levels, (12, 40, 40))
    limits = IntensityRule(kind="percentiles", low=0.5, high=99.5).limits(
        volume_from_array(image)
    )
    assert limits[1] == levels[-1]


@pytest.mark.parametrize("padding", [-2000, -3024])
def test_padding_alone_makes_no_ct(padding):
    """Of an MRI with such a border the soft tissue window was taken."""
    array = np.random.default_rng(0).integers(0, 900, (4, 64, 64)).astype(np.float32)
    array[:, :8] = padding
    assert not looks_like_hounsfield(volume_from_array(array))


@pytest.mark.parametrize("marker", [-32768, 1e20])
def test_a_marker_beside_few_levels_takes_no_contrast(marker):
    array = np.random.default_rng(0).integers(0, 7, (4, 64, 64)).astype(np.float64)
    array[:, :8] = marker
    rule = IntensityRule(kind="percentiles", low=0.5, high=99.5)
    low, high = rule.limits(volume_from_array(array))
    assert (low, high) == (0.0, 6.0)

from dataclasses import replace

import numpy as np
import pytest
import torch

from medsaga.data.annotation import annotated_slices
from medsaga.data.canvas import Canvas
from medsaga.data.classes import ClassTable, class_table
from medsaga.data.integers import smallest_integers
from medsaga.data.intensity import IntensityRule
from medsaga.data.samples import build_samples, working_image
from medsaga.data.survey import label_check
from medsaga.data.volume import volume_from_array
from medsaga.errors import MedsagaError
from medsaga.network.inference import SliceLogits
from medsaga.training.card import fingerprint

CANVAS = Canvas(long_side=64, multiple=16)
RULE = IntensityRule(kind="window", low=0, high=100)


def table_of(*values):
    return ClassTable(
        values=values,
        names=tuple(f"class {v}" for v in values),
        colours=(None,) * len(values),
    )


def painted(shape, *boxes, **more):
    """Make labels of (value, index) boxes; an index is what numpy takes."""
    array = np.zeros(shape, np.int16)
    for value, index in boxes:
        array[index] = value
    return volume_from_array(array, **more)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((0, 1, 5, 117), np.uint8),
        ((0, 117, 5, 1), np.uint8),
        ((0, -3, 4), np.int8),
        ((0, -3, 200), np.int16),
        ((0, 300), np.uint16),
        ((0, -1, 70_000), np.int32),
        ((0, 4_000_000_000), np.uint32),
        ((0, 5_000_000_000), np.uint64),
        ((0, -1, 5_000_000_000), np.int64),
    ],
)
def test_label_values_survive(values, dtype):
    table = table_of(*values)
    labels = np.random.default_rng(0).choice(values, (20, 30))
    indices = table.index_of(labels)
    assert indices.dtype == np.int64
    assert set(np.unique(indices)) == set(range(len(values)))
    assert [values[i] for i in indices[0]] == labels[0].tolist()
    back = table.to_values(indices)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int32, np.float64, ">i2"])
def test_values_of_any_type_are_found_and_unknown_ones_ignored(dtype):
    table = table_of(0, 5, 1, 117)
    labels = np.array([[0, 1, 5, 117, 2, 118, 4]]).astype(dtype)
    np.testing.assert_array_equal(table.index_of(labels), [[0, 2, 1, 3, -1, -1, -1]])
    np.testing.assert_array_equal(
        table.to_values(np.array([[-1, 0, 3]])), [[0, 0, 117]]
    )


def test_broken_label_pixels_are_ignored_and_bool_masks_taken():
    table = table_of(0, 1)
    odd = np.array([[0.0, 1.0, 0.5, np.nan, np.inf]])
    np.testing.assert_array_equal(table.index_of(odd), [[0, 1, -1, -1, -1]])
    np.testing.assert_array_equal(table.index_of(np.array([[True, False]])), [[1, 0]])


def test_damaged_table_is_refused():
    for values in ((1, 2), (0, 1, 1), ()):
        with pytest.raises(MedsagaError):
            table_of(*values)
    with pytest.raises(MedsagaError):
        ClassTable(values=(0, 1), names=("background",), colours=(None, None))
    assert len(table_of(0, 7, 9)) == 3


def test_axis_with_the_fewest_labelled_slices_is_taken():
    coronal = painted((20, 30, 40), (1, np.s_[3:15, 8, 5:30]), (2, np.s_[3:9, 21, 5]))
    found = annotated_slices([coronal])
    assert found.axis == 1
    assert found.slices == ((0, 8), (0, 21))
    assert "2 of 30 slices are annotated along axis 1" in found.sentence
    sagittal = painted((20, 30, 40), (1, np.s_[3:15, 5:25, 17]))
    assert annotated_slices([sagittal]).slices == ((0, 17),)
    assert annotated_slices([sagittal]).axis == 2


def test_labelled_slices_are_summed_over_the_volumes():
    # The first alone would say axis 1 (3 slices against 5), both together say axis 0.
    first = painted((20, 30, 40), (1, np.s_[0:5, 0:3, :]))
    second = painted((20, 30, 40), (1, np.s_[0:2, 0:9, :]))
    assert annotated_slices([first]).axis == 1
    found = annotated_slices([first, second])
    assert found.axis == 0
    assert found.slices == (*((0, s) for s in range(5)), (1, 0), (1, 1))
    assert "7 of 40 slices of 2 volumes" in found.sentence


def test_on_a_tie_the_first_axis_is_taken():
    cube = painted((20, 30, 40), (1, np.s_[5:9, 5:9, 5:9]))
    assert annotated_slices([cube]).axis == 0
    later = painted((20, 30, 40), (1, np.s_[5:15, 5:9, 5:9]))
    assert annotated_slices([later]).axis == 1


def test_axis_is_named_only_where_it_is_known():
    plain = painted((20, 30, 40), (1, np.s_[5, 5:9, 5:9]))
    assert "axial" not in annotated_slices([plain]).sentence
    placed = plain.__class__(array=plain.array, affine=np.eye(4))
    assert annotated_slices([placed]).sentence == (
        "1 of 20 slices is annotated along axis 0 (axial)."
    )


def test_given_axis_wins():
    labels = painted((20, 30, 40), (1, np.s_[3, 5:8, 5:10]))
    found = annotated_slices([labels], axis=2)
    assert found.axis == 2
    assert found.slices == tuple((0, s) for s in range(5, 10))
    with pytest.raises(MedsagaError, match="choose 0, 1 or 2"):
        annotated_slices([labels], axis=3)


def test_2d_images_are_cut_across_axis_0():
    images = [painted((30, 40), (1, np.s_[4, 7])), painted((9, 9)), painted((30, 40))]
    images[2] = painted((30, 40), (2, np.s_[1:20, 30]))
    for axis in (None, 0, 1):
        found = annotated_slices(images, axis=axis)
        assert found.axis == 0
        assert found.slices == ((0, 0), (2, 0))
    assert found.sentence == "2 of 3 images are annotated."


def test_given_slices_restrict_and_may_be_empty():
    labels = painted((20, 30, 40), (1, np.s_[[3, 8, 9], 5:8, 5:10]))
    found = annotated_slices([labels], axis=0, slices=[8, 3, 12, 8])
    assert found.slices == ((0, 3), (0, 8), (0, 12))
    assert "1 of them with nothing on it" in found.sentence
    with pytest.raises(MedsagaError, match="from 0 to 19"):
        annotated_slices([labels], axis=0, slices=[3, 20])
    with pytest.raises(MedsagaError, match="from 0 to 19"):
        annotated_slices([labels], axis=0, slices=[-1])
    with pytest.raises(MedsagaError, match="None of the chosen slices"):
        annotated_slices([labels], axis=0, slices=[0, 1])


def test_given_slices_leave_out_volumes_that_nobody_painted():
    labels = [
        painted((20, 30, 40), (1, np.s_[3, 5:8, 5:10])),
        painted((20, 30, 40)),
        painted((4, 30, 40), (1, np.s_[3, 5:8, 5:10])),
    ]
    found = annotated_slices(labels, axis=0, slices=[3, 12])
    assert found.slices == ((0, 3), (0, 12), (2, 3))


def test_nothing_labelled_is_an_error_that_says_what_to_do():
    with pytest.raises(MedsagaError, match="paint"):
        annotated_slices([painted((5, 6, 7)), painted((5, 6, 7))])


def test_classes_come_from_the_annotated_slices_only():
    labels = painted(
        (20, 30, 40),
        (117, np.s_[3, 5:8, 5:10]),
        (5, np.s_[8, 5:8, 5:10]),
        (9, np.s_[9, 5:8, 5:10]),
    )
    annotation = annotated_slices([labels], axis=0, slices=[3, 8])
    table = class_table(
        [labels], annotation, names={5: "liver", 9: "gone"}, colours={117: "#ff0000"}
    )
    assert table.values == (0, 5, 117)
    assert table.names == ("background", "liver", "class 117")
    assert table.colours == (None, None, "#ff0000")


def test_labels_that_are_an_image_are_refused():
    soft = volume_from_array(np.random.default_rng(0).random((4, 8, 8)))
    with pytest.raises(MedsagaError, match="whole numbers"):
        class_table([soft], annotated_slices([soft]))
    broken = volume_from_array(np.full((4, 8, 8), np.inf))
    with pytest.raises(MedsagaError, match="whole numbers"):
        class_table([broken], annotated_slices([broken]))
    image = volume_from_array(np.arange(4000).reshape(10, 20, 20))
    with pytest.raises(MedsagaError, match="classes"):
        class_table([image], annotated_slices([image]))


def test_classes_with_too_few_pixels_are_told():
    labels = painted(
        (20, 60, 60),
        (1, np.s_[3:5, 5:50, 5:50]),
        (3, np.s_[3, 0:3, 0:4]),
        (7, np.s_[3, 55:60, 0:6]),
        (8, np.s_[3:5, 0, 59]),
    )
    annotation = annotated_slices([labels])
    table = class_table([labels], annotation, names={3: "tumour"})
    assert label_check([labels], annotation, table) == [
        "Class 3 (tumour) has 12 pixels on 1 slice: paint more, or it will not be "
        "learned.",
        "Class 8 has 2 pixels on 2 slices: paint more, or it will not be learned.",
    ]


def test_few_pixels_are_more_on_large_slices():
    labels = painted((2, 512, 512), (1, np.s_[0, 0:10, 0:10]))
    annotation = annotated_slices([labels], axis=0)
    table = class_table([labels], annotation)
    assert len(label_check([labels], annotation, table)) == 1


def scene():
    """Two volumes whose intensity is 10 times the label's class index."""
    labels = [
        painted((6, 40, 30), (1, np.s_[2, 5:25, 5:20]), (117, np.s_[2, 25:35, 8:25])),
        painted((4, 20, 50), (5, np.s_[1:3, 5:15, 10:40]), spacing=(5, 2, 1)),
    ]
    table = table_of(0, 1, 5, 117)
    images = [
        volume_from_array(table.index_of(v.array) * 10.0, spacing=v.spacing, name=n)
        for v, n in zip(labels, "ab", strict=True)
    ]
    return images, labels, table


def test_the_fingerprint_tells_labels_apart_that_the_working_size_does_not():
    random, prints = np.random.default_rng(0), set()
    image = volume_from_array(random.random((1, 192, 192)))
    for side in (60, 61):
        labels = painted((1, 192, 192), (1, np.s_[0, 30:90, 30 : 30 + side]))
        annotation = annotated_slices([labels], axis=0)
        samples = build_samples(
            [image], [labels], annotation, table_of(0, 1), RULE, CANVAS
        )
        prints.add(fingerprint(samples))
        assert (samples[0].target == 1).sum() == 20 * 20
    assert len(prints) == 2


def test_samples_show_the_slice_and_its_classes():
    images, labels, table = scene()
    annotation = annotated_slices(labels, axis=0)
    samples = build_samples(images, labels, annotation, table, RULE, CANVAS)
    assert [s.id.index for s in samples] == [2, 1, 2]
    assert [s.id.name for s in samples] == ["a [2]", "b [1]", "b [2]"]
    assert [s.content for s in samples] == [(64, 48), (51, 64), (51, 64)]
    assert [s.spacing for s in samples] == [None, (2, 1), (2, 1)]
    for sample, volume in zip(samples, (0, 1, 1), strict=True):
        height, width = sample.content
        assert sample.image.shape[1] % 16 == sample.image.shape[2] % 16 == 0
        assert (sample.target[height:] == -1).all()
        assert (sample.target[:, width:] == -1).all()
        assert (sample.target[:height, :width] >= 0).all()
        assert (sample.image[:, sample.target == -1] == 0).all()
        # Away from soft borders, intensity and class agree pixel by pixel.
        difference = (sample.image[0] * 10 - sample.target.clamp(min=0)).abs()
        assert (difference < 0.1).float().mean() > 0.85
        assert torch.equal(sample.image[0], sample.image[2])
        label = labels[volume].slice(0, sample.id.index)
        np.testing.assert_array_equal(sample.truth, label)
    assert samples[0].target.unique().tolist() == [0, 1, 3]
    assert samples[1].target.unique().tolist() == [-1, 0, 2]


def test_sample_scores_perfectly_against_its_own_truth():
    images, labels, table = scene()
    annotation = annotated_slices(labels, axis=0)
    for s in build_samples(images, labels, annotation, table, RULE, CANVAS):
        one_hot = torch.nn.functional.one_hot(s.target.clamp(min=0), len(table))
        restored = SliceLogits(
            planes=one_hot.permute(2, 0, 1),
            padded=tuple(s.target.shape),
            content=s.content,
            size=s.truth.shape,
        ).restore()
        mask = table.to_values(restored.argmax(0).numpy())
        for value in np.unique(s.truth):
            a, b = mask == value, s.truth == value
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.98


def test_every_axis_and_colour_make_the_same_image_as_segmenting():
    random = np.random.default_rng(0)
    array = random.integers(0, 100, (12, 20, 16, 3)).astype(np.uint8)
    image = volume_from_array(array, rgb=True, name="c")
    for axis in range(3):
        index = (slice(None),) * axis + (3,)
        labels = painted((12, 20, 16), (4, index))
        annotation = annotated_slices([labels])
        assert annotation.axis == axis
        table = class_table([labels], annotation)
        (sample,) = build_samples([image], [labels], annotation, table, RULE, CANVAS)
        seen = working_image(image, axis, 3, RULE.limits(image), CANVAS)
        assert torch.equal(sample.image, seen.image)
        assert sample.content == seen.content
        inside = seen.image[:, : seen.content[0], : seen.content[1]]
        expected = image.slice(axis, 3).mean((0, 1)) / 100
        np.testing.assert_allclose(inside.mean((1, 2)), expected, atol=0.02)


def test_percentiles_are_taken_of_each_volume_by_itself():
    images, labels, table = scene()
    images[1] = images[1].with_array(images[1].array * 1000)
    rule = IntensityRule(kind="percentiles", low=0, high=100)
    annotation = annotated_slices(labels, axis=0)
    samples = build_samples(images, labels, annotation, table, rule, CANVAS)
    assert all(s.image.max() == 1 for s in samples)


def test_mirrored_arrays_are_taken():
    images, labels, table = scene()
    images = [v.with_array(v.array[:, ::-1, ::-1]) for v in images]
    labels = [v.with_array(v.array[:, ::-1, ::-1]) for v in labels]
    annotation = annotated_slices(labels, axis=0)
    assert len(build_samples(images, labels, annotation, table, RULE, CANVAS)) == 3


class TestNeighbours:
    canvas = replace(CANVAS, neighbours=True)

    @pytest.fixture
    def volume(self):
        return volume_from_array(np.random.default_rng(0).uniform(0, 99, (6, 20, 16)))

    def seen(self, volume, axis, index, canvas):
        return working_image(volume, axis, index, RULE.limits(volume), canvas).image

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_the_channels_are_the_slices_below_at_and_above(self, volume, axis):
        last = volume.shape[axis] - 1
        for index in (0, 1, 3, last):
            image = self.seen(volume, axis, index, self.canvas)
            for channel, there in enumerate((index - 1, index, index + 1)):
                alone = self.seen(volume, axis, min(max(there, 0), last), CANVAS)
                assert torch.equal(image[channel], alone[0])

    def test_one_slice_alone_is_seen_three_times(self):
        flat = volume_from_array(np.random.default_rng(0).uniform(0, 99, (20, 16)))
        three, grey = (self.seen(flat, 0, 0, c) for c in (self.canvas, CANVAS))
        assert torch.equal(three, grey)

    def test_colours_are_refused(self):
        array = np.zeros((5, 20, 16, 3), np.uint8)
        colour = volume_from_array(array, rgb=True, name="stain")
        with pytest.raises(MedsagaError, match=r"stain is a colour image.*neighbours"):
            self.seen(colour, 0, 2, self.canvas)

    def test_samples_have_them_and_the_slice_s_own_target(self, volume):
        labels = painted((6, 20, 16), (4, np.s_[2, 3:9, 3:9]))
        annotation = annotated_slices([labels], axis=0)
        table = class_table([labels], annotation)
        rule = (annotation, table, RULE)
        (sample,) = build_samples([volume], [labels], *rule, self.canvas)
        (plain,) = build_samples([volume], [labels], *rule, CANVAS)
        assert torch.equal(sample.image, self.seen(volume, 0, 2, self.canvas))
        assert torch.equal(sample.image[1], plain.image[1])
        assert not torch.equal(sample.image[0], sample.image[1])
        assert torch.equal(sample.target, plain.target)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((0, 255), np.uint8),
        ((-1, 3), np.int16),
        ((0, 256), np.int16),
        ((0, 70_000), np.int32),
        ((0, 2**40), np.int64),
    ],
)
def test_slices_hold_the_smallest_type_and_not_all_of_the_labels(values, kind):
    whole = np.zeros((5, 8, 9), np.int64)
    whole[2, :4] = values[1]
    whole[2, 4] = values[0]
    found = smallest_integers(whole[2])
    np.testing.assert_array_equal(found, whole[2])
    assert found.dtype == kind
    assert found.base is None

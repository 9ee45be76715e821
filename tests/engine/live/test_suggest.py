"""What is painted segments the whole image, without a training."""

from __future__ import annotations

import numpy as np
import pytest
from tests.engine.live.test_live import dice, stroked
from tests.phantom import VALUES, keep_slices, make_phantom

from medsaga import MedsagaError, Stop, drain, suggest, volume_from_array
from medsaga.events import Notice, SegmentedSlice


@pytest.fixture(scope="module")
def phantom():
    image, labels = make_phantom(10, 96)
    return volume_from_array(image, spacing=(3, 1, 1)), labels


def test_painted_slices_segment_the_volume(phantom):
    image, truth = phantom
    events = []
    stream = suggest(image, keep_slices(truth, [2, 7]))
    while True:
        try:
            events.append(next(stream))
        except StopIteration as end:
            found = end.value
            break
    assert found.is_complete
    assert dice(found.mask.array, truth) > 0.85
    np.testing.assert_array_equal(found.mask.array[[2, 7]], truth[[2, 7]])
    slices = [event for event in events if isinstance(event, SegmentedSlice)]
    assert [event.index for event in slices] == list(range(10))
    assert all(event.total == 10 for event in slices)
    assert "2 of 10 slices" in next(e.message for e in events if isinstance(e, Notice))


def test_strokes_stay_as_they_are_painted(phantom):
    image, truth = phantom
    labels = np.zeros_like(truth)
    values, known = stroked(truth[4])
    labels[4] = np.where(known & (values == 0), 255, values)
    found = drain(suggest(image, labels, background_value=255)).mask.array
    np.testing.assert_array_equal(found[4][known], truth[4][known])
    assert set(np.unique(found)) <= {0, *VALUES}
    assert dice(found[3:6], truth[3:6]) > 0.5


def test_an_empty_slice_does_not_forbid_what_strokes_show(phantom):
    image, truth = phantom
    labels = np.zeros_like(truth)
    values, known = stroked(truth[4])
    labels[4] = np.where(known & (values == 0), 255, values)
    empty = image.with_array(
        np.where(np.arange(10)[:, None, None] == 9, 100, image.array)
    )
    found = drain(suggest(empty, labels, empty_slices=[9], background_value=255))
    assert dice(found.mask.array[3:6], truth[3:6]) > 0.5
    assert not found.mask.array[9].any()


def test_a_class_of_strokes_alone_is_found_beside_carried_ones(phantom):
    image, truth = phantom
    labels = keep_slices(np.where(truth == VALUES[2], 0, truth), [2, 7])
    labels[4][truth[4] == VALUES[2]] = VALUES[2]
    labels[4][::6][truth[4][::6] == 0] = 255
    labels[2][labels[2] == 0] = labels[7][labels[7] == 0] = 255
    labels[2][truth[2] == VALUES[2]] = labels[7][truth[7] == VALUES[2]] = 0
    found = drain(suggest(image, labels, background_value=255)).mask.array
    assert dice(found[[3, 5]], truth[[3, 5]], [VALUES[2]]) > 0.5


def test_a_2d_image_is_segmented_by_strokes(phantom):
    image, truth = phantom
    values, known = stroked(truth[4])
    labels = np.where(known & (values == 0), 255, values).astype(np.uint8)
    found = drain(suggest(image.array[4], labels, background_value=255))
    assert dice(found.mask.array[0], truth[4]) > 0.5


def test_a_stop_keeps_what_there_is(phantom):
    image, truth = phantom
    stream = suggest(image, keep_slices(truth, [4]))
    for event in stream:
        if isinstance(event, SegmentedSlice) and event.index == 2:
            break
    with pytest.raises(StopIteration) as end:
        stream.throw(Stop)
    assert end.value.value.n_carried == 3
    assert not end.value.value.is_complete


def test_nothing_painted_is_refused(phantom):
    image, truth = phantom
    with pytest.raises(MedsagaError, match="No slice is labelled"):
        drain(suggest(image, np.zeros_like(truth)))

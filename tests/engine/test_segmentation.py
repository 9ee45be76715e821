from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from tests.phantom import VALUES, make_phantom

from medsaga import drain, fine_tune, segment
from medsaga.data.intensity import IntensityRule
from medsaga.data.volume import Volume
from medsaga.events import SegmentedSlice, Stop
from medsaga.model_folder import save_model
from medsaga.settings import SegmentSettings


@pytest.fixture(scope="module")
def model():
    from medsaga.settings import FineTuneSettings

    array, labels = make_phantom()
    labels[2:] = 0
    settings = replace(
        FineTuneSettings(),
        backbone="tiny",
        steps=2,
        head_views=4,
        head_steps=80,
        batch_size=1,
        long_side=64,
        rank=8,
        precision="fp32",
    )
    return drain(fine_tune(array, labels, settings))


def test_the_mask_lies_where_the_image_lies(model, image):
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    placed = replace(image, affine=affine, source=object())
    result = drain(segment(model, placed))
    assert result.mask.affine is affine
    assert result.mask.source is placed.source
    assert result.mask.spacing == placed.spacing
    assert result.mask.array.dtype == np.uint8
    assert set(np.unique(result.mask.array)) <= {0, *VALUES}
    assert result.is_complete


def test_every_slice_is_streamed_and_is_what_is_returned(model, image):
    events = []
    result = drain(segment(model, image), events.append)
    assert [e.index for e in events] == list(range(12))
    assert all(isinstance(e, SegmentedSlice) and e.total == 12 for e in events)
    stacked = np.stack([e.mask for e in events])
    np.testing.assert_array_equal(stacked, result.mask.array)


def test_a_stop_keeps_the_slices_that_are_done(model, image):
    stream = segment(model, image)
    for _ in range(5):
        next(stream)
    with pytest.raises(StopIteration) as end:
        stream.throw(Stop())
    result = end.value.value
    assert result.n_segmented == 5
    assert not result.is_complete
    whole = drain(segment(model, image)).mask.array
    np.testing.assert_array_equal(result.mask.array[:5], whole[:5])
    assert not result.mask.array[5:].any()


def test_probabilities_and_entropy(model, image):
    settings = SegmentSettings(probabilities=True, entropy=True)
    result = drain(segment(model, image, settings))
    probabilities = result.probabilities.astype(np.float32)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=5e-3)
    values = model.card.classes.to_values(probabilities.argmax(0))
    assert (values == result.mask.array).mean() > 0.99
    entropy = result.entropy.array
    assert entropy.min() >= 0
    assert entropy.max() <= 1 + 1e-5
    sure = probabilities.max(0) > 0.99
    assert entropy[sure].mean() < entropy[~sure].mean()
    plain = drain(segment(model, image))
    assert plain.probabilities is None
    assert plain.entropy is None


def test_from_a_folder_it_gives_the_same(model, image, tmp_path):
    folder = save_model(model, tmp_path / "model")
    reread = drain(segment(folder, image)).mask.array
    direct = drain(segment(model, image)).mask.array
    assert (reread == direct).mean() > 0.995  # fp16 weights


def test_other_sizes_than_the_trained_one(model):
    array = np.random.default_rng(0).normal(100, 20, (2, 57, 91)).astype(np.float32)
    assert drain(segment(model, array)).mask.shape == (2, 57, 91)


def _peak_beyond_output(model, n_slices: int) -> int:
    volume = Volume(array=np.ones((n_slices, 64, 64), np.uint8))
    tracemalloc.start()
    result = drain(segment(model, volume))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - result.mask.array.nbytes


def test_memory_does_not_grow_with_the_slices(model):
    # Percentiles look at up to a million pixels; a window looks at none.
    window = IntensityRule(kind="window", low=0.0, high=255.0)
    model = replace(model, card=replace(model.card, intensity=window))
    few, many = (_peak_beyond_output(model, n) for n in (4, 64))
    slices_kept = (many - few) / (64 * 64)
    assert slices_kept < 30  # of the 60 that there are more

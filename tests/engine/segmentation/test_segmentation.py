from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import count

import dask.array
import numpy as np
import pytest
import torch
from tests.phantom import VALUES, make_phantom

from medsaga import TrainingData, drain, fine_tune, segment
from medsaga.computing import evaluating
from medsaga.data.intensity import IntensityRule
from medsaga.data.samples import working_image
from medsaga.data.volume import Volume
from medsaga.errors import MedsagaError
from medsaga.events import Notice, SegmentedSlice, Stop, VotedSlice
from medsaga.models.folder import save_model
from medsaga.network import inference
from medsaga.network.inference import predict_image
from medsaga.segmentation.cleaning import clean_mask
from medsaga.settings.segment import SegmentSettings


@pytest.fixture(scope="module")
def model():
    from medsaga.settings.fine_tune import FineTuneSettings

    array, labels = make_phantom()
    labels[2:] = 0
    settings = replace(
        FineTuneSettings(),
        backbone="tiny",
        steps=2,
        head_views=4,
        head_steps=40,
        batch_size=1,
        long_side=64,
        rank=8,
        precision="fp32",
    )
    trained = drain(fine_tune(TrainingData(array, labels), settings))
    return replace(trained, samples=())  # it knows of no paint


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


@pytest.mark.parametrize("where", ["_logits", "resize"])
@pytest.mark.parametrize("smooth", ["on", "off"])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_where_memory_runs_out_the_slice_is_looked_at_again(
    model, image, where, smooth, error, monkeypatch
):
    settings = SegmentSettings(smooth=smooth, paint=False)
    unbroken = drain(segment(model, image, settings)).mask.array
    work, calls = getattr(inference, where), count(1)

    def fail_once(*given):
        if next(calls) == 3:
            raise error
        return work(*given)

    monkeypatch.setattr(inference, where, fail_once)
    events = []
    found = drain(segment(model, image, settings), events.append)
    np.testing.assert_array_equal(found.mask.array, unbroken)
    told = [e.message for e in events if isinstance(e, Notice)]
    assert sum("The memory ran out" in message for message in told) == 1


def test_labels_that_are_not_to_be_carried_are_refused(model, image):
    with pytest.raises(MedsagaError, match="paint is off"):
        drain(segment(model, image, SegmentSettings(paint=False), labels=image))


def test_where_it_runs_out_again_that_is_said(model, image, monkeypatch):
    def fail(*given):
        raise MemoryError

    monkeypatch.setattr(inference, "_logits", fail)
    with pytest.raises(MedsagaError, match="The memory is not enough"):
        drain(segment(model, image))


CLEANED = SegmentSettings(largest_component=True, fill_holes=True)


def test_the_finished_mask_is_cleaned_and_the_rest_is_as_before(model, image):
    raw = drain(segment(model, image, SegmentSettings(probabilities=True)))
    wanted = replace(CLEANED, probabilities=True)
    events = []
    result = drain(segment(model, image, wanted), events.append)
    stacked = np.stack([e.mask for e in events])
    np.testing.assert_array_equal(stacked, raw.mask.array)
    np.testing.assert_array_equal(result.probabilities, raw.probabilities)
    expected = clean_mask(raw.mask.array, VALUES, CLEANED)
    assert (expected != raw.mask.array).any()
    np.testing.assert_array_equal(result.mask.array, expected)


@pytest.mark.parametrize("n_before", [5, 12])
def test_what_was_stopped_is_not_cleaned_but_what_was_just_finished_is(
    model, image, n_before
):
    raw = drain(segment(model, image)).mask.array
    result = stop_after(segment(model, image, CLEANED), n_before)
    expected = clean_mask(raw, VALUES, CLEANED) if n_before == 12 else raw
    assert (clean_mask(raw[:5], VALUES, CLEANED) != raw[:5]).any()
    np.testing.assert_array_equal(result.mask.array[:n_before], expected[:n_before])


def stop_after(stream, n_events: int):
    for _ in range(n_events):
        next(stream)
    with pytest.raises(StopIteration) as end:
        stream.throw(Stop())
    return end.value.value


VOTED = SegmentSettings(three_planes=True)


@pytest.fixture(scope="module")
def small() -> Volume:
    """A volume whose axes differ in length, of nothing that the model knows."""
    array = np.random.default_rng(0).normal(110, 60, (7, 12, 9))
    return Volume(array=array, spacing=(3.0, 1.0, 1.0), name="small")


@pytest.fixture(scope="module")
def runs(model, small) -> list[np.ndarray]:
    """Probabilities (k, z, y, x) along each of the axes, each in a run of its own."""
    limits = model.card.intensity.limits(small)
    found = []
    with evaluating(model.network):
        for axis in range(3):
            slices = [
                torch.softmax(
                    predict_image(
                        model.network,
                        working_image(small, axis, index, limits, model.card.canvas),
                        "fp32",
                    ),
                    0,
                )
                for index in range(small.shape[axis])
            ]
            found.append(torch.stack(slices, dim=axis + 1).numpy())
    return found


def check_mean(result, runs, card) -> None:
    """The mask is the argmax of the mean, but where half precision cannot tell."""
    mean = np.mean(runs, axis=0)
    expected = card.classes.to_values(mean.argmax(0))
    first, second = np.sort(mean, axis=0)[:-3:-1]
    clear = first - second > 5e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(result.mask.array[clear], expected[clear])


def test_three_planes_give_the_mean_of_three_runs(model, small, runs):
    wanted = SegmentSettings(three_planes=True, probabilities=True, entropy=True)
    result = drain(segment(model, small, wanted))
    assert result.is_complete
    assert (result.n_segmented, result.n_slices) == (28, 28)
    check_mean(result, runs, model.card)
    mean = np.mean(runs, axis=0)
    np.testing.assert_allclose(result.probabilities, mean, atol=2e-3)
    entropy = torch.special.entr(torch.from_numpy(mean)).sum(0) / np.log(4)
    np.testing.assert_allclose(result.entropy.array, entropy, atol=1e-2)
    plain = drain(segment(model, small)).mask.array
    assert (result.mask.array != plain).any()
    lean = drain(segment(model, small, VOTED))
    np.testing.assert_array_equal(lean.mask.array, result.mask.array)
    assert lean.probabilities is None
    assert lean.entropy is None


def test_the_events_count_all_planes_and_show_the_model_s_own(model, small):
    events = []
    drain(segment(model, small, VOTED), events.append)
    assert [type(e) for e in events] == [SegmentedSlice] * 7 + [VotedSlice] * 21
    assert [(e.done, e.total) for e in events] == [(i, 28) for i in range(1, 29)]
    places = [(axis, i) for axis, n in enumerate((7, 12, 9)) for i in range(n)]
    assert [(e.axis, e.index) for e in events] == places
    plain = drain(segment(model, small)).mask.array
    np.testing.assert_array_equal(np.stack([e.mask for e in events[:7]]), plain)


@pytest.mark.parametrize(("n_before", "n_planes"), [(7, 1), (18, 1), (19, 2), (27, 2)])
def test_stopped_in_a_later_plane_those_before_it_decide(
    model, small, runs, n_before, n_planes
):
    wanted = SegmentSettings(three_planes=True, probabilities=True, fill_holes=True)
    result = stop_after(segment(model, small, wanted), n_before)
    assert not result.is_complete
    assert result.n_segmented == n_before
    check_mean(result, runs[:n_planes], model.card)
    assert (result.probabilities is None) == (n_before > 7)


@pytest.mark.parametrize("axis", [None, 1])
def test_a_lazy_volume_is_not_computed_anew_for_each_slice_across_it(
    model, small, axis
):
    """Where three planes vote, and where the model's own axis is across the stack."""
    computed, settings = [], VOTED if axis is None else SegmentSettings()
    if axis is not None:
        model = replace(model, card=replace(model.card, axis=axis))

    def load(block):
        computed.append(None)
        return block

    meta = np.array((), small.array.dtype)
    lazy = dask.array.from_array(small.array, chunks=(1, 12, 9), name=False)
    lazy = dask.array.map_blocks(load, lazy, meta=meta)
    result = drain(segment(model, small.with_array(lazy), settings))
    assert len(computed) <= 2 * 7  # for the percentiles, and for all the planes
    expected = drain(segment(model, small, settings)).mask.array
    np.testing.assert_array_equal(result.mask.array, expected)


@pytest.mark.parametrize("own", [1, 2])
def test_the_model_s_own_plane_comes_first(model, small, runs, own):
    model = replace(model, card=replace(model.card, axis=own))
    events = []
    result = drain(segment(model, small, VOTED), events.append)
    n = small.shape[own]
    assert [e.axis for e in events[: n + 1]] == [own] * n + [0]
    check_mean(result, runs, model.card)


@pytest.mark.parametrize("shape", [(30, 20), (1, 30, 20)])
def test_a_single_slice_has_one_plane(model, shape):
    array = np.random.default_rng(0).normal(110, 60, shape)
    result = drain(segment(model, array, VOTED))
    assert result.n_slices == 1
    plain = drain(segment(model, array)).mask.array
    np.testing.assert_array_equal(result.mask.array, plain)


@pytest.mark.parametrize(
    ("trained_in", "capability", "expected"),
    [
        ("bf16", "AVX512", "bf16"),
        ("fp32", "AVX512", "fp32"),
        ("bf16", "AVX2", "fp32"),  # which would take ten times as long
    ],
)
def test_a_model_segments_in_the_format_that_its_card_names(
    model, trained_in, capability, expected, monkeypatch
):
    """A measurement gives now one, now the other, on a computer that has other work."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = {**model.card.settings, "precision": trained_in}
    measured = {**model.card.measured, "device": "cpu"}
    card = replace(model.card, settings=settings, measured=measured)
    used = []
    hook = model.network.register_forward_hook(
        lambda *_: used.append("bf16" if torch.is_autocast_enabled("cpu") else "fp32")
    )
    with hook:
        drain(segment(replace(model, card=card), make_phantom()[0][:2]))
    assert set(used) == {expected}

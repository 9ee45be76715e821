"""A training as a whole: slices in, a model out, whatever happens meanwhile."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from tests.engine.training.conftest import stop_when, weights_equal
from tests.phantom import VALUES, keep_slices, make_phantom, train

from medsaga import TrainingData, drain, fine_tune, segment
from medsaga.computing import allocates_leanly, pick_device
from medsaga.data.volume import Volume
from medsaga.errors import MedsagaError
from medsaga.events import Notice, Preview, Progress, Stop, Validated
from medsaga.training.optim.layerwise import LayerwiseOptimizer
from medsaga.training.optim.losses import SegmentationLoss


def _dice(mask, truth):
    scores = []
    for value in VALUES:
        p, t = mask == value, truth == value
        scores.append(2 * (p & t).sum() / (p.sum() + t.sum()))
    return np.mean(scores)


def test_learns_the_phantom_and_keeps_its_label_values(image, labels, phantom, quick):
    settings = replace(quick, steps=30, head_steps=200, head_views=12)
    model, _ = train(image, labels, settings)
    mask = drain(segment(model, image)).mask
    unseen = [0, 2, 3, 5, 6, 8, 9, 11]
    assert set(np.unique(mask.array)) == {0, *VALUES}
    assert _dice(mask.array[unseen], phantom[1][unseen]) > 0.8


def test_the_steps_lowers_the_loss(image, labels, quick):
    settings = replace(quick, stages="galore", steps=40, encoder_lr=1e-3)
    _, events = train(image, labels, settings)
    losses = [e.loss for e in events if isinstance(e, Progress)]
    assert len(losses) == 40
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


def test_a_rank_that_projects_nothing_is_refused_before_anything_is_trained(
    image, labels, quick
):
    events = []
    with pytest.raises(MedsagaError, match="rank 4096"):
        drain(
            fine_tune(TrainingData(image, labels), replace(quick, rank=4096)),
            events.append,
        )
    assert not any(isinstance(event, Progress) for event in events)


def test_events_come_in_order_and_count_up(unbroken):
    _, events = unbroken
    stages = [e.stage for e in events if isinstance(e, Progress)]
    first = stages[: -stages[::-1].index("galore")]  # the head is then fitted anew
    assert first == sorted(first, key=["features", "head", "galore"].index)
    assert set(stages[len(first) :]) == {"features", "head", "left out"}
    galore = [e for e in events if isinstance(e, Progress) and e.stage == "galore"]
    assert [e.step for e in galore] == [1, 2, 3, 4, 5, 6]
    assert {e.total for e in galore} == {6}
    assert galore[0].peak_memory > 0
    preview = next(e for e in events if isinstance(e, Preview))
    assert events.index(preview) < events.index(galore[0])
    assert preview.mask.shape == (40, 40)
    assert preview.slice_index not in (1, 4, 7, 10)
    notices = [e.message for e in events if isinstance(e, Notice)]
    assert any("4 of 12 slices are annotated" in message for message in notices)
    assert isinstance(events[-1], Validated)


def test_few_slices_are_scored_on_themselves_and_it_is_said(unbroken):
    model, events = unbroken
    scores = [e for e in events if isinstance(e, Validated)]
    assert {e.measured_on for e in scores} == {"training slices"}
    assert model.card.metrics["measured_on"] == "training slices"
    assert model.card.held_out_slices == ()


def test_from_the_number_of_slices_upwards_some_are_held_out(image, phantom, quick):
    labels = Volume(array=phantom[1], spacing=image.spacing)
    settings = replace(quick, average_weights=False, hold_out_from=12)
    model, events = train(image, labels, settings)
    held_out = set(model.card.held_out_slices)
    training = set(model.card.training_slices)
    assert len(held_out) == 2
    assert len(training) == 10
    assert not held_out & training
    scores = [e for e in events if isinstance(e, Validated)]
    assert {e.measured_on for e in scores} == {"held-out slices"}
    # the best of all validated weights is what is kept
    assert scores[-1].mean_dice == pytest.approx(max(e.mean_dice for e in scores))
    every, _ = train(image, labels, replace(settings, hold_out_from=13))
    assert every.card.held_out_slices == ()


def test_a_class_on_a_single_one_of_many_slices_is_scored(image, phantom, quick):
    array = phantom[1].copy()
    rare = VALUES[-1]
    shown = [i for i in (1, 4, 7, 10) if (array[i] == rare).any()]
    elsewhere = np.arange(len(array)) != shown[0]
    array[elsewhere] = np.where(array[elsewhere] == rare, 0, array[elsewhere])
    array[:, 0, 0] = VALUES[0]  # all twelve slices are annotated
    labels = Volume(array=array, spacing=image.spacing)
    model, events = train(image, labels, quick)
    assert len(model.card.training_slices) == 12
    scores = [e for e in events if isinstance(e, Validated)]
    assert all(rare in e.dice for e in scores)


@pytest.mark.usefixtures("on_cpu")
def test_neither_the_callers_random_numbers_nor_threads_are_touched(
    image, labels, quick, unbroken
):
    torch.manual_seed(5)
    expected = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    model, _ = train(image, labels, quick)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert weights_equal(model, unbroken[0])  # which began with other numbers


@pytest.mark.parametrize("stage", ["head preview", "galore"])
def test_a_stop_keeps_a_model_that_can_be_used(image, labels, quick, stage):
    settings = replace(quick, steps=500)

    def reached(event):
        if stage == "galore":
            return isinstance(event, Progress) and event.stage == stage
        return isinstance(event, Preview) and event.stage == "head"

    model = stop_when(fine_tune(TrainingData(image, labels), settings), reached)
    mask = drain(segment(model, image)).mask.array
    assert set(np.unique(mask)) <= {0, *VALUES}
    assert model.card.metrics["dice"]
    assert all(torch.isfinite(p).all() for p in model.network.parameters())


def test_a_stop_before_anything_was_learned_gives_nothing(image, labels, quick):
    assert (
        stop_when(fine_tune(TrainingData(image, labels), quick), lambda _: True) is None
    )
    in_head = fine_tune(TrainingData(image, labels), quick)
    assert stop_when(in_head, lambda e: isinstance(e, Progress)) is None


def test_what_was_no_model_before_is_not_said_to_be_kept(image, phantom, quick):
    """Stopped before the held-out slices were looked at, without a head stage."""
    labels = Volume(array=phantom[1], spacing=image.spacing)
    settings = replace(quick, stages="galore", detail_head=False, steps=500)
    events, stream = [], fine_tune(TrainingData(image, labels), settings)
    for event in stream:
        events.append(event)
        if isinstance(event, Progress):
            events.append(stream.throw(Stop()))
    said = [event.message for event in events if isinstance(event, Notice)]
    assert said
    assert not any("began with is kept" in message for message in said)


def test_a_stop_at_the_last_event_still_gives_the_model(image, labels, quick):
    stream = fine_tune(TrainingData(image, labels), quick)
    model = stop_when(
        stream, lambda e: isinstance(e, Validated) and e.step == quick.steps
    )
    assert model is not None


def test_the_head_stage_alone_and_the_paper_model_run(image, labels, quick):
    head, events = train(image, labels, replace(quick, stages="head"))
    assert head.network.detail_head is not None
    assert not [e for e in events if isinstance(e, Progress) and e.stage == "galore"]
    paper, _ = train(image, labels, replace(quick, stages="galore", detail_head=False))
    assert paper.network.detail_head is None
    assert not paper.card.detail_head


def test_the_card_says_what_galore_projected(unbroken):
    measured = unbroken[0].card.measured
    assert 0 < measured["projected_share"] < 1
    assert measured["optimizer_state_bytes"] > 0
    assert measured["peak_memory"] > 0


def test_an_empty_slice_that_was_asked_for_trains_too(image, labels, quick):
    model, _ = train(image, labels, quick, slices=[1, 4, 5])
    assert [one.index for one in model.card.training_slices] == [1, 4, 5]


def test_several_images_of_different_sizes_train_together(quick):
    images, masks = [], []
    for size in (32, 40):
        array, label = make_phantom(4, size)
        images.append(array)
        masks.append(keep_slices(label, [1]))
    model, _ = train(images, masks, quick)
    assert len(model.card.training_slices) == 2


def test_two_dimensional_and_colour_images_train(phantom, quick):
    grey = phantom[0][3].clip(0, 255).astype(np.uint8)
    model, _ = train(grey, phantom[1][3], quick)
    assert drain(segment(model, grey)).mask.array.shape == (1, 40, 40)
    colour = np.stack([grey, grey // 2, 255 - grey], axis=-1)
    model, _ = train(colour, phantom[1][3], quick)
    assert drain(segment(model, colour)).mask.shape == (1, 40, 40)


def test_a_class_on_another_axis_is_found_along_it(image, phantom, quick):
    array = np.zeros_like(phantom[1])
    array[:, :, 12] = phantom[1][:, :, 12]
    model, _ = train(image, Volume(array=array, spacing=image.spacing), quick)
    assert model.card.axis == 2
    assert drain(segment(model, image)).mask.shape == image.shape


def test_names_and_colours_reach_the_card(image, labels, quick):
    model, _ = train(
        image, labels, quick, class_names={5: "liver"}, class_colours={5: "#ff0000"}
    )
    table = model.card.classes
    assert table.values == (0, *VALUES)
    assert table.names[table.values.index(5)] == "liver"
    assert table.colours[table.values.index(5)] == "#ff0000"


def test_bad_input_is_refused_at_once(image, labels, quick):
    empty = labels.with_array(np.zeros_like(labels.array))
    small = labels.with_array(labels.array[:, :30])
    for wrong in (empty, small):
        with pytest.raises(MedsagaError, match=r"\.$"):
            next(fine_tune(TrainingData(image, wrong), quick))
    with pytest.raises(MedsagaError, match=r"backbone|file"):
        train(image, labels, replace(quick, backbone="vit_x"))
    with pytest.raises(MedsagaError, match="rank"):
        train(image, labels, replace(quick, rank=4096))


def test_a_loss_is_reported_as_nan_only_where_there_is_none(unbroken):
    losses = [e.loss for e in unbroken[1] if isinstance(e, Progress)]
    assert math.isnan(losses[0])
    assert not math.isnan(losses[-1])


class TestOutOfMemory:
    @pytest.fixture
    def fails_at(self, monkeypatch):
        """Make the GaLore stage fail at a step, so many times."""
        rates, steps = LayerwiseOptimizer.set_lr_factor, count(1)

        def install(step: int, error: Exception, times: int = 100) -> None:
            def fail(optimizer, factor):
                if step <= next(steps) < step + times:
                    raise error
                rates(optimizer, factor)

            monkeypatch.setattr(LayerwiseOptimizer, "set_lr_factor", fail)

        return install

    def test_what_was_learned_is_kept(self, image, labels, quick, fails_at):
        fails_at(4, RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
        model, events = train(image, labels, quick)
        assert model.card.metrics["step"] == 3
        assert not model.network.training
        told = [e.message for e in events if isinstance(e, Notice)]
        assert any("memory ran out" in m and "smaller batch" in m for m in told)

    @pytest.mark.usefixtures("on_cpu")
    @pytest.mark.parametrize("step", [1, 3])
    def test_the_step_is_taken_again_with_less(
        self, image, labels, quick, unbroken, fails_at, step
    ):
        fails_at(step, RuntimeError("CUDA out of memory"), times=1)
        model, events = train(image, labels, quick)
        told = [e.message for e in events if isinstance(e, Notice)]
        assert any(f"ran out at step {step}, which" in message for message in told)
        assert model.card.settings["checkpointing"] == "on"
        assert model.card.metrics["step"] == quick.steps
        # Blocks that are computed twice change no result.
        assert weights_equal(model, unbroken[0])

    def test_then_with_fewer_slices(self, image, labels, quick, fails_at):
        fails_at(3, MemoryError(), times=2 + allocates_leanly(pick_device()))
        settings = replace(quick, batch_size=4)
        model, events = train(image, labels, settings)
        told = [e.message for e in events if isinstance(e, Notice)]
        assert any("each has 2 slices" in message for message in told)
        lean = any("as soon as it is free" in message for message in told)
        assert lean == allocates_leanly(pick_device())
        assert model.card.settings["batch_size"] == 2
        assert model.card.metrics["step"] == quick.steps

    @pytest.mark.usefixtures("on_cpu")
    @pytest.mark.parametrize(
        ("place", "what"),
        [
            ("steps.validate", "the validation"),
            ("head_stage.features_at", "the features"),
            ("pixel_fit.PixelFit.step", "the head's fit"),
            ("paint_context.left_out_fits.LeftOutFits.step", "what is left out"),
            ("paint_context.left_out._predict", "what is left out"),
        ],
    )
    def test_other_work_is_done_again(
        self, image, labels, quick, unbroken, monkeypatch, place, what
    ):
        errors = [RuntimeError("CUDA out of memory")]
        path = f"medsaga.training.{place}"
        work = resolve_name(path)

        def fail_once(*given):
            if errors:
                raise errors.pop()
            return work(*given)

        monkeypatch.setattr(path, fail_once)
        model, events = train(image, labels, quick)
        told = [e.message for e in events if isinstance(e, Notice)]
        assert any(f"The memory ran out in {what}, which" in one for one in told)
        is_lean = model.card.settings["lean"] == "on"
        assert is_lean == allocates_leanly(pick_device())
        assert weights_equal(model, unbroken[0])
        assert model.card.metrics == unbroken[0].card.metrics

    def test_before_anything_is_learned_it_is_said(
        self, image, labels, quick, fails_at
    ):
        fails_at(1, MemoryError())
        with pytest.raises(MedsagaError, match="memory ran out: choose a smaller"):
            train(image, labels, replace(quick, stages="galore"))

    def test_where_it_cannot_even_be_scored_it_is_kept_too(
        self, image, labels, quick, monkeypatch
    ):
        def fail(setup, network, step):
            raise RuntimeError("CUDA out of memory")

        for module in ("steps", "course"):
            monkeypatch.setattr(f"medsaga.training.{module}.validate", fail)
        model, _ = train(image, labels, quick)
        assert model.card.metrics["dice"] == {}
        assert not model.network.training

    def test_a_model_that_does_not_fit_is_told(self, image, labels, quick, monkeypatch):
        def fail(request, ranks):
            raise MemoryError
            yield

        monkeypatch.setattr("medsaga.training.fine_tune.set_up", fail)
        with pytest.raises(MedsagaError, match="memory ran out"):
            train(image, labels, quick)

    def test_another_error_is_no_lack_of_memory(self, image, labels, quick, fails_at):
        fails_at(1, RuntimeError("shapes do not match"))
        with pytest.raises(RuntimeError, match="shapes"):
            train(image, labels, replace(quick, stages="galore"))


class TestALossThatIsNotFinite:
    @pytest.fixture
    def spoil(self, monkeypatch):
        """Let the network's logits be infinite in some steps, counted from 1."""

        def spoil(*steps):
            n_seen = count(1)
            forward = SegmentationLoss.forward

            def spoiled(self, logits, targets):
                factor = math.inf if next(n_seen) in steps else 1.0
                return forward(self, logits * factor, targets)

            monkeypatch.setattr(SegmentationLoss, "forward", spoiled)

        return spoil

    def test_it_is_said_and_its_step_undone(self, image, labels, quick, spoil):
        settings = replace(quick, stages="galore", steps=6, refit_head=False)
        spoil(3)
        model, events = train(image, labels, settings)
        said = [e.message for e in events if isinstance(e, Notice)]
        (sentence,) = (m for m in said if "not finite" in m)
        assert sentence.startswith("The loss of step 3 is not finite")
        losses = [e.loss for e in events if isinstance(e, Progress)]
        assert [math.isfinite(loss) for loss in losses] == [n != 3 for n in range(1, 7)]
        weights = model.network.state_dict()
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())

    def test_one_that_goes_on_ends_the_training_with_the_best(
        self, image, labels, quick, spoil
    ):
        spoil(*range(4, 100))
        model, events = train(image, labels, replace(quick, steps=20))
        said = [e.message for e in events if isinstance(e, Notice)]
        assert any("3 steps in a row" in sentence for sentence in said)
        steps = [e for e in events if isinstance(e, Progress) and e.stage == "galore"]
        assert len(steps) == 5
        weights = model.network.state_dict()
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())

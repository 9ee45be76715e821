from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import count, groupby
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.phantom import VALUES, keep_slices, make_phantom, train
from torch.nn.utils import parameters_to_vector

from medsaga import TrainingData, drain, events, fine_tune, segment
from medsaga.data.augment import Augmenter
from medsaga.data.volume import Volume
from medsaga.errors import MedsagaError
from medsaga.events import Notice, Preview, Progress, Stop, Validated
from medsaga.network.detail_head import PixelFit
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training import head_stage, outcome, running_time, session, validation
from medsaga.training import steps as galore_stage
from medsaga.training.optim.averaging import WeightAverage
from medsaga.training.plan import head as head_plan
from medsaga.training.plan.steps import planned_steps


def _weights_equal(first, second) -> bool:
    a, b = first.network.state_dict(), second.network.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def _stage(event) -> str:
    return getattr(event, "stage", "")


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


def test_the_galore_stage_lowers_the_loss(image, labels, quick):
    settings = replace(quick, stages="galore", steps=40, encoder_lr=1e-3)
    _, events = train(image, labels, settings)
    losses = [e.loss for e in events if isinstance(e, Progress)]
    assert len(losses) == 40
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("stage", ["features", "head"])
def test_a_slow_head_stage_gives_an_early_look_that_changes_nothing(
    image, labels, quick, monkeypatch, stage
):
    settings = replace(quick, stages="head", head_views=12)
    plain, _ = train(image, labels, settings)
    _look_early(monkeypatch, stage)
    looked, events = train(image, labels, settings)
    kinds = [type(event) for event in events]
    in_stage = [
        i
        for i, event in enumerate(events)
        if isinstance(event, Progress) and event.stage == stage
    ]
    assert min(in_stage) < kinds.index(Preview) < max(in_stage)
    assert kinds.count(Preview) == 2
    assert _weights_equal(plain, looked)


def test_a_head_stopped_late_in_its_fit_keeps_it(image, labels, quick, monkeypatch):
    """And not what the first look gave, long before."""
    _look_early(monkeypatch, "features")
    settings = replace(quick, stages="head", head_views=12, head_steps=500)
    whole, _ = train(image, labels, settings)

    def has_fitted_long(event) -> bool:
        return (
            _stage(event) == "head"
            and isinstance(event, Progress)
            and (event.step >= 480)
        )

    stopped = _stop_when(
        fine_tune(TrainingData(image, labels), settings), has_fitted_long
    )

    def looked(event) -> bool:
        return isinstance(event, Preview)

    early = _stop_when(fine_tune(TrainingData(image, labels), settings), looked)
    ends = [
        parameters_to_vector(model.network.detail_head.parameters())
        for model in (whole, stopped, early)
    ]
    assert (ends[1] - ends[0]).norm() < 0.3 * (ends[2] - ends[0]).norm()


def test_a_head_that_has_minutes_is_shown_meanwhile(image, labels, quick, monkeypatch):
    _look_early(monkeypatch, "head")
    settings = replace(
        quick, stages="head", steps=0, minutes=1.0, head_views=6, head_steps=400
    )
    _, shown = train(image, labels, settings, preview_interval=0.0)
    _, plain = train(image, labels, settings, preview_interval=1000.0)
    n_shown, n_plain = (
        sum(isinstance(event, Preview) for event in events) for events in (shown, plain)
    )
    assert n_plain <= 2
    assert n_shown > 3


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ([("ct [3]", 3), ("ct [5]", 5)], True),
        ([("ct [3]", 3), ("other [3]", 3)], False),
        ([("photo", 0), ("photo 2", 0)], False),
    ],
)
def test_slices_of_one_image_are_told_by_their_names(slices, expected):
    """Those kept with a model train on too, and may be of other images."""
    training = [SimpleNamespace(name=n, slice_index=i) for n, i in slices]
    one_image = [object()]
    begun = SimpleNamespace(training=training, images=one_image)
    assert head_plan.is_of_one_image(begun) == expected


def test_what_is_planned_stays_within_the_bounds_of_its_setting(monkeypatch):
    monkeypatch.setattr(head_plan, "_time_fit_step", lambda session: 1e-9)
    monkeypatch.setattr(head_plan, "_time_view", lambda session: 1e-9)
    training = [SimpleNamespace(name=f"{i}", slice_index=0) for i in range(10_000)]
    settings = FineTuneSettings(strategy="decoder", head_views=50_000)
    begun = SimpleNamespace(training=training, settings=settings, seconds_left=120)
    planned = {
        "head_steps": head_plan._affordable_fit_steps(begun),
        "head_views": head_plan._affordable_views(begun),
    }
    replace(settings, **planned)  # it checks them


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


class TestOutOfMemory:
    @pytest.fixture
    def fails_at(self, monkeypatch):
        """Make the GaLore stage fail at a step."""
        rates = galore_stage.LayerwiseOptimizer.set_lr_factor
        steps = count(1)

        def install(step: int, error: Exception) -> None:
            def fail(optimizer, factor):
                if next(steps) == step:
                    raise error
                rates(optimizer, factor)

            monkeypatch.setattr(galore_stage.LayerwiseOptimizer, "set_lr_factor", fail)

        return install

    def test_what_was_learned_is_kept(self, image, labels, quick, fails_at):
        fails_at(4, RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
        model, events = train(image, labels, quick)
        assert model.card.metrics["step"] == 3
        assert not model.network.training
        told = [e.message for e in events if isinstance(e, Notice)]
        assert any("memory ran out" in m and "smaller batch" in m for m in told)

    def test_before_anything_is_learned_it_is_said(
        self, image, labels, quick, fails_at
    ):
        fails_at(1, MemoryError())
        with pytest.raises(MedsagaError, match="memory ran out: choose a smaller"):
            train(image, labels, replace(quick, stages="galore"))

    def test_where_it_cannot_even_be_scored_it_is_kept_too(
        self, image, labels, quick, monkeypatch
    ):
        def fail(session, step):
            raise RuntimeError("CUDA out of memory")

        for module in ("steps", "fine_tune"):
            monkeypatch.setattr(f"medsaga.training.{module}.validate", fail)
        model, _ = train(image, labels, quick)
        assert model.card.metrics["dice"] == {}
        assert not model.network.training

    def test_a_model_that_does_not_fit_is_told(self, image, labels, quick, monkeypatch):
        def fail(job):
            raise MemoryError
            yield

        monkeypatch.setattr("medsaga.training.fine_tune.begin", fail)
        with pytest.raises(MedsagaError, match="memory ran out"):
            train(image, labels, quick)

    def test_another_error_is_no_lack_of_memory(self, image, labels, quick, fails_at):
        fails_at(2, RuntimeError("shapes do not match"))
        with pytest.raises(RuntimeError, match="shapes"):
            train(image, labels, quick)


def _look_early(monkeypatch, stage):
    monkeypatch.setattr(head_stage, "_NEARLY_DONE_SECONDS", -1.0)
    monkeypatch.setattr(head_stage, "_LOOK_STEPS", 50)
    monkeypatch.setattr(head_stage, "_FEWEST_LOOK_STEPS", 25)
    late = math.inf
    monkeypatch.setattr(head_stage, "_LOOK_AT", 0.0 if stage == "features" else late)
    monkeypatch.setattr(head_stage, "_LOOK_AT_FIT", 0.0 if stage == "head" else late)


def test_the_early_look_ends_its_fit_in_time(image, labels, quick, monkeypatch):
    _look_early(monkeypatch, "features")
    monkeypatch.setattr(head_stage, "_LOOK_STEPS", 1000)
    monkeypatch.setattr(head_stage, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(head_stage, "_FEWEST_LOOK_STEPS", 30)
    _, events = train(image, labels, replace(quick, stages="head", head_views=12))
    reached = [e.step for e in events if isinstance(e, Progress)]
    assert reached[3:7] == [4, 4, 4, 5]  # the view itself, steps 0 and 20 of the fit


def test_stopped_after_the_early_look_the_model_is_usable(
    image, labels, quick, monkeypatch
):
    _look_early(monkeypatch, "features")
    stream = fine_tune(TrainingData(image, labels), replace(quick, head_views=12))
    model = _stop_when(stream, lambda event: isinstance(event, Preview))
    assert drain(segment(model, image)).mask.array.any()


def test_a_head_trained_alone_leaves_time_for_the_start_of_its_fit_and_its_score(
    image, labels, quick, monkeypatch
):
    monkeypatch.setattr(head_plan, "_time_view", lambda session: 1.0)
    monkeypatch.setattr(head_plan, "_time_fit_step", lambda session: 0.1)
    settings = replace(quick, stages="head", steps=0, head_steps=0, minutes=1)
    model, _ = train(image, labels, settings)
    n_slices, n_steps = len(model.samples), model.card.settings["head_steps"]
    assert 300 < n_steps <= (60 - n_slices) / 0.1

    start_fit = head_stage.start_fit

    def start_late(session, *sampled):
        session.time._started -= 20
        return start_fit(session, *sampled)

    monkeypatch.setattr(head_stage, "start_fit", start_late)
    model, _ = train(image, labels, settings)
    n_steps = model.card.settings["head_steps"]
    assert 200 < n_steps <= (60 - 20 - n_slices) / 0.1


class TestFitOfTheHead:
    """Slices of one image are fitted closely, those of several people are not."""

    @pytest.fixture
    def fits(self, monkeypatch):
        """Parameters after each step of the fit, and those that are written."""
        steps, written = [], []
        step, write = PixelFit.step, PixelFit.write_to

        def note_step(fit):
            loss = step(fit)
            steps.append(parameters_to_vector(fit.layers.parameters()).detach())
            return loss

        def note_write(fit, head):
            written.append(parameters_to_vector(fit.layers.parameters()).detach())
            return write(fit, head)

        monkeypatch.setattr(PixelFit, "step", note_step)
        monkeypatch.setattr(PixelFit, "write_to", note_write)
        return steps, written

    @pytest.fixture
    def settings(self, quick):
        return replace(quick, stages="head", head_steps=20)

    def test_of_one_image_the_mean_of_the_later_half_is_kept(
        self, image, labels, settings, fits
    ):
        train(image, labels, settings)
        steps, written = fits
        expected = torch.stack(steps[10:20]).mean(0)
        torch.testing.assert_close(written[-1], expected)
        assert not torch.allclose(written[-1], steps[19])

    def test_of_several_the_last_step_is_kept(self, image, labels, settings, fits):
        train([image, image], [labels, labels], settings)
        steps, written = fits
        assert torch.equal(written[-1], steps[19])

    def test_the_plan_speaks_of_the_head_alone(self, image, labels, settings):
        _, events = train(image, labels, replace(settings, steps=0, minutes=0.05))
        said = [e.message for e in events if isinstance(e, Notice)]
        assert any("the head alone, 0.05 minutes" in message for message in said)

    @pytest.fixture
    def planned(self, monkeypatch):
        """Steps that fits were planned to take, each of which is cut short."""
        planned, fit = [], head_stage._fit

        def note_plan(session, pixels, part=1.0):
            planned.append(session.settings.head_steps)
            session.plan(head_steps=5)
            return fit(session, pixels, part)

        monkeypatch.setattr(head_stage, "_fit", note_plan)
        return planned

    def test_one_image_is_given_twice_the_steps(
        self, image, labels, quick, planned, monkeypatch
    ):
        monkeypatch.setattr(head_plan, "_time_fit_step", lambda session: 0.02)
        settings = replace(quick, steps=1, head_steps=0, minutes=2, refit_head=False)
        train(image, labels, settings)
        train([image, image], [labels, labels], settings)
        assert planned == [1200, 600]

    def test_the_first_step_is_not_timed(
        self, image, labels, quick, planned, monkeypatch
    ):
        """A GPU's first step takes long, and 200 steps were planned where 1200 fit."""
        calls, step = count(), PixelFit.step

        def step_slowly_at_first(fit):
            if next(calls) == 0:
                time.sleep(2.0)
            return step(fit)

        monkeypatch.setattr(PixelFit, "step", step_slowly_at_first)
        settings = replace(quick, steps=1, head_steps=0, minutes=1, refit_head=False)
        train(image, labels, settings)
        assert planned[0] > 200


@pytest.mark.usefixtures("on_cpu")
class TestRefit:
    """The head is fitted anew to the encoder as the GaLore stage has left it."""

    @pytest.fixture
    def settings(self, quick):
        return replace(quick, head_views=30, head_steps=100)

    @pytest.fixture
    def unfitted(self, image, labels, settings):
        """The model as the refit finds it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(galore_stage, "refit_head", lambda session: iter(()))
            return train(image, labels, settings)[0]

    def test_the_first_fit_takes_a_third(self, image, labels, settings):
        _, events = train(image, labels, settings)
        progress = [e for e in events if isinstance(e, Progress)]
        runs = [(stage, list(run)) for stage, run in groupby(progress, _stage)]
        assert [(stage, run[-1].step, run[-1].total) for stage, run in runs] == [
            *(("features", 10, 10), ("head", 34, 34), ("galore", 6, 6)),
            *(("features", 30, 30), ("head", 100, 100)),
        ]

    def test_the_time_left_counts_it(self, image, labels, settings):
        def left_at_the_last_step(refits: bool) -> float:
            _, events = train(image, labels, replace(settings, refit_head=refits))
            steps = [e for e in events if isinstance(e, Progress)]
            return [e.seconds_left for e in steps if e.stage == "galore"][-1]

        assert left_at_the_last_step(True) > 0
        assert left_at_the_last_step(False) == 0

    def test_the_first_fit_sees_each_slice(self, image, labels, settings):
        _, events = train(image, labels, replace(settings, head_views=6))
        totals = [e.total for e in events if isinstance(e, Progress)]
        assert totals[0] == 4

    def test_the_head_alone_is_another(self, image, labels, settings, unfitted):
        refitted, _ = train(image, labels, settings)
        before, after = unfitted.network.state_dict(), refitted.network.state_dict()
        changed = {n for n in before if not torch.equal(before[n], after[n])}
        assert any(name.startswith("detail_head.") for name in changed)
        assert not any(name.startswith("backbone.") for name in changed)

    def test_it_makes_up_for_an_encoder_that_ran_away(
        self, image, labels, settings, monkeypatch
    ):
        monkeypatch.setattr(outcome, "_VIEWS_TOLERANCE", 1.0)  # nothing is sent back
        wild = replace(settings, encoder_lr=0.02, decoder_lr=1e-6, head_lr=1e-6)
        refitted, _ = train(image, labels, wild)
        plain, _ = train(image, labels, replace(wild, refit_head=False))
        reached, lost = (
            np.mean(list(model.card.metrics["dice"].values()))
            for model in (refitted, plain)
        )
        assert reached > lost + 0.02

    def test_stopped_meanwhile_the_steps_are_kept(
        self, image, labels, settings, unfitted
    ):
        seen = []

        def is_refitting(event) -> bool:
            seen.append(_stage(event))
            return seen[-1] == "features" and "galore" in seen

        model = _stop_when(
            fine_tune(TrainingData(image, labels), settings), is_refitting
        )
        assert _weights_equal(model, unfitted)

    def test_its_time_is_taken_off_the_steps(self, image, labels, quick, monkeypatch):
        left = []

        def plan(settings, seconds_left, *more):
            left.append(seconds_left)
            return planned_steps(settings, seconds_left, *more)

        monkeypatch.setattr(galore_stage, "planned_steps", plan)
        monkeypatch.setattr(galore_stage, "plan_refit", lambda session: 1000.0)
        train(image, labels, replace(quick, steps=0, minutes=0.1, head_steps=20))
        assert len(left) == 1
        assert left[0] < 0.1 * 60 - 1000

    def test_where_no_head_stage_was_it_is_planned(self, image, labels, quick):
        settings = replace(quick, head_views=0, head_steps=0, minutes=0.05)
        trained, _ = train(image, labels, settings)
        model, _ = train(image, labels, settings, start=trained)
        assert model.card.settings["head_views"] >= 4
        assert model.card.settings["head_steps"] >= 200

    def test_slices_of_one_image_need_fewer_views(self, image, labels, settings):
        planned = replace(settings, head_views=0, minutes=10)
        one, _ = train(image, labels, planned)
        two, _ = train([image, image], [labels, labels], planned)
        views = [model.card.settings["head_views"] for model in (one, two)]
        assert views == [20, 60]

    def test_a_frozen_encoder_asks_for_none(self, image, labels, settings):
        frozen = replace(settings, strategy="decoder")
        first, _ = train(image, labels, frozen)
        second, _ = train(image, labels, replace(frozen, refit_head=False))
        assert _weights_equal(first, second)


def test_events_come_in_order_and_count_up(image, labels, quick):
    _, events = train(image, labels, quick)
    stages = [e.stage for e in events if isinstance(e, Progress)]
    first = stages[: -stages[::-1].index("galore")]  # the head is then fitted anew
    assert first == sorted(first, key=["features", "head", "galore"].index)
    assert set(stages[len(first) :]) == {"features", "head"}
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


def test_few_slices_are_scored_on_themselves_and_it_is_said(image, labels, quick):
    model, events = train(image, labels, quick)
    scores = [e for e in events if isinstance(e, Validated)]
    assert {e.measured_on for e in scores} == {"training slices"}
    assert model.card.metrics["measured_on"] == "training slices"
    assert model.card.held_out_slices == []


def test_from_the_number_of_slices_upwards_some_are_held_out(image, phantom, quick):
    labels = Volume(array=phantom[1], spacing=image.spacing)
    settings = replace(quick, early_stop=0, average_weights=False, hold_out_from=12)
    model, events = train(image, labels, settings)
    held_out = {tuple(s) for s in model.card.held_out_slices}
    training = {tuple(s) for s in model.card.training_slices}
    assert len(held_out) == 2
    assert len(training) == 10
    assert not held_out & training
    scores = [e for e in events if isinstance(e, Validated)]
    assert {e.measured_on for e in scores} == {"held-out slices"}
    # the best of all validated weights is what is kept
    assert scores[-1].mean_dice == pytest.approx(max(e.mean_dice for e in scores))
    every, _ = train(image, labels, replace(settings, hold_out_from=13))
    assert every.card.held_out_slices == []


@pytest.mark.parametrize(
    ("dice", "is_kept", "is_told"),
    [
        ((0.5, 0.9, 0.85), True, False),
        ((0.5, 0.9, 0.7), False, False),
        ((0.86, 0.9, 0.85), False, False),
        ((0.9, 0.8, 0.7), False, True),
        ((0.9, 0.88, 0.89), False, True),
    ],
)
def test_the_average_is_kept_unless_others_are_clearly_better_on_held_out_slices(
    image, phantom, quick, monkeypatch, dice, is_kept, is_told
):
    """Where it is worse than the start, it is never kept."""
    labels = Volume(array=phantom[1], spacing=image.spacing)
    averages, found = [], iter(dice)

    class Average(WeightAverage):
        def __init__(self, network):
            super().__init__(network)
            averages.append(self)

    def judge(session, step):
        return Validated(
            step=step,
            dice={1: next(found)},
            hd95={},
            measured_on="held-out slices",
        )

    monkeypatch.setattr(galore_stage, "WeightAverage", Average)
    for module in (galore_stage, outcome):
        monkeypatch.setattr(module, "validate", judge)
    settings = replace(
        quick, steps=12, hold_out_from=8, validations=1, refit_head=False
    )
    model, events = train(image, labels, settings)
    (average,) = averages
    assert average.n_updates
    pairs = zip(model.network.parameters(), average._mean, strict=True)
    assert all(torch.equal(kept, mean) for kept, mean in pairs) == is_kept
    told = [e for e in events if isinstance(e, Notice) and "made Dice" in e.message]
    assert bool(told) == is_told


@pytest.mark.parametrize(
    ("after", "on_views", "is_kept", "said"),
    [
        (0.9, 0.85, True, None),
        (0.9, 0.79, True, None),
        (0.75, 0.85, True, "themselves went from 0.900 to 0.750"),
        (0.95, 0.7, False, "made Dice on altered views of the training slices worse"),
        (0.9, math.nan, True, None),
    ],
)
def test_a_head_alone_fitted_anew_is_compared_with_the_model_before(
    image, labels, quick, monkeypatch, after, on_views, is_kept, said
):
    """On views that never trained: the training slices' own pixels tell little."""
    settings = replace(quick, stages="head")
    model, _ = train(image, labels, settings)
    before = [p.clone() for p in model.network.detail_head.parameters()]
    dice = iter((0.9, after))

    def judge(session, step):
        return Validated(
            step=step, dice={1: next(dice)}, hd95={}, measured_on="training slices"
        )

    for module in (head_stage, outcome):
        monkeypatch.setattr(module, "validate", judge)
    dice_on_views = iter((0.8, on_views))
    monkeypatch.setattr(outcome, "dice_on_views", lambda session: next(dice_on_views))
    again, events = train(image, labels, replace(settings, seed=1), start=model)
    same = [
        torch.equal(a, b)
        for a, b in zip(before, again.network.detail_head.parameters(), strict=True)
    ]
    assert all(same) != is_kept
    told = [e.message for e in events if isinstance(e, Notice)]
    assert [m for m in told if "went from" in m or "made Dice" in m] == [
        m for m in told if said is not None and said in m
    ]
    assert said is None or any(said in message for message in told)
    assert again.card.metrics["dice"] == {"1": after if is_kept else 0.9}


@pytest.mark.parametrize(("hold_out_from", "n_compared"), [(30, 2), (4, 0)])
def test_start_and_end_are_compared_on_views_that_never_train(
    image, phantom, quick, monkeypatch, hold_out_from, n_compared
):
    """Unless slices are held out, which tell more."""
    labels = Volume(array=phantom[1], spacing=image.spacing)
    drawn: list[int] = []
    compared: list[tuple[float, list[int]]] = []
    view = Augmenter.__call__

    def note(self, image, labels, index, content=None):
        drawn.append(index)
        return view(self, image, labels, index, content)

    def judge(session):
        n_trained_on = len(drawn)
        dice = validation.dice_on_views(session)
        compared.append((dice, drawn[n_trained_on:]))
        del drawn[n_trained_on:]
        return dice

    monkeypatch.setattr(Augmenter, "__call__", note)
    monkeypatch.setattr(outcome, "dice_on_views", judge)
    train(image, labels, replace(quick, steps=30, hold_out_from=hold_out_from))
    assert len(compared) == n_compared
    if compared:
        (at_start, first), (at_end, last) = compared
        assert first == last
        assert len(set(first)) == 8
        assert drawn
        assert not {*first} & {*drawn}
        assert at_end > at_start


def test_an_encoder_that_ran_away_is_sent_back(image, labels, quick):
    wild = replace(quick, steps=20, encoder_lr=0.05, refit_head=False)
    _, events = train(image, labels, wild)
    told = [e.message for e in events if isinstance(e, Notice)]
    assert any("made Dice on altered views" in message for message in told)
    start, *_, end = [e.mean_dice for e in events if isinstance(e, Validated)]
    assert start == end


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


@pytest.mark.parametrize(("seconds", "n_on_the_way"), [(0.0, 5), (2.6, 2), (30, 1)])
def test_measuring_takes_a_small_part_of_the_time(
    image, labels, quick, monkeypatch, seconds, n_on_the_way
):
    skipped: list[float] = []
    counted: list[int] = []
    real = time.monotonic

    def judge(session, step):
        skipped.append(seconds)
        counted.append(step)
        return Validated(step=step, dice={1: 0.5}, hd95={}, measured_on="held-out")

    monkeypatch.setattr(time, "monotonic", lambda: real() + sum(skipped))
    for module in (galore_stage, outcome):
        monkeypatch.setattr(module, "validate", judge)
    train(image, labels, replace(quick, steps=30, minutes=2.0))
    start, *on_the_way, end = counted
    assert (start, end) == (0, 30)
    assert len(on_the_way) == n_on_the_way


@pytest.mark.usefixtures("on_cpu")
def test_the_cards_settings_repeat_the_training_exactly(image, labels, quick):
    planned = replace(quick, minutes=0.05, steps=0, head_views=0)
    first, _ = train(image, labels, planned)
    assert first.card.settings["steps"] > 0
    assert first.card.settings["head_views"] > 0
    assert first.card.settings["validations"] > 0
    recorded = FineTuneSettings(**first.card.settings)
    second, _ = train(image, labels, recorded)
    assert _weights_equal(first, second)
    other, _ = train(image, labels, replace(recorded, seed=1))
    assert not _weights_equal(first, other)


def test_the_steps_are_planned_from_those_of_the_whole_warm_up(image, labels, quick):
    settings = replace(quick, minutes=0.1, steps=0, warmup_steps=9)
    _, events = train(image, labels, settings)
    steps = [e for e in events if isinstance(e, Progress) and e.stage == "galore"]
    assert [e.step for e in steps if not e.total] == [*range(1, 9)]
    assert len({e.total for e in steps if e.total}) == 1


@pytest.mark.usefixtures("on_cpu")
def test_few_steps_that_are_planned_late_repeat_too(image, labels, quick, monkeypatch):
    """A slow computer knows its last steps when it has taken most of them."""
    planned = replace(quick, steps=0, warmup_steps=10, refit_head=False, minutes=1.0)
    monkeypatch.setattr(galore_stage, "planned_steps", lambda *given: 11)
    first, _ = train(image, labels, planned)
    assert first.card.settings["steps"] == 11
    second, _ = train(image, labels, FineTuneSettings(**first.card.settings))
    assert _weights_equal(first, second)


@pytest.mark.usefixtures("on_cpu")
def test_a_plan_without_warm_up_has_none_and_repeats(image, labels, quick):
    planned = replace(quick, minutes=0.05, steps=0, head_views=0, warmup_steps=0)
    first, events = train(image, labels, planned)
    steps = [e for e in events if isinstance(e, Progress) and e.stage == "galore"]
    assert {e.learning_rate for e in steps[:4]} == {planned.encoder_lr}
    recorded = FineTuneSettings(**first.card.settings)
    assert recorded.warmup_steps == 0
    second, _ = train(image, labels, recorded)
    assert _weights_equal(first, second)


@pytest.mark.usefixtures("on_cpu")
def test_neither_the_callers_random_numbers_nor_threads_are_touched(
    image, labels, quick
):
    torch.manual_seed(5)
    expected = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    first, _ = train(image, labels, quick)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    torch.manual_seed(99)
    second, _ = train(image, labels, quick)
    assert _weights_equal(first, second)


def test_a_pause_takes_nothing_from_the_minutes(image, labels, quick, monkeypatch):
    paused = [0.0]

    def monotonic() -> float:
        return time.perf_counter() + paused[0]

    clock = SimpleNamespace(monotonic=monotonic)
    timed = (events, running_time, head_plan, head_stage, galore_stage, session)
    for module in timed:
        monkeypatch.setattr(module, "time", clock)

    n_steps = 0
    for event in fine_tune(
        TrainingData(image, labels), replace(quick, steps=0, minutes=0.3)
    ):
        paused[0] += 100.0
        n_steps += isinstance(event, Progress) and event.stage == "galore"
    assert n_steps > 20  # of 45 on a computer with nothing else to do


def test_running_time_hands_stop_and_close_on(monkeypatch):
    now, ended = [0.0], []
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(running_time, "time", clock)
    monkeypatch.setattr(events, "time", clock)

    def stream():
        try:
            for _ in range(3):
                now[0] += 1
                yield Notice(message="on it")
        except Stop:
            now[0] += 1
            yield Notice(message="in order")
        finally:
            ended.append(now[0])
        return "done"

    timed = running_time.RunningTime()
    running = timed.of(stream())
    next(running)
    now[0] += 100
    assert running.throw(Stop()).message == "in order"
    now[0] += 100
    with pytest.raises(StopIteration) as end:
        next(running)
    assert (end.value.value, timed.seconds, ended) == ("done", 2, [202])
    closed = running_time.RunningTime().of(stream())
    next(closed)
    closed.close()
    assert len(ended) == 2


def test_a_fast_computer_does_not_plan_more_fit_steps_than_a_setting_holds(
    image, labels, quick, monkeypatch
):
    FineTuneSettings(head_steps=head_plan._MOST_FIT_STEPS)
    monkeypatch.setattr(head_plan, "_time_fit_step", lambda _: 1e-7)
    monkeypatch.setattr(head_plan, "_MOST_FIT_STEPS", 250)
    settings = replace(quick, stages="head", steps=0, head_steps=0, minutes=2.0)
    model, _ = train(image, labels, settings)
    assert model.card.settings["head_steps"] == 250


def _stop_when(stream, condition):
    """Throw Stop into a stream at the first event that fits; return its result."""
    try:
        event = next(stream)
        while not condition(event):
            event = next(stream)
        stream.throw(Stop())
        while True:
            next(stream)
    except StopIteration as end:
        return end.value


@pytest.mark.parametrize("stage", ["head preview", "galore"])
def test_a_stop_keeps_a_model_that_can_be_used(image, labels, quick, stage):
    settings = replace(quick, steps=500)

    def reached(event):
        if stage == "galore":
            return isinstance(event, Progress) and event.stage == stage
        return isinstance(event, Preview)

    model = _stop_when(fine_tune(TrainingData(image, labels), settings), reached)
    mask = drain(segment(model, image)).mask.array
    assert set(np.unique(mask)) <= {0, *VALUES}
    assert model.card.metrics["dice"]
    assert all(torch.isfinite(p).all() for p in model.network.parameters())


def test_a_stop_before_anything_was_learned_gives_nothing(image, labels, quick):
    assert (
        _stop_when(fine_tune(TrainingData(image, labels), quick), lambda _: True)
        is None
    )
    in_head = fine_tune(TrainingData(image, labels), quick)
    assert _stop_when(in_head, lambda e: isinstance(e, Progress)) is None


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
    model = _stop_when(
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


def test_the_card_says_what_galore_projected(image, labels, quick):
    model, _ = train(image, labels, quick)
    measured = model.card.measured
    assert 0 < measured["projected_share"] < 1
    assert measured["optimizer_state_bytes"] > 0
    assert measured["peak_memory"] > 0


def test_an_empty_slice_that_was_asked_for_trains_too(image, labels, quick):
    model, _ = train(image, labels, quick, slices=[1, 4, 5])
    assert [s for _, s in model.card.training_slices] == [1, 4, 5]


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


def test_a_loss_is_reported_as_nan_only_where_there_is_none(image, labels, quick):
    _, events = train(image, labels, quick)
    losses = [e.loss for e in events if isinstance(e, Progress)]
    assert math.isnan(losses[0])
    assert not math.isnan(losses[-1])

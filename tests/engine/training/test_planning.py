"""What is planned from minutes: it fills them, and can be repeated exactly."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace

import pytest
from tests.engine.training.conftest import begin, weights_equal
from tests.phantom import train

from medsaga import FineTuneSettings, TrainingData, fine_tune
from medsaga.events import Notice, Progress, Stop, Validated
from medsaga.network.detail_head import DetailHead
from medsaga.training import head_stage, outcome, steps
from medsaga.training.paint_context.left_out_fits import LeftOutFits
from medsaga.training.pixel_fit import PixelFit
from medsaga.training.plan.head import plan_fit, plan_views
from medsaga.training.plan.running_time import RunningTime
from medsaga.training.plan.steps import planned_steps
from medsaga.training.state import Pace


@pytest.mark.usefixtures("on_cpu")
def test_the_cards_settings_repeat_the_training_exactly(image, labels, quick):
    planned = replace(quick, minutes=0.05, steps=0, head_views=0, validations=0)
    first, _ = train(image, labels, planned)
    assert first.card.settings["steps"] > 0
    assert first.card.settings["head_views"] > 0
    assert first.card.settings["validations"] > 0
    recorded = FineTuneSettings(**first.card.settings)
    second, _ = train(image, labels, recorded)
    assert weights_equal(first, second)
    other, _ = train(image, labels, replace(recorded, seed=1))
    assert not weights_equal(first, other)


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
    monkeypatch.setattr(steps, "planned_steps", lambda *given: 11)
    first, _ = train(image, labels, planned)
    assert first.card.settings["steps"] == 11
    second, _ = train(image, labels, FineTuneSettings(**first.card.settings))
    assert weights_equal(first, second)


@pytest.mark.usefixtures("on_cpu")
def test_a_plan_without_warm_up_has_none_and_repeats(image, labels, quick):
    planned = replace(quick, minutes=0.05, steps=0, head_views=0, warmup_steps=0)
    first, events = train(image, labels, planned)
    steps = [e for e in events if isinstance(e, Progress) and e.stage == "galore"]
    assert {e.learning_rate for e in steps[:4]} == {planned.encoder_lr}
    recorded = FineTuneSettings(**first.card.settings)
    assert recorded.warmup_steps == 0
    second, _ = train(image, labels, recorded)
    assert weights_equal(first, second)


def test_a_pause_takes_nothing_from_the_minutes(image, labels, quick, clock):
    n_steps = 0
    data = TrainingData(image, labels)
    for event in fine_tune(data, replace(quick, steps=0, minutes=0.3)):
        clock.now += 100.0
        n_steps += isinstance(event, Progress) and event.stage == "galore"
    assert n_steps == 45  # what a fast computer takes in so many minutes


def test_running_time_hands_stop_and_close_on(clock):
    ended = []

    def stream():
        try:
            for _ in range(3):
                clock.now += 1
                yield Notice(message="on it")
        except Stop:
            clock.now += 1
            yield Notice(message="in order")
        finally:
            ended.append(clock.now)
        return "done"

    timed = RunningTime()
    running = timed.of(stream())
    next(running)
    clock.now += 100
    assert running.throw(Stop()).message == "in order"
    clock.now += 100
    with pytest.raises(StopIteration) as end:
        next(running)
    assert end.value.value == "done"
    assert timed.seconds == pytest.approx(2, abs=1e-3)
    assert ended == [pytest.approx(202, abs=1e-3)]
    timed.add(50)
    assert timed.seconds == pytest.approx(52, abs=1e-3)
    closed = RunningTime().of(stream())
    next(closed)
    closed.close()
    assert len(ended) == 2


@pytest.mark.parametrize(("seconds", "n_on_the_way"), [(0.0, 5), (2.6, 2), (30, 1)])
def test_measuring_takes_a_small_part_of_the_time(
    image, labels, quick, monkeypatch, clock, seconds, n_on_the_way
):
    counted: list[int] = []

    def judge(setup, network, step):
        clock.now += seconds
        counted.append(step)
        return Validated(step=step, dice={1: 0.5}, hd95={}, measured_on="held-out")

    for module in (steps, outcome):
        monkeypatch.setattr(module, "validate", judge)
    train(image, labels, replace(quick, steps=30, minutes=2.0, validations=0))
    start, *on_the_way, end = counted
    assert (start, end) == (0, 30)
    assert len(on_the_way) == n_on_the_way


@pytest.mark.parametrize("standardising", [0.0, 20.0])
def test_a_head_trained_alone_keeps_to_its_minutes(
    image, labels, quick, clock, standardising
):
    """With the start of its fit, which takes long on many pixels, and its score."""
    clock.slow_down(DetailHead, "features", 1.0)
    clock.slow_down(PixelFit, "step", 0.1)
    clock.slow_down(LeftOutFits, "step", 0.16)
    clock.slow_down(head_stage, "start_fit", standardising)
    settings = replace(quick, stages="head", steps=0, head_steps=0, minutes=1.5)
    model, _ = train(image, labels, settings)
    assert model.card.settings["head_steps"] >= 200
    assert 75 <= clock.now <= 93  # with a last preview


def test_a_fast_computer_plans_no_more_than_a_setting_holds(image, labels, quick):
    setup, state, _ = begin(image, labels, replace(quick, head_views=0, head_steps=0))
    state.pace = Pace(seconds_per_view=1e-9, seconds_per_fit_step=1e-9)
    frozen = replace(setup.settings, strategy="decoder", minutes=10_000.0)
    many = replace(setup, settings=frozen, training=10_000 * list(setup.training))
    plan_views(many, state)
    plan_fit(many, state)
    replace(frozen, **asdict(state.plan))  # it checks them
    assert state.plan.head_views > 10_000


def planned_fit(image, labels, settings) -> int:
    """Give the steps of the head's fit that are planned, without taking them all."""
    with closing(fine_tune(TrainingData(image, labels), settings)) as stream:
        steps = (e for e in stream if isinstance(e, Progress) and e.stage == "head")
        return next(steps).total


class TestTheHead:
    """Slices of one image are fitted closely, those of several people are not."""

    @pytest.fixture
    def settings(self, quick):
        return replace(quick, steps=1, head_steps=0, minutes=2, refit_head=False)

    def test_one_image_is_given_twice_the_steps(
        self, image, other_image, labels, settings, clock
    ):
        clock.slow_down(PixelFit, "step", 0.019)
        assert planned_fit(image, labels, settings) == 1200
        assert planned_fit([image, other_image], [labels, labels], settings) == 600

    def test_the_first_step_is_not_timed(
        self, image, labels, settings, clock, monkeypatch
    ):
        """A GPU's first step takes long, and 200 steps were planned where 1200 fit."""
        calls, step = [], PixelFit.step

        def step_slowly_at_first(fit):
            clock.now += 0.0 if calls else 2.0
            calls.append(fit)
            return step(fit)

        monkeypatch.setattr(PixelFit, "step", step_slowly_at_first)
        assert planned_fit(image, labels, settings) == 1200

    def test_slices_of_one_image_need_fewer_views(
        self, image, other_image, labels, quick
    ):
        settings = replace(quick, head_views=0, head_steps=20, minutes=10)
        one, _ = train(image, labels, settings)
        two, _ = train([image, other_image], [labels, labels], settings)
        views = [model.card.settings["head_views"] for model in (one, two)]
        assert views == [20, 60]

    def test_alone_the_plan_speaks_of_it(self, image, labels, quick):
        settings = replace(quick, stages="head", steps=0, minutes=0.05, head_steps=20)
        _, events = train(image, labels, settings)
        said = [e.message for e in events if isinstance(e, Notice)]
        assert any("the head alone, 0.05 minutes" in message for message in said)

    def test_where_no_head_stage_was_its_last_fit_is_planned(
        self, image, labels, quick, unbroken
    ):
        settings = replace(quick, head_views=0, head_steps=0, minutes=0.05)
        model, _ = train(image, labels, settings, start=unbroken[0])
        assert model.card.settings["head_views"] >= 4
        assert model.card.settings["head_steps"] >= 200

    def test_the_time_of_its_last_fit_is_taken_off_the_steps(
        self, image, labels, quick, monkeypatch
    ):
        left = []

        def plan(settings, seconds_left, *more):
            left.append(seconds_left)
            return planned_steps(settings, seconds_left, *more)

        monkeypatch.setattr(steps, "planned_steps", plan)
        monkeypatch.setattr(steps, "plan_refit", lambda setup, state: 1000.0)
        train(image, labels, replace(quick, steps=0, minutes=0.1, head_steps=20))
        assert len(left) == 1
        assert left[0] < 0.1 * 60 - 1000

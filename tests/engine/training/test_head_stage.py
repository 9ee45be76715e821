"""The head stage: its early looks, its fits, and the fit after the GaLore stage."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import count, groupby

import numpy as np
import pytest
import torch
from tests.engine.training.conftest import begin, stop_when, weights_equal
from tests.phantom import train
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from medsaga import TrainingData, drain, fine_tune, segment
from medsaga.events import Notice, Preview, Progress
from medsaga.network.detail_head import DetailHead
from medsaga.training import steps
from medsaga.training.head_stage import run_head_stage
from medsaga.training.pixel_fit import PixelFit
from medsaga.training.resuming.state_writer import StateWriter
from medsaga.training.steps import run_galore_stage


def stage_of(event) -> str:
    return getattr(event, "stage", "")


@pytest.fixture
def slow_views(clock):
    """A computer whose head stage takes long for the features of its views."""
    clock.slow_down(DetailHead, "features", 1.0)
    clock.slow_down(PixelFit, "step", 0.01)


@pytest.fixture
def slow_fit(clock):
    """A computer whose head stage takes long for its fit."""
    clock.slow_down(PixelFit, "step", 0.3)


@pytest.fixture
def settings(quick):
    return replace(quick, stages="head", head_views=12)


def is_look(event) -> bool:
    """Whether it shows what a model makes of a slice."""
    return isinstance(event, Preview) and event.stage != "paint"


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("stage", ["features", "head"])
def test_a_slow_head_stage_gives_an_early_look_that_changes_nothing(
    image, labels, settings, request, stage
):
    settings = replace(settings, head_steps=60)
    plain, _ = train(image, labels, settings)
    request.getfixturevalue({"features": "slow_views", "head": "slow_fit"}[stage])
    looked, events = train(image, labels, settings)
    looks = [i for i, event in enumerate(events) if is_look(event)]
    in_stage = [
        i
        for i, event in enumerate(events)
        if isinstance(event, Progress) and event.stage == stage
    ]
    assert min(in_stage) < looks[0] < max(in_stage)
    assert len(looks) == 3  # that one, the fit, and what is kept
    assert weights_equal(plain, looked)


@pytest.mark.parametrize(("seconds", "n_told"), [(0.05, 3), (0.01, 8), (1e-5, 15)])
def test_the_early_look_ends_its_fit_in_time(
    image, labels, settings, clock, seconds, n_told
):
    """After 51, 150 and 300 steps, of which each twentieth repeats where it is."""
    clock.slow_down(DetailHead, "features", 1.0)
    clock.slow_down(PixelFit, "step", seconds)
    _, events = train(image, labels, settings)
    views = [e.step for e in events if stage_of(e) == "features" and e.total == 12]
    ((_, n_times),) = Counter(views).most_common(1)
    assert n_times == 1 + n_told


@pytest.mark.usefixtures("slow_views")
def test_stopped_after_the_early_look_the_model_is_usable(image, labels, quick):
    stream = fine_tune(TrainingData(image, labels), replace(quick, head_views=30))
    model = stop_when(stream, is_look)
    assert drain(segment(model, image)).mask.array.any()


@pytest.mark.usefixtures("slow_views")
def test_a_head_stopped_late_in_its_fit_keeps_it(image, labels, settings):
    """And not what the first look gave, long before."""
    settings = replace(settings, head_steps=500)
    whole, _ = train(image, labels, settings)

    def has_fitted_long(event) -> bool:
        is_step = isinstance(event, Progress) and event.stage == "head"
        return is_step and event.step >= 480

    stopped, early = (
        stop_when(fine_tune(TrainingData(image, labels), settings), condition)
        for condition in (has_fitted_long, is_look)
    )
    ends = [
        parameters_to_vector(model.network.detail_head.parameters())
        for model in (whole, stopped, early)
    ]
    assert (ends[1] - ends[0]).norm() < 0.3 * (ends[2] - ends[0]).norm()


def test_a_head_that_has_minutes_is_shown_meanwhile(image, labels, quick, clock):
    clock.slow_down(PixelFit, "step", 0.05)
    settings = replace(
        quick, stages="head", steps=0, minutes=1.0, head_views=6, head_steps=400
    )
    n_shown, n_plain = (
        sum(
            is_look(event)
            for event in train(
                image, labels, settings, preview={"preview_interval": interval}
            )[1]
        )
        for interval in (0.0, 1000.0)
    )
    assert n_plain <= 3
    assert n_shown > 4


class TestTheMeanOfTheFit:
    """Of one image's slices the later half's weights are averaged."""

    @pytest.fixture
    def fits(self, monkeypatch):
        """Parameters after each step of the fit, and those that are written."""
        taken, written = [], []
        step, write = PixelFit.step, PixelFit.write_to

        def note_step(fit):
            loss = step(fit)
            taken.append(parameters_to_vector(fit.layers.parameters()).detach())
            return loss

        def note_write(fit, head):
            written.append(parameters_to_vector(fit.layers.parameters()).detach())
            return write(fit, head)

        monkeypatch.setattr(PixelFit, "step", note_step)
        monkeypatch.setattr(PixelFit, "write_to", note_write)
        return taken, written

    @pytest.fixture
    def settings(self, quick):
        return replace(quick, stages="head", head_steps=20)

    def test_of_one_image_the_mean_of_the_later_half_is_kept(
        self, image, labels, settings, fits
    ):
        train(image, labels, settings)
        taken, written = fits
        expected = torch.stack(taken[10:20]).mean(0)
        torch.testing.assert_close(written[-1], expected)
        assert not torch.allclose(written[-1], taken[19])

    def test_of_several_the_last_step_is_kept(
        self, image, other_image, labels, settings, fits
    ):
        train([image, other_image], [labels, labels], settings)
        taken, written = fits
        assert torch.equal(written[-1], taken[19])


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
            patch.setattr(steps, "refit_head", lambda *training: iter(()))
            return train(image, labels, settings)[0]

    def test_the_first_fit_takes_a_third(self, image, labels, settings):
        _, events = train(image, labels, settings)
        progress = [e for e in events if isinstance(e, Progress)]
        runs = [(stage, list(run)) for stage, run in groupby(progress, stage_of)]
        assert [(stage, run[-1].step, run[-1].total) for stage, run in runs] == [
            *(("features", 10, 10), ("head", 34, 34), ("galore", 6, 6)),
            *(("features", 30, 30), ("head", 100, 100), ("left out", 25, 25)),
        ]

    def test_the_time_left_counts_it(self, image, labels, settings):
        def left_at_the_last_step(refits: bool) -> float:
            _, events = train(image, labels, replace(settings, refit_head=refits))
            progress = [e for e in events if isinstance(e, Progress)]
            return [e.seconds_left for e in progress if e.stage == "galore"][-1]

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

    def test_it_makes_up_for_an_encoder_that_ran_away(self, image, labels, settings):
        wild = replace(settings, encoder_lr=0.02, decoder_lr=1e-6, head_lr=1e-6)

        def reached(refits: bool) -> float:
            training = begin(image, labels, replace(wild, refit_head=refits))
            drain(run_head_stage(*training))
            training.state.is_usable = False  # so that nothing is sent back
            return drain(run_galore_stage(*training, StateWriter(None))).mean_dice

        assert reached(True) > reached(False) + 0.02

    def test_stopped_meanwhile_the_steps_are_kept(
        self, image, labels, settings, unfitted
    ):
        seen = []

        def is_refitting(event) -> bool:
            seen.append(stage_of(event))
            return seen[-1] == "features" and "galore" in seen

        stream = fine_tune(TrainingData(image, labels), settings)
        assert weights_equal(stop_when(stream, is_refitting), unfitted)

    def test_a_frozen_encoder_asks_for_none(self, image, labels, settings):
        frozen = replace(settings, strategy="decoder")
        first, _ = train(image, labels, frozen)
        second, _ = train(image, labels, replace(frozen, refit_head=False))
        assert weights_equal(first, second)


def test_a_fit_learns_from_what_it_is_given(image, labels, settings):
    """The network's own scores rise with the steps of the fit."""
    scores = []
    for n_steps in (5, 300):
        model, _ = train(image, labels, replace(settings, head_steps=n_steps))
        scores.append(np.mean(list(model.card.metrics["dice"].values())))
    assert scores[1] > scores[0] + 0.1


class TestALossThatIsNotFinite:
    """In the head's fit, as in the steps (test_fine_tune.py)."""

    @pytest.fixture
    def spoil(self, monkeypatch):
        def spoil(*steps):
            n_seen = count(1)
            cross_entropy = F.cross_entropy

            def spoiled(*arguments, **options):
                factor = math.nan if next(n_seen) in steps else 1.0
                return cross_entropy(*arguments, **options) * factor

            monkeypatch.setattr(F, "cross_entropy", spoiled)

        return spoil

    def test_is_left_out_and_said(self, image, labels, quick, spoil):
        spoil(3, 5)
        model, events = train(image, labels, replace(quick, stages="head"))
        told = [e.message for e in events if isinstance(e, Notice)]
        assert sum("is not finite" in message for message in told) == 2
        assert all(torch.isfinite(p).all() for p in model.network.parameters())

    def test_three_in_a_row_end_it(self, image, labels, quick, spoil):
        spoil(1, 2, 3)
        model, events = train(image, labels, replace(quick, stages="head"))
        told = [e.message for e in events if isinstance(e, Notice)]
        assert any("3 steps in a row" in message for message in told)
        assert model is None

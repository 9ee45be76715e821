"""What a training is said to take, and what it then takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medsaga import FineTuneSettings, TrainingData, Volume, drain, fine_tune
from medsaga.data.canvas import Canvas
from medsaga.events import Notice, Progress
from medsaga.frontend import estimate_time, measure_speed
from medsaga.training.plan.speed import Speed

SPEED = Speed(
    backbone="tiny",
    batch_size=2,
    side=128,
    multiple=16,
    stride=4,
    seconds_per_step=0.5,
    seconds_per_slice=0.1,
)


def test_it_is_measured_on_the_backbone_itself(quick):
    events = []
    speed = drain(measure_speed(quick), events.append)
    assert {type(event) for event in events} == {Notice}
    assert speed.backbone == quick.backbone
    assert speed.seconds_per_step > speed.seconds_per_slice > 0


def test_the_minutes_are_filled_with_steps(image):
    settings = FineTuneSettings(backbone="tiny", minutes=2.0, long_side=128)
    estimate = estimate_time(SPEED, settings, image, 0)
    assert estimate.seconds_per_step == 0.5
    assert estimate.seconds == pytest.approx(120, abs=3)
    assert estimate.seconds_to_segment == pytest.approx(0.1 * image.shape[0])


def test_a_first_preview_takes_longer_where_views_do(image):
    settings = FineTuneSettings(backbone="tiny", long_side=128)
    small = estimate_time(SPEED, settings, image, 0).seconds_to_preview
    large = replace(settings, long_side=512)
    assert small == 10
    assert 30 <= estimate_time(SPEED, large, image, 0).seconds_to_preview <= 50


def test_tiles_take_their_time_in_segmentations_alone():
    image = Volume(array=np.zeros((2, 1000, 1000), np.float32))
    settings = FineTuneSettings(backbone="tiny", minutes=2.0)
    usual = estimate_time(SPEED, settings, image, 0)
    tiled = estimate_time(SPEED, settings, image, 0, 0.005)
    assert tiled.seconds_per_step == usual.seconds_per_step
    assert tiled.seconds_to_preview == usual.seconds_to_preview
    assert tiled.seconds_to_segment == pytest.approx(121 * usual.seconds_to_segment)
    canvas = Canvas(long_side=500, multiple=16, tile=128, scale=0.5)
    half = estimate_time(SPEED, settings, image, 0, canvas=canvas)
    assert half.seconds_to_segment == pytest.approx(25 * usual.seconds_to_segment)


def test_a_slow_computer_has_fewer_steps_than_its_share_of_the_minutes(image):
    """Views and fits of the head become slower with it: 11 steps of X-rays, not 35."""
    settings = FineTuneSettings(backbone="tiny", minutes=2.0, long_side=128)
    slow = replace(SPEED, seconds_per_step=2.9)
    estimate = estimate_time(slow, settings, image, 0)
    assert 9 <= estimate.steps <= 15
    assert estimate.seconds == pytest.approx(120, abs=5)
    in_one_stage = replace(settings, stages="galore")
    assert estimate_time(slow, in_one_stage, image, 0).steps > 2 * estimate.steps


def test_a_head_trained_alone_fills_the_minutes_without_steps(image):
    settings = FineTuneSettings(backbone="tiny", stages="head", minutes=0.5)
    estimate = estimate_time(SPEED, settings, image, 0)
    assert (estimate.steps, estimate.seconds) == (0, 30)


def test_small_images_take_less(image):
    settings = FineTuneSettings(backbone="tiny")
    estimate = estimate_time(SPEED, settings, image, 0)
    assert estimate.seconds_per_step == 0.5 / 4  # 40 x 40 pixels, worked at 64 x 64


def test_time_grows_with_pixels_batch_and_steps(image):
    settings = FineTuneSettings(backbone="tiny", steps=100, long_side=128)
    base = estimate_time(SPEED, settings, image, 0)
    assert base.steps == 100
    assert base.seconds == pytest.approx(6 + (26 + 107) * base.seconds_per_step)
    larger = estimate_time(SPEED, replace(settings, long_side=256), image, 0)
    assert larger.seconds_per_step == pytest.approx(4 * base.seconds_per_step)
    doubled = estimate_time(SPEED, replace(settings, batch_size=4), image, 0)
    assert doubled.seconds_per_step == pytest.approx(2 * base.seconds_per_step)


def test_the_steps_are_those_that_the_training_plans(image, labels, quick):
    """A fast computer stops at the usual number of steps, said and done."""
    settings = replace(quick, steps=0, minutes=0.3)
    fast = replace(SPEED, seconds_per_step=1e-5)
    events = []
    drain(fine_tune(TrainingData(image, labels), settings), events.append)
    done = [e for e in events if isinstance(e, Progress) and e.stage == "galore"]
    assert estimate_time(fast, settings, image, 0).steps == done[-1].total == 45

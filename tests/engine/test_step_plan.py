"""The steps that fit into a time: what is planned can be taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medsaga import FineTuneSettings
from medsaga.training.step_plan import SLOWDOWN, Filling, planned_steps

BALANCED = FineTuneSettings()
FROZEN = replace(BALANCED, strategy="decoder")


def test_the_time_is_filled():
    assert planned_steps(BALANCED, 100 * SLOWDOWN, 1.0) == 100
    assert planned_steps(BALANCED, 100 * SLOWDOWN, 1.0, n_taken=8) == 108


@pytest.mark.parametrize("seconds", [-5.0, 0.0, 0.5])
def test_without_time_one_step_is_taken(seconds):
    assert planned_steps(BALANCED, seconds, 1.0, n_taken=8) == 9
    assert planned_steps(FROZEN, seconds, 1.0, 8, Filling(50, 1.0)) == 9


@pytest.mark.parametrize("seconds", [10.0, 49.0, 99.0, 101.0, 200.0])
def test_the_steps_that_fill_a_cache_are_counted_once(seconds):
    filling = Filling(n_steps=20, seconds=4.0)
    steps = planned_steps(FROZEN, seconds * SLOWDOWN, 1.0, 0, filling)
    assert steps + filling.during(steps) <= seconds
    assert steps + 1 + filling.during(steps + 1) > seconds


def test_a_fast_computer_stops_at_the_usual_number():
    usual = planned_steps(BALANCED, 120.0, 1e-6)
    assert usual == 300
    assert planned_steps(FROZEN, 120.0, 1e-6) == 3 * usual

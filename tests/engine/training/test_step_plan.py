"""The steps that fit into a time, so that they can be taken, and their rates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medsaga import FineTuneSettings
from medsaga.training.plan.steps import SLOWDOWN, Filling, lr_factor, planned_steps

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


def test_warm_up_does_not_depend_on_the_total() -> None:
    for total in (None, 5, 100):
        factors = [lr_factor(step, total, 10, 0.9) for step in range(5)]
        assert factors == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert lr_factor(9, 100, 10, 0.9) == 1
    assert lr_factor(50, None, 10, 0.9) == 1


def test_decay_is_polynomial_and_never_negative() -> None:
    assert lr_factor(10, 110, 10, 0.9) == 1
    assert lr_factor(60, 110, 10, 0.9) == pytest.approx(0.5**0.9)
    factors = [lr_factor(step, 110, 10, 0.9) for step in range(10, 110)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(0.01**0.9)
    assert lr_factor(110, 110, 10, 0.9) == lr_factor(500, 110, 10, 0.9) == 0
    assert lr_factor(12, 5, 10, 0.9) == 0


def test_no_warm_up_and_no_decay() -> None:
    for step in range(4):
        assert lr_factor(step, 100, 0, 0.9) == lr_factor(step, None, 0, 0.9) == 1
    assert lr_factor(5, 100, 0, 0.9) < 1
    assert lr_factor(99, 100, 0, 0) == 1

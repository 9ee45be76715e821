"""How many steps the time allows, from what the first ones took, and their rates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsaga.training.optim.strategy import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from medsaga.settings.fine_tune import FineTuneSettings

# The time of a step is measured in the warm-up, whose learning rates are the same
# whatever the total, as are those of the first steps without one: on few steps alone it
# is a tenth off where a computer has others to serve.
_FEWEST_MEASURED_STEPS = 4
_MEASURED_SECONDS = 10.0
# A computer that has computed for a minute is slower than in the warm-up. Without room
# for it five trainings of two minutes took 121 to 138 s, 7 % too long in the mean; with
# it twelve took 101 to 124 s.
SLOWDOWN = 1.07
_STEPS_PER_MINUTE = 150
# A step that finds its features in the cache takes a third of the time.
_STEPS_PER_MINUTE_FROZEN = 450


class StepClock:
    """Seconds per step, without what lies between the steps.

    Attributes
    ----------
    step_seconds
        Of each step so far.
    """

    def __init__(self, step_seconds: Iterable[float] = ()) -> None:
        self.step_seconds = list(step_seconds)
        self.restart()

    def restart(self) -> None:
        """Begin a step."""
        self._started = time.monotonic()

    def tick(self, apart: float = 0.0) -> None:
        """End a step, `apart` seconds of which are counted elsewhere."""
        self.step_seconds.append(time.monotonic() - self._started - apart)

    @property
    def n_steps(self) -> int:
        """Steps so far."""
        return len(self.step_seconds)

    @property
    def seconds_per_step(self) -> float:
        """Median of the last steps; the first one compiles kernels and is slow."""
        return float(np.median(self.step_seconds[1:][-10:] or self.step_seconds))

    def is_enough(self, warmup_steps: int) -> bool:
        """Whether the steps so far tell how many the time allows."""
        if self.n_steps < _FEWEST_MEASURED_STEPS:
            return False
        return (
            self.n_steps >= warmup_steps or sum(self.step_seconds) >= _MEASURED_SECONDS
        )


@dataclass(frozen=True)
class Filling:
    """What the first steps take longer while a cache is filled.

    Attributes
    ----------
    n_steps
        How many they are, from now on.
    seconds
        What each of them takes longer.
    """

    n_steps: int = 0
    seconds: float = 0.0

    def during(self, n_steps: int) -> float:
        """Seconds that the next steps take longer in all."""
        return min(n_steps, self.n_steps) * self.seconds


NO_FILLING = Filling()


def planned_steps(
    settings: FineTuneSettings,
    seconds_left: float,
    seconds_per_step: float,
    n_taken: int = 0,
    filling: Filling = NO_FILLING,
) -> int:
    """Plan the steps of a stage that may take `seconds_left` after those taken.

    Never more than are usual for so many minutes, which are those of a laptop: a GPU
    is through with the same steps sooner.
    """
    seconds = seconds_left / SLOWDOWN
    seconds_per_slow_step = seconds_per_step + filling.seconds
    n_slow = min(filling.n_steps, max(0, int(seconds / seconds_per_slow_step)))
    seconds -= n_slow * seconds_per_slow_step
    n_fast = int(seconds / seconds_per_step) if n_slow == filling.n_steps else 0
    is_frozen = STRATEGIES[settings.strategy].freezes_encoder
    per_minute = _STEPS_PER_MINUTE_FROZEN if is_frozen else _STEPS_PER_MINUTE
    usual = max(n_taken + 1, int(per_minute * settings.minutes))
    return min(n_taken + max(1, n_slow + n_fast), usual)


def steps_to_plan(warmup_steps: int) -> int:
    """Give the steps after which the total is known on any computer."""
    return max(warmup_steps, _FEWEST_MEASURED_STEPS)


def lr_factor(step: int, total: int | None, warmup_steps: int, power: float) -> float:
    """Return what the learning rates are multiplied by in one step.

    A linear warm-up from ``1 / warmup_steps`` to 1, then a polynomial decay that would
    reach 0 at step `total`. The warm-up does not depend on `total`: a training that is
    shorter than it ends inside it and never reaches the full rate. Nor do the first
    steps without a warm-up, in which the total is found out.

    Parameters
    ----------
    step
        From 0.
    total
        Steps of the whole training; None as long as it is not known, which leaves out
        the decay.
    warmup_steps
        Steps of the warm-up; 0 for none.
    power
        Of the decay; 0 for none.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    n_before = steps_to_plan(warmup_steps)
    if total is None or step < n_before:
        return 1.0
    done = (step - n_before) / max(1, total - n_before)
    return float(max(0.0, 1.0 - done) ** power)

"""How many steps the time allows, from what the first ones took."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from medsaga.settings import FineTuneSettings

# The time of a step is measured in the warm-up, whose learning rates are the same
# whatever the total: on few steps alone it is a tenth off where a computer has others
# to serve.
FEWEST_MEASURED_STEPS = 4
_MEASURED_SECONDS = 10.0
# A computer that has computed for a minute is slower than in the warm-up. Without room
# for it five trainings of two minutes took 121 to 138 s, 7 % too long in the mean; with
# it twelve took 101 to 124 s.
SLOWDOWN = 1.07
_STEPS_PER_MINUTE = 150


class StepClock:
    """Seconds per step, without what lies between the steps."""

    def __init__(self) -> None:
        self._steps: list[float] = []
        self.restart()

    def restart(self) -> None:
        """Begin a step."""
        self._started = time.monotonic()

    def tick(self) -> None:
        """End a step."""
        self._steps.append(time.monotonic() - self._started)

    @property
    def n_steps(self) -> int:
        """Steps so far."""
        return len(self._steps)

    @property
    def seconds_per_step(self) -> float:
        """Median of the last steps; the first one compiles kernels and is slow."""
        return float(np.median(self._steps[1:][-10:] or self._steps))

    def is_enough(self, warmup_steps: int) -> bool:
        """Whether the steps so far tell how many the time allows."""
        if self.n_steps < FEWEST_MEASURED_STEPS:
            return False
        return self.n_steps == warmup_steps or sum(self._steps) >= _MEASURED_SECONDS


def planned_steps(
    settings: FineTuneSettings,
    seconds_left: float,
    seconds_per_step: float,
    n_taken: int = 0,
) -> int:
    """Plan the steps of a stage that may take `seconds_left` after those taken.

    Never more than are usual for so many minutes, which are those of a laptop: a GPU
    is through with the same steps sooner.
    """
    affordable = n_taken + max(1, int(seconds_left / (SLOWDOWN * seconds_per_step)))
    usual = int(_STEPS_PER_MINUTE * settings.minutes)
    return min(affordable, max(n_taken + 1, usual))

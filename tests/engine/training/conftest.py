"""Trainings taken apart, and computers as slow as a test needs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch

from medsaga import FineTuneSettings, Stop, TrainingData, Volume, drain
from medsaga.events import Event
from medsaga.training.preview import Previewer
from medsaga.training.request import Request
from medsaga.training.setup import Setup, set_up
from medsaga.training.state import Plan, TrainingState


class Training(NamedTuple):
    """What the stages of a training are called with."""

    setup: Setup
    state: TrainingState
    previewer: Previewer


def begin(
    images: Any, labels: Any, settings: FineTuneSettings, start: Any = None, **data: Any
) -> Training:
    """Set up a training that has not taken a step."""
    request = Request.read(TrainingData(images, labels, **data), settings, start)
    setup, network = drain(set_up(request))
    state = TrainingState(
        network=network,
        plan=Plan.of(setup.settings),
        is_usable=setup.origin.knows_classes,
    )
    previewer = Previewer(setup, state, lambda: (0, 0), interval=1000.0)
    return Training(setup, state, previewer)


def stop_when(stream: Iterator[Event], condition: Callable[[Event], bool]) -> Any:
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


class Clock:
    """A time that passes only while something works that a test has made slow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", self._tell)

    def _tell(self) -> float:
        self.now += 1e-6  # nothing takes no time at all
        return self.now

    def slow_down(self, where: Any, name: str, seconds: float) -> None:
        """Let each call of a function or method take so long."""
        work = getattr(where, name)

        def take_long(*arguments: Any, **options: Any) -> Any:
            self.now += seconds
            return work(*arguments, **options)

        self._monkeypatch.setattr(where, name, take_long)


def weights_equal(first: Any, second: Any) -> bool:
    """Whether two models have the same weights, bit for bit."""
    a, b = first.network.state_dict(), second.network.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def other_image(image: Volume) -> Volume:
    """Another image of the same things."""
    return replace(image, array=image.array + 1, name="other")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)

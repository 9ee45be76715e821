from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from medsaga.events import Notice, Validated, drain


def _stream():
    yield Notice(message="one")
    yield Notice(message="two")
    return 42


def test_drain_gives_each_event_and_the_result():
    seen = []
    assert drain(_stream(), seen.append) == 42
    assert [event.message for event in seen] == ["one", "two"]
    assert drain(_stream()) == 42


def test_events_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Notice(message="one").message = "two"


def test_mean_dice_is_over_the_scored_classes():
    scores = Validated(
        step=1, dice={1: 0.5, 5: 1.0}, hd95={}, measured_on="held-out slices"
    )
    assert scores.mean_dice == 0.75

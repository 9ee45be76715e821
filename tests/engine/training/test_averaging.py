from __future__ import annotations

import json

import torch
from torch import nn

from medsaga.events import Validated
from medsaga.training.optim.averaging import BestWeights, WeightAverage


def _network(value: float) -> nn.Module:
    network = nn.Linear(2, 1)
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)
    return network


def _set(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)


def _scores(dice: float) -> Validated:
    return Validated(step=1, dice={1: dice}, hd95={}, measured_on="held-out slices")


def test_the_average_is_the_mean_of_what_it_saw():
    network = _network(1.0)
    average = WeightAverage(network)
    for value in (1.0, 2.0, 6.0):
        _set(network, value)
        average.update()
    average.write()
    assert all(torch.allclose(p, torch.tensor(3.0)) for p in network.parameters())


def test_without_an_update_the_weights_stay():
    network = _network(4.0)
    WeightAverage(network).write()
    BestWeights(network).write()
    assert all((p == 4.0).all() for p in network.parameters())


def test_the_best_weights_come_back():
    network = _network(0.0)
    best = BestWeights(network)
    for value, score in ((1.0, 0.5), (2.0, 0.9), (3.0, 0.7), (4.0, 0.8)):
        _set(network, value)
        best.offer(_scores(score))
    assert best.scores == _scores(0.9)
    best.write()
    assert all((p == 2.0).all() for p in network.parameters())


def test_both_go_on_from_what_was_written():
    network = _network(0.0)
    average, best = WeightAverage(network), BestWeights(network)
    for value, score in ((1.0, 0.9), (2.0, 0.5)):
        _set(network, value)
        average.update()
        best.offer(_scores(score))
    other = _network(0.0)
    average_again, best_again = WeightAverage(other), BestWeights(other)
    average_again.load_state_dict(average.state_dict(), average.n_updates)
    best_again.load_state_dict(best.state_dict(), json.loads(json.dumps(best.notes())))
    assert best_again.scores == _scores(0.9)
    _set(other, 6.0)
    average_again.update()
    average_again.write()
    assert all(torch.allclose(p, torch.tensor(3.0)) for p in other.parameters())
    best_again.write()
    assert all((p == 1.0).all() for p in other.parameters())

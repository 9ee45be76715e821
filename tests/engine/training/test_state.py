"""A training's state is all that is needed to go on from a step of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.engine.training.conftest import begin

from medsaga import drain
from medsaga.data.volume import Volume
from medsaga.events import Progress
from medsaga.training.head_stage import run_head_stage
from medsaga.training.resuming.state_writer import StateWriter
from medsaga.training.steps import run_galore_stage


def weights_of(network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def are_equal(first, second) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("at", "changes"),
    [
        (1, {}),
        (11, {}),
        (7, {"agreed_slices": 2}),
        (9, {"strategy": "full", "precision": "bf16"}),
        (9, {"hold_out_from": 6, "validations": 3, "average_weights": False}),
        (5, {"optimizer": "fira", "projection": "full", "refresh_interval": 3}),
        (9, {"strategy": "decoder", "negatives": "on"}),
    ],
)
def test_one_that_was_written_goes_on_as_if_it_had_never_stopped(
    image, phantom, quick, tmp_path, changes, at
):
    settings = replace(quick, steps=12, head_steps=20, **changes)
    array = phantom[1].copy()
    array[8:] = 0
    labels = Volume(array=array, spacing=image.spacing)

    whole = begin(image, labels, settings)
    drain(run_head_stage(*whole))
    whole_scores = drain(run_galore_stage(*whole, StateWriter(None)))

    broken = begin(image, labels, settings)
    drain(run_head_stage(*broken))
    for event in run_galore_stage(*broken, StateWriter(None)):
        if isinstance(event, Progress) and (event.stage, event.step) == ("galore", at):
            broken.state.write(tmp_path / "state.safetensors")
            break

    again = begin(image, labels, settings)
    again.state.read(tmp_path / "state.safetensors", again.setup.settings)
    assert again.state.step == at
    steps = []
    scores = drain(run_galore_stage(*again, StateWriter(None)), steps.append)
    taken = [e for e in steps if isinstance(e, Progress)]
    assert (taken[0].stage, taken[0].step) == ("galore", at + 1)
    assert are_equal(weights_of(again.state.network), weights_of(whole.state.network))
    assert scores == whole_scores


def test_a_failed_step_can_be_taken_again(image, labels, quick, monkeypatch):
    """With what it had updated in it, and in the same order of the data."""
    from medsaga.training.optim.galore import Projector
    from medsaga.training.stepper import Stepper

    setup, state, _ = begin(image, labels, replace(quick, stages="galore"))
    with state.make_optimizer(setup.settings) as optimizer:
        stepper = Stepper(setup, state, optimizer)
        stepper.take()
        project, failures = Projector.project, [None, None, RuntimeError("no memory")]

        def fail(projector, *of_the_step):
            failure = failures.pop(0) if failures else None
            if failure is not None:
                raise failure
            return project(projector, *of_the_step)

        monkeypatch.setattr(Projector, "project", fail)
        with pytest.raises(RuntimeError, match="no memory"):
            stepper.take()
        assert state.step == 1
        stepper.take()
        assert state.step == 2
        taken = optimizer.state_dict()
    assert {int(n) for key, n in taken.items() if key.endswith(":step")} == {2}

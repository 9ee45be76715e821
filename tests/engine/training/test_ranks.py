"""Processes that share the steps of a training, as torchrun starts them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.training.conftest import stop_when
from tests.phantom import TINY, keep_slices, make_phantom
from typer.testing import CliRunner

from medsaga import (
    Journal,
    MedsagaError,
    TrainingData,
    drain,
    fine_tune,
    resume,
    volume_from_array,
    write_volume,
)
from medsaga.cli import app
from medsaga.events import Event, Notice, Progress
from medsaga.frontend import Ranks, follow, join_ranks
from medsaga.training.stepper import Stepper

# Of steps alone, without dropout, and all of them taken.
STEPS = replace(
    TINY,
    stages="galore",
    detail_head=False,
    batch_size=4,
    steps=4,
    refresh_interval=3,
    sparse=True,
    validations=1,
    mend_classes=False,
    average_weights=False,
)
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="needs processes that start at once"
)


def start_ranks(work: Callable[..., Any], *arguments: object) -> list[Any]:
    """Let two processes work at once, and give what each returns."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["medsaga.training.fine_tune", "monai.metrics", __name__]
    )
    ranks = []
    for rank in range(2):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=work_as, args=(rank, port, theirs, work, *arguments), daemon=True
        )
        process.start()
        theirs.close()
        ranks.append((process, ours))
    found = [ours.recv() for _, ours in ranks]
    for process, _ in ranks:
        process.join()
    return found


def work_as(rank: int, port: int, connection: Any, work: Any, *arguments: Any) -> None:
    """Work as torchrun would have it."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "MEDSAGA_DEVICE": "cpu",
    }
    connection.send(work(*arguments))


def strokes() -> TrainingData:
    """Give strokes on slices of two sizes: ranks know unlike numbers of pixels."""
    pairs = [make_phantom(6), make_phantom(6, size=32)]
    for _, labels in pairs:
        labels[:, ::7, :20][labels[:, ::7, :20] == 0] = 255
    return TrainingData(
        [image for image, _ in pairs],
        [keep_slices(labels, [1, 3, 4]) for _, labels in pairs],
    )


def weights_of(data: TrainingData, settings, ranks=None) -> dict[str, torch.Tensor]:
    stream = fine_tune(data, settings, **({} if ranks is None else {"ranks": ranks}))
    return drain(stream).network.state_dict()


def note_steps(before: Callable[[int], None] = lambda step: None) -> list[str]:
    """Give a list that gets what network and optimiser are after each step."""
    digests: list[str] = []
    take = Stepper.take

    def noting(stepper: Stepper) -> float:
        before(stepper.state.step)
        loss = take(stepper)
        state = stepper.state
        digest = hashlib.sha256(str(loss).encode())
        for part in (state.network, state.optimizer):
            for tensor in part.state_dict().values():
                digest.update(tensor.detach().contiguous().numpy().tobytes())
        digests.append(digest.hexdigest())
        return loss

    Stepper.take = noting
    return digests


def share_training(folder: Path) -> list[str]:
    digests = note_steps()
    with join_ranks() as ranks:
        if ranks.leads:
            torch.save(weights_of(strokes(), STEPS, ranks), folder / "weights.pt")
        else:
            follow(ranks)
    return digests


@linux
def test_ranks_take_the_steps_of_one_process(tmp_path, on_cpu):
    first, second = start_ranks(share_training, tmp_path)
    assert len(set(first)) == STEPS.steps
    assert first == second
    shared = torch.load(tmp_path / "weights.pt")
    alone = weights_of(strokes(), STEPS)
    torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-6)
    from_zero = "decoder.transformer.norm_final_attn.bias"
    assert alone[from_zero].abs().max() > 1e-3


def share_and_fail(failing: int) -> tuple[list[str], str]:
    """Let one of them run out of memory at the third step."""

    def fail(step: int) -> None:
        if ranks.rank == failing and step == 2:
            raise MemoryError

    said: list[Event] = []
    digests, problem = note_steps(fail), ""
    try:
        with join_ranks() as ranks:
            if ranks.leads:
                model = drain(fine_tune(strokes(), STEPS, ranks=ranks), said.append)
                assert model is not None
            else:
                follow(ranks)
    except MedsagaError as error:
        problem = str(error)
    messages = [event.message for event in said if isinstance(event, Notice)]
    return digests, messages[-1] if ranks.leads else problem


@linux
@pytest.mark.parametrize("failing", [0, 1])
def test_where_one_fails_what_was_learned_is_kept(failing):
    found = start_ranks(share_and_fail, failing)
    (first, said), (second, problem) = found
    assert len(first) == 2
    assert first == second
    assert "learned" in said
    assert "is kept" in said
    sentences = said, problem
    assert "memory" in sentences[failing]
    assert "Another process of this training has ended" in sentences[1 - failing]


def share_resumed(folder: Path, weights: Path) -> int:
    digests = note_steps()
    with join_ranks() as ranks:
        if ranks.leads:
            with Journal.open(folder) as journal:
                model = drain(resume(journal, ranks=ranks))
            torch.save(model.network.state_dict(), weights)
        else:
            follow(ranks)
    return len(digests)


def reaches(step: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Progress) and event.step == step


@linux
def test_ranks_go_on_with_a_training_of_one_process(tmp_path, on_cpu):
    with Journal.begin("model") as journal:
        journal.interval = 0.0
        stream = fine_tune(strokes(), STEPS, journal=journal)
        while not reaches(3)(next(stream)):
            pass
        stream.close()
    n_steps = start_ranks(share_resumed, journal.folder, tmp_path / "weights.pt")
    assert n_steps == [2, 2]
    shared, alone = torch.load(tmp_path / "weights.pt"), weights_of(strokes(), STEPS)
    torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-6)


def share_until_stopped() -> int:
    digests = note_steps()
    with join_ranks() as ranks:
        if ranks.leads:
            # Without a number of steps, which the first alone plans.
            settings = replace(STEPS, steps=0, minutes=1)
            assert stop_when(fine_tune(strokes(), settings, ranks=ranks), reaches(6))
        else:
            follow(ranks)
    return len(digests)


@linux
def test_the_first_decides_when_they_stop():
    assert start_ranks(share_until_stopped) == [6, 6]


def run_command(folder: Path) -> tuple[int, str, str]:
    os.environ["MEDSAGA_STATE"] = str(folder / "states")
    options = "--backbone tiny --steps 2 --head-views 4 --head-steps 5 --rank 8 --json"
    options += " --precision fp32 --long-side 64 --batch-size 1 --out"
    files = [str(folder / name) for name in ("image.nii.gz", "labels.nii.gz")]
    command = ["finetune", *files, *options.split(), str(folder / "model")]
    result = CliRunner().invoke(app, command)
    return result.exit_code, result.stdout, result.stderr


@linux
def test_of_the_commands_processes_the_first_alone_writes(tmp_path):
    image, labels = make_phantom(6)
    write_volume(volume_from_array(image), tmp_path / "image.nii.gz")
    labels = volume_from_array(keep_slices(labels, [1, 3, 4]))
    write_volume(labels, tmp_path / "labels.nii.gz", is_labels=True)
    (code, document, said), silent = start_ranks(run_command, tmp_path)
    assert silent == (0, "", "")
    assert code == 0
    assert "2 processes share the steps of 2 slices" in said
    found = json.loads(document)
    assert found["card"]["settings"]["batch_size"] == 2
    assert found["card"]["metrics"]["step"] == 2
    assert Path(found["model"]).is_dir()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"batch_size": 4}, "cannot be shared equally by 3"),
        ({"stages": "head", "detail_head": True}, "no steps"),
        ({"strategy": "decoder"}, "keeps the feature maps"),
    ],
)
def test_what_cannot_be_shared_is_refused_at_once(changes, problem):
    stream = fine_tune(strokes(), replace(STEPS, **changes), ranks=Ranks(0, 3))
    with pytest.raises(MedsagaError, match=problem):
        next(stream)

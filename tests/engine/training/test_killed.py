"""A process is killed at any moment: what is there is whole, and nothing is left over.

Linux alone starts processes fast enough for this many.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engine.training.conftest import weights_equal
from tests.phantom import TINY, keep_slices, make_phantom

from medsaga import (
    Journal,
    ModelLibrary,
    TrainingData,
    drain,
    fine_tune,
    interrupted_trainings,
    load_model,
    read_labels,
    resume,
    save_model,
    segment,
    segment_batch,
    volume_from_array,
    write_volume,
)
from medsaga.frontend import ItemEnded, ModelTarget, keep_model

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs processes that start at once"
)
SETTINGS = replace(TINY, steps=4, head_steps=10)


def train_again_and_again(folder: str, connection) -> None:
    """Train, and save the model over the one before, until killed."""
    os.environ["MEDSAGA_STATE"] = str(Path(folder) / "states")
    os.environ["MEDSAGA_MODELS"] = str(Path(folder) / "models")
    image, labels = make_phantom()
    labels = keep_slices(labels, [1, 4, 7, 10])
    connection.send("ready")
    while True:
        target = ModelTarget.choose(Path(folder) / "model", overwrite=True)
        with Journal.begin("model", target) as journal:
            journal.interval = 0.0
            data = TrainingData(image, labels)
            model = drain(fine_tune(data, SETTINGS, journal=journal))
            connection.send("saving")
            ModelLibrary().add(model, "model")
            keep_model(model, target.save, journal)
            connection.send("saved")


def keep_again_and_again(folder: str, connection) -> None:
    """Keep a trained model as the end of a training does, until killed."""
    os.environ["MEDSAGA_STATE"] = str(Path(folder) / "states")
    os.environ["MEDSAGA_MODELS"] = str(Path(folder) / "models")
    model = load_model(Path(folder) / "made" / "start")
    connection.send("ready")
    while True:
        target = ModelTarget.choose(Path(folder) / "model", overwrite=True)
        with Journal.begin("model", target) as journal:
            ModelLibrary().add(model, "model")
            keep_model(model, target.save, journal)
            connection.send("saved")


def write_again_and_again(folder: str, connection) -> None:
    """Write a mask and a model over those before, until killed."""
    _, labels = make_phantom()
    mask = volume_from_array(labels.repeat(8, axis=1).repeat(8, axis=2))
    model = load_model(Path(folder) / "made" / "start")
    connection.send("ready")
    while True:
        write_volume(mask, Path(folder) / "mask.nii.gz", is_labels=True)
        save_model(model, Path(folder) / "model")
        connection.send("written")


def start_and_kill(work, folder: Path, *, after: str, seconds: float) -> None:
    """Let a process work, and kill it so long after it has said a word."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["medsaga.training.fine_tune", "monai.metrics", __name__]
    )
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(str(folder), theirs), daemon=True)
    process.start()
    while ours.poll(60) and ours.recv() != after:
        pass
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def kill_ten_times(work, folder: Path, after: str, seed: int) -> Iterator[int]:
    """Kill work soon after it says something, and tell how much each left over."""
    rng = random.Random(seed)
    for _ in range(10):
        start_and_kill(work, folder, after=after, seconds=rng.uniform(0, 0.1))
        yield len(leftovers(folder))


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_a_training_goes_on_to_the_same_weights_whenever_it_is_killed(
    tmp_path, monkeypatch, on_cpu
):
    image, labels = make_phantom()
    labels = keep_slices(labels, [1, 4, 7, 10])
    expected = drain(fine_tune(TrainingData(image, labels), SETTINGS))
    monkeypatch.setenv("MEDSAGA_STATE", str(tmp_path / "states"))
    rng, n_resumed = random.Random(0), 0
    moments = [("saved", 0.0)]  # once, that there is something to be replaced
    moments += [("ready", rng.uniform(0, 1.5)) for _ in range(12)]
    moments += [("saving", rng.uniform(0, 0.1)) for _ in range(3)]
    for after, seconds in moments:
        start_and_kill(train_again_and_again, tmp_path, after=after, seconds=seconds)
        for entry in interrupted_trainings():
            with Journal.open(entry.folder) as journal:
                if entry.model is None:
                    assert weights_equal(drain(resume(journal)), expected)
                journal.discard()
            n_resumed += 1
        load_model(tmp_path / "model")
    assert n_resumed >= 8
    assert_whole(tmp_path)


def test_a_model_is_whole_whenever_its_keeping_is_killed(
    tmp_path, monkeypatch, unbroken
):
    monkeypatch.setenv("MEDSAGA_STATE", str(tmp_path / "states"))
    expected = load_model(save_model(unbroken[0], tmp_path / "made" / "start"))
    n_left_over = 0
    for n_files in kill_ten_times(keep_again_and_again, tmp_path, "saved", 2):
        n_left_over += n_files
        load_model(tmp_path / "model")
        for entry in interrupted_trainings():
            Journal.open(entry.folder).discard()
    assert n_left_over
    assert_whole(tmp_path)
    assert weights_equal(load_model(tmp_path / "model"), expected)


def assert_whole(folder: Path) -> None:
    """Assert that all models can be read, and that the next work leaves no traces."""
    library = ModelLibrary(folder / "models")
    models = library.entries()
    assert models
    for entry in models:
        load_model(entry.path)
    assert ModelTarget.choose(folder / "model", overwrite=True).before is not None
    library.add(load_model(folder / "model"), "the next")
    Journal.begin("the next").close()
    assert leftovers(folder) == []
    assert [path.name for path in (folder / "states").iterdir()] == ["trainings.lock"]


def test_what_is_written_is_whole_whenever_it_is_killed(tmp_path, unbroken):
    save_model(unbroken[0], tmp_path / "made" / "start")
    expected = load_model(tmp_path / "made" / "start")
    n_left_over = 0
    for n_files in kill_ten_times(write_again_and_again, tmp_path, "written", 1):
        n_left_over += n_files
        assert read_labels(tmp_path / "mask.nii.gz").array.any()
    assert n_left_over
    assert ModelTarget.choose(tmp_path / "model", overwrite=True).before is not None
    assert weights_equal(load_model(tmp_path / "model"), expected)
    assert leftovers(tmp_path) == []


def segment_all(folder: str, connection) -> None:
    """Segment a folder of images, and say of each when it is done."""
    connection.send("ready")
    for event in segment_batch(
        Path(folder) / "model", Path(folder) / "images", out=Path(folder) / "masks"
    ):
        if isinstance(event, ItemEnded):
            connection.send(event.result.outputs.mask.name)


def test_a_killed_batch_goes_on_with_what_is_missing(tmp_path, image, unbroken):
    save_model(unbroken[0], tmp_path / "model")
    names = [f"{number}.nii.gz" for number in range(4)]
    for name in names:
        write_volume(image, tmp_path / "images" / name)
    expected = drain(segment(tmp_path / "model", tmp_path / "images" / names[0])).mask

    start_and_kill(segment_all, tmp_path, after=names[1], seconds=0.02)
    results = drain(
        segment_batch(tmp_path / "model", tmp_path / "images", out=tmp_path / "masks")
    )
    statuses = [result.status for result in results]
    assert statuses[:2] == ["kept", "kept"]
    assert statuses[3] == "done"
    for name in names:
        mask = read_labels(tmp_path / "masks" / name)
        assert (mask.array == expected.array).all()

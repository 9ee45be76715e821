"""A batch that workers share gives what one process gives, whatever befalls them."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial

import dask
import nibabel as nib
import numpy as np
import pytest
from distributed import Client, LocalCluster
from tests.phantom import make_phantom
from typer.testing import CliRunner

from medsaga import (
    MedsagaError,
    SegmentSettings,
    drain,
    save_model,
    segment_batch,
    volume_from_array,
)
from medsaga.cli import app
from medsaga.computing import allotted_cores
from medsaga.events import ItemEvent, ItemsDone, ItemStarted, Notice
from medsaga.frontend import BatchItem, ItemEnded, connect_cluster
from medsaga.models.packing import PackedModel
from medsaga.segmentation import batch, cluster

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs processes that start at once"
)


@pytest.fixture(scope="module")
def client():
    patch = pytest.MonkeyPatch()
    patch.setattr(cluster, "local_workers", lambda: (2, 1))
    with connect_cluster("local") as client:
        patch.undo()
        yield client


@pytest.fixture
def images(tmp_path):
    """Six files that differ."""
    folder = tmp_path / "images"
    folder.mkdir()
    affine = np.diag([1, 1, 2, 1.0])
    for number in range(6):
        array = make_phantom(3)[0].T[:, number:]
        nib.save(nib.Nifti1Image(array, affine), folder / f"{number}.nii.gz")
    return folder


@pytest.fixture(autouse=True)
def _one_core():
    """As many as a worker has: with others the last bits of probabilities differ."""
    with allotted_cores(1):
        yield


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*")}


def slow_down(seconds):
    """Have a worker take its time before each item."""
    now = batch.segment

    def segment(*arguments, **options):
        time.sleep(seconds)
        return (yield from now(*arguments, **options))

    batch.segment = segment


class Deadly(np.ndarray):
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (1,)


class Refused(Exception):
    """Cannot be unpickled."""

    def __init__(self, one, other):
        super().__init__(f"{one} {other}")


class Broken(np.ndarray):
    """Raises what cannot be unpickled."""

    def __getitem__(self, place):
        raise Refused("not", "today")


def test_workers_give_what_one_process_gives(model, client, images, tmp_path):
    settings = SegmentSettings(entropy=True, probabilities=True)
    volume = volume_from_array(make_phantom(2)[0], name="open")
    flat = volume_from_array(np.full((2, 40, 40), 7.0), name="flat")
    given = [images, volume, flat]
    alone, shared, events = [], [], []
    for found, keywords in ((alone, {}), (shared, {"client": client})):
        out = tmp_path / ("shared" if keywords else "alone")
        stream = segment_batch(model, given, settings, out=out, **keywords)
        results = drain(stream, found.append)
        assert [result.status for result in results] == ["done"] * 8
        assert [p.parent for result in results for p in result.written] == [out] * 36
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
    for events in (alone, shared):
        events.sort(key=lambda event: getattr(event, "number", -1))
    told = [
        [e for e in events if isinstance(e, ItemEvent) and isinstance(e.event, Notice)]
        for events in (alone, shared)
    ]
    assert told[0] == told[1] != []
    ended = [
        [e.segmentation for e in events if isinstance(e, ItemEnded)][-2:]
        for events in (alone, shared)
    ]
    for one, other in zip(*ended, strict=True):
        assert np.array_equal(one.mask.array, other.mask.array)
        assert np.array_equal(one.probabilities, other.probabilities)


def test_the_model_is_sent_once_and_forgotten(model, client, images, tmp_path):
    settings = SegmentSettings()
    names = []

    def look(event):
        if isinstance(event, ItemStarted):
            names.append(client.run(lambda dask_worker: set(dask_worker.plugins)))

    before = client.run(lambda dask_worker: set(dask_worker.plugins))
    drain(segment_batch(model, images, settings, out=tmp_path, client=client), look)
    for worker, plugins in before.items():
        assert len({frozenset(seen[worker] - plugins) for seen in names}) == 1
    assert client.run(lambda dask_worker: set(dask_worker.plugins)) == before
    packed = PackedModel.of(model)
    again = packed.unpack()
    for name, tensor in model.network.state_dict().items():
        assert (again.network.state_dict()[name] == tensor).all()
    assert set(again.paint) == set(model.paint)


def test_a_bad_item_does_not_stop_the_others(model, client, images, tmp_path):
    volume = volume_from_array(make_phantom(2)[0])
    broken = replace(volume, array=volume.array.view(Broken))
    given = [
        BatchItem(image=tmp_path / "absent.nii.gz"),
        BatchItem(image=broken),
        BatchItem(image=images / "0.nii.gz"),
        BatchItem(image=volume),
    ]
    events = []
    stream = segment_batch(model, given, out=tmp_path / "out", client=client)
    absent, broken, *others = drain(stream, events.append)
    assert [result.status for result in others] == ["done", "done"]
    assert absent.unexpected is None
    assert absent.message.startswith(f"There is no file {tmp_path / 'absent.nii.gz'}")
    assert broken.message == "Unexpected error: Refused: not today"
    assert "in __getitem__" in "".join(broken.error.__notes__)
    order = [event for event in events if not isinstance(event, ItemEvent)]
    for number in range(4):
        kinds = [type(e) for e in order if getattr(e, "number", None) == number]
        assert kinds == [ItemStarted, ItemEnded]
    assert order[-1] == ItemsDone(done=4, total=4, n_workers=2)


def test_items_of_a_killed_worker_are_done_again(model, client, images, tmp_path):
    drain(segment_batch(model, images, out=tmp_path / "alone"))
    client.run(slow_down, 0.3)
    pids = client.run(os.getpid)
    killed = []

    def kill(event):
        while event == ItemStarted(number=3) and not killed:
            busy = [worker for worker, keys in client.processing().items() if keys]
            for worker in busy[:1]:
                killed.append(pids[worker])
                os.kill(killed[0], signal.SIGKILL)

    stream = segment_batch(model, images, out=tmp_path / "shared", client=client)
    results = drain(stream, kill)
    assert [result.status for result in results] == ["done"] * 6
    assert killed
    assert killed[0] not in client.run(os.getpid).values()
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_an_item_that_kills_each_worker_fails_alone(model, client, images, tmp_path):
    volume = volume_from_array(make_phantom(1)[0], name="deadly")
    deadly = replace(volume, array=volume.array.view(Deadly))
    stream = segment_batch(model, [deadly, images], out=tmp_path / "out", client=client)
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        first, *others = drain(stream)
    assert first.status == "failed"
    assert "worker that took it died" in first.message
    assert [result.status for result in others] == ["done"] * 6


def test_a_stopped_batch_goes_on_where_it_was(model, client, images, tmp_path):
    drain(segment_batch(model, images, out=tmp_path / "alone"))
    client.wait_for_workers(2)
    client.run(slow_down, 0.2)
    out = tmp_path / "shared"
    go = partial(segment_batch, model, images, out=out, client=client)
    events = []
    results = drain(
        go(), events.append, should_stop=lambda: isinstance(events[-1], ItemEnded)
    )
    done = [result for result in results if result.status == "done"]
    assert 1 <= len(done) < 6
    assert {r.status for r in results if r not in done} == {"stopped"}
    assert sorted(contents(out)) == sorted(p.name for r in done for p in r.written)
    n_started = sum(isinstance(event, ItemStarted) for event in events)
    assert n_started == sum(isinstance(event, ItemEnded) for event in events) < 6
    again = drain(go())
    assert [r.status for r in again] == [
        "kept" if result in done else "done" for result in results
    ]
    assert contents(out) == contents(tmp_path / "alone")


def test_an_item_that_is_skipped_costs_no_other(model, client, images, tmp_path):
    items = batch.batch_items(images)
    items[5].skip.set()
    events = []

    def skip(event):
        events.append(event)
        if event == ItemStarted(number=1):
            items[1].skip.set()

    results = drain(segment_batch(model, items, out=tmp_path, client=client), skip)
    statuses = [result.status for result in results]
    assert statuses == ["done", "stopped", "done", "done", "done", "stopped"]
    assert ItemStarted(number=5) not in events


def test_the_shell_shares_with_a_running_cluster(model, client, images, tmp_path):
    folder = save_model(model, tmp_path / "model")
    address = client.scheduler_info()["address"]
    out = tmp_path / "out"
    command = ["segment", str(folder), str(images), "--out", str(out)]
    done = CliRunner().invoke(app, [*command, "--dask", address])
    assert done.exit_code == 0, done.output
    assert len(contents(out)) == 6
    assert "Images 6/6, 2 workers" in done.stderr


def test_a_cluster_that_is_gone_ends_the_batch(model, images, tmp_path):
    stream = partial(segment_batch, model, images, out=tmp_path / "out")
    with (
        LocalCluster(1, threads_per_worker=1, processes=False) as lost,
        Client(lost) as client,
        pytest.raises(MedsagaError, match="cannot be reached any more"),
    ):
        drain(
            stream(client=client), lambda e: isinstance(e, ItemEnded) and lost.close()
        )
    statuses = [result.status for result in drain(stream())]
    assert statuses[0] == "kept"
    assert "done" in statuses


def test_what_is_missing_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setattr(cluster, "_SECONDS_TO_ANSWER", 0.1)
    with pytest.raises(MedsagaError, match="No dask scheduler answers at tcp://127"):
        connect_cluster("tcp://127.0.0.1:1").__enter__()
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MedsagaError, match=r'pip install "napari-medsaga\[cluster\]"'):
        connect_cluster("local").__enter__()


@pytest.mark.parametrize(
    ("cores", "free", "expected"),
    [(1, 16e9, (1, 1)), (2, 1e9, (1, 2)), (15, 10e9, (3, 5)), (7, 64e9, (7, 1))],
)
def test_workers_here_have_cores_and_memory(monkeypatch, cores, free, expected):
    monkeypatch.setattr(cluster, "thread_count", lambda: cores)
    monkeypatch.setattr(cluster, "free_memory", lambda device: int(free))
    monkeypatch.setattr(cluster, "_BYTES_A_WORKER", 3 * 10**9)
    assert cluster.local_workers() == expected

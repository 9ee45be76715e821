"""What tests of every kind share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

# Before pytest-qt and napari choose: both the same Qt, where several are installed.
os.environ.setdefault("QT_API", "pyside6")
os.environ.setdefault("PYTEST_QT_API", os.environ["QT_API"])

# Processes that share cores slow torch down manyfold: each worker keeps to its own.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {CORES[int(WORKER.removeprefix("gw")) % len(CORES)]})


_numbers = count()
# So that no process is left with a minute's test when the others are done.
SLOWEST = (
    "test_killed.py",
    "test_quality.py",
    "test_sharing.py",
    "test_ranks.py",
    "test_window.py",
    "test_limits.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


@pytest.fixture(scope="session", autouse=True)
def _no_states_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the states of trainings of fixtures that several tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSAGA_STATE", str(tmp_path_factory.mktemp("states")))
        yield


@pytest.fixture(autouse=True)
def states(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder of the test's own for the states of its trainings."""
    folder = tmp_path_factory.getbasetemp() / "states" / str(next(_numbers))
    monkeypatch.setenv("MEDSAGA_STATE", str(folder))
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top folder of the source tree."""
    return Path(__file__).parents[1]

"""What tests of every kind share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before pytest-qt and napari choose: both the same Qt, where several are installed.
os.environ.setdefault("QT_API", "pyside6")
os.environ.setdefault("PYTEST_QT_API", os.environ["QT_API"])


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top folder of the source tree."""
    return Path(__file__).parents[1]

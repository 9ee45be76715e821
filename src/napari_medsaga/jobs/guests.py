"""Something short, computed between two steps of a job that goes on for minutes."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# A job rests at its next event; what takes longer to come to one is not waited for.
_MOST_PATIENCE = 2.0
_guest = threading.Lock()
_is_free = threading.Event()
_is_free.set()
_is_resting = threading.Event()


def let_guests_through() -> None:
    """Rest while a guest computes; a job calls it at each event."""
    if _is_free.is_set():
        return
    _is_resting.set()
    try:
        _is_free.wait()
    finally:
        _is_resting.clear()


@contextmanager
def as_guest(*, beside_job: bool) -> Iterator[None]:
    """Compute inside the block while the job rests.

    Parameters
    ----------
    beside_job
        Whether a job has the computer, which has to come to a rest first.
    """
    with _guest:
        _is_free.clear()
        try:
            if beside_job:
                _is_resting.wait(_MOST_PATIENCE)
            yield
        finally:
            _is_free.set()

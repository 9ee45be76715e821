"""What happens to files: edits of bytes and of JSON, and a limit on memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hypothesis import strategies as st

from medsaga import MedsagaError

T = TypeVar("T")
# Numbers that a header may promise.
EXTREMES = (0, 1, -1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 10**6, 2**40)
HEADER = 400  # bytes in which most of what decides stands
LARGEST, MOST = 2**30, 2**33  # bytes that a small file may fill, and ask for


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Draw some edits: their kind, where, and with what."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(
                    ("byte", "number", "number", "cut", "take", "repeat", "put")
                ),
                st.one_of(st.integers(0, HEADER), st.integers(0, 2**20)),
                st.integers(0, 255),
                st.sampled_from(EXTREMES),
                st.sampled_from((1, 2, 4, 8)),
                st.sampled_from(("little", "big")),
            ),
            min_size=1,
            max_size=5,
        )
    )


def mutate(content: bytes, wanted: list[tuple[Any, ...]]) -> bytes:
    """Make the edits, one after the other."""
    data = bytearray(content)
    for kind, place, byte, number, width, order in wanted:
        at = place % max(1, len(data))
        if kind == "byte":
            data[at : at + 1] = bytes([byte])
        elif kind == "number":
            data[at : at + width] = (number % 256**width).to_bytes(width, order)
        elif kind == "cut":
            del data[at:]
        elif kind == "take":
            del data[at : at + byte]
        elif kind == "repeat":
            data[at:at] = data[at : at + byte]
        else:
            data[at:at] = bytes([byte]) * width
    return bytes(data)


def given_or_refused(call: Callable[[], T]) -> T | None:
    """Give what a call gives, or None where it refuses in one sentence."""
    try:
        with _little_memory():
            return call()
    except MedsagaError as error:
        sentence = str(error)
    assert sentence.endswith(".")
    assert sentence.isprintable()
    assert len(sentence) < 1000
    return None


@contextmanager
def _little_memory() -> Iterator[None]:
    """Check that no more than a gigabyte is filled, and let eight fail at once.

    More may be asked for: what is read in one piece is as large as a file says, until
    it is known how much came.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + MOST, limits[1]))
    before = _status("VmHWM")
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
    assert _status("VmHWM") - before < LARGEST


def _status(name: str) -> int:
    with open("/proc/self/status") as rows:
        return next(int(row.split()[1]) for row in rows if row.startswith(name)) * 1024

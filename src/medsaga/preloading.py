"""Imports ahead of the work that needs them, and how their threads are to wait."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

# How the threads of GNU's OpenMP wait, which torch brings on Linux and which reads it
# once, when it is loaded: chosen in docs/choices.md.
_ON_IDLE, _ON_BUSY = {"GOMP_SPINCOUNT": "3000"}, {"OMP_WAIT_POLICY": "PASSIVE"}
# Others' share of the cores, over the last minute, from which on a computer is busy.
_BUSY = 0.75


@contextmanager
def patient_threads() -> Iterator[None]:
    """Let torch, if it is first imported inside the block, wait as the load asks for.

    Its threads spin while they wait for one another, and hold up whatever else wants
    their cores, themselves included: on an idle computer they spin but shortly, on a
    busy one not at all. Where the user has chosen how they wait, that stays; libraries
    that are loaded later are not concerned.
    """
    chosen = {*_ON_IDLE, *_ON_BUSY} & os.environ.keys()
    added = {} if chosen or "torch" in sys.modules else _policy()
    os.environ |= added
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _policy() -> dict[str, str]:
    if not hasattr(os, "getloadavg"):  # on Windows, where torch has another OpenMP
        return {}
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    return _ON_BUSY if load >= _BUSY else _ON_IDLE


def warm_up(stage: Literal["head", "galore"]) -> None:
    """Import what a stage of a training needs, so that it starts at once.

    For programs with a window, in a thread: each takes some 10 seconds the first time.

    Parameters
    ----------
    stage
        ``head``: enough for the first preview and for a segmentation. ``galore``: the
        rest.
    """
    from segment_anything import modeling  # which every network wants

    from medsaga.segmentation import segment
    from medsaga.training import fine_tune

    del modeling, segment, fine_tune
    if stage == "galore":
        from monai import metrics  # which scores want

        del metrics

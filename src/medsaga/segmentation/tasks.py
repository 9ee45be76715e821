"""What a scheduler knows of an item: it imports this, and need not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distributed import get_worker

if TYPE_CHECKING:
    from medsaga.segmentation.on_worker import Answer


def segment_item(name: str, task: bytes) -> Answer:
    """Segment a pickled `Task` of the batch called `name`, on the worker that this is.

    It stays pickled up to there.
    """
    answer: Answer = get_worker().plugins[name].segment(task)
    return answer

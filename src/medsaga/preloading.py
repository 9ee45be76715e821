"""Imports ahead of the work that needs them, which take seconds."""

from __future__ import annotations

from typing import Literal


def warm_up(stage: Literal["head", "galore"]) -> None:
    """Import what a stage of a training needs, so that it starts at once.

    For programs with a window, in a thread: each takes some 10 seconds the first time.

    Parameters
    ----------
    stage
        ``head``: enough for the first preview and for a segmentation. ``galore``: the
        rest.
    """
    from medsaga.segmentation import segment
    from medsaga.training import fine_tune
    from medsaga.training.optim import galore, losses

    del segment, fine_tune
    if stage == "galore":
        losses.SegmentationLoss(1.0)
        galore.galore_adamw()

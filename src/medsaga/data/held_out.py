"""Which of the annotated slices do not train, but are there to measure on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medsaga.data.samples import classes_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from medsaga.data.identity import SliceId
    from medsaga.data.samples import Sample

_HELD_OUT_SHARE = 0.2


def split_held_out(
    samples: Sequence[Sample],
    n_classes: int,
    hold_out_from: int,
    *,
    before: Collection[SliceId] = (),
    trained: Collection[SliceId] = (),
) -> tuple[list[Sample], list[Sample]]:
    """Split into training and held-out slices.

    From `hold_out_from` slices upwards a fifth is held out, spread evenly over them;
    below, none is. A slice that alone carries a class or background is not held out. Of
    a model that goes on, what was held out `before` stays so, and what has `trained` it
    is not held out: it would score high on that.
    """
    if len(samples) < hold_out_from:
        return list(samples), []
    wanted = max(2, round(_HELD_OUT_SHARE * len(samples)))
    slices_left = np.zeros(n_classes, dtype=int)
    present = [classes_of(sample) for sample in samples]
    for classes in present:
        slices_left[classes] += 1
    free = [i for i, sample in enumerate(samples) if sample.id not in trained]
    held_out: set[int] = set()

    def hold_out_one(candidates: Iterable[int]) -> None:
        for index in candidates:
            if index not in held_out and (slices_left[present[index]] > 1).all():
                held_out.add(index)
                slices_left[present[index]] -= 1
                return

    for index in free:
        if samples[index].id in before and len(held_out) < wanted:
            hold_out_one([index])
    n_more = max(0, wanted - len(held_out))
    spread = np.linspace(0, len(samples) - 1, n_more + 2)[1:-1].round().astype(int)
    for start in spread:
        hold_out_one(sorted(free, key=lambda i: abs(i - start)))
    return (
        [s for i, s in enumerate(samples) if i not in held_out],
        [s for i, s in enumerate(samples) if i in held_out],
    )

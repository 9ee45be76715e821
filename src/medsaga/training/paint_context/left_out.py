"""Slices left out one by one: what is to be expected, and what paint is worth."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from medsaga.computing import evaluating
from medsaga.data.samples import classes_of
from medsaga.data.tiles import parts_to_judge
from medsaga.errors import MedsagaError
from medsaga.events import Event, Expected, Notice
from medsaga.network.inference import predict_image
from medsaga.training.paint_context.left_out_fits import LeftOutFits
from medsaga.training.paint_context.left_out_scores import LeftOutScores
from medsaga.training.saving import attempt

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from medsaga.data.samples import Sample
    from medsaga.data.tiles import Part
    from medsaga.network.medsaga import MedSAGa
    from medsaga.propagation.carrying import Carrier
    from medsaga.training.features.sampled_pixels import SampledPixels
    from medsaga.training.pixel_fit import PixelFit
    from medsaga.training.setup import Setup
    from medsaga.training.state import TrainingState

_MOST_LEFT_OUT = 10
# A quarter of the steps that the head's own fit takes are enough to compare.
_SHARE_OF_STEPS, _MOST_STEPS = 0.25, 300
# What a step of as many heads takes, for each of them, of a step of the fit.
_STEP_PER_HEAD = 0.4
_BEFORE = 1 / 3  # what was said before the encoder learned weighs so much
_WHAT = "what is left out"
_WINDOWS = 6  # of a slice that is seen in tiles
_DRAWN = ("detail_head.", "decoder.output_hypernetworks_mlps.")


def left_out_slices(setup: Setup) -> list[int]:
    """Pick the training slices that are left out one by one: at most ten.

    All pixels of them are known. They are of volumes to which paint is carried from
    another slice; where there is no such volume, of any two images.
    """
    whole = [n for n, one in enumerate(setup.training) if one.known is None]
    carried = [n for n in whole if _is_carried_to(setup, setup.training[n])]
    chosen = carried or (whole if len(whole) > 1 else [])
    picked = np.linspace(0, len(chosen) - 1, min(len(chosen), _MOST_LEFT_OUT))
    return [chosen[i] for i in picked.round().astype(int)]


def _is_carried_to(setup: Setup, sample: Sample) -> bool:
    """Whether another slice is painted of its volume, and some are not."""
    number = setup.image_numbers.get(sample.id.image)
    if number is None or sample.id.axis != setup.axis:
        return False
    n_painted = len(setup.painted.painted(number))
    return 1 < n_painted < setup.images[number].shape[setup.axis]


def _carrier(setup: Setup, sample: Sample) -> Carrier | None:
    """Give what carries paint to a slice from the others that are painted."""
    if not _is_carried_to(setup, sample):
        return None
    return setup.painted.carrier(setup.image_numbers[sample.id.image])


def views_to_judge(setup: Setup) -> int:
    """Tell how many images the network looks at where slices are left out."""
    chosen = left_out_slices(setup)
    return sum(len(_parts(setup, setup.training[index])) for index in chosen)


def _parts(setup: Setup, sample: Sample) -> list[Part]:
    tile, n_classes = setup.canvas.tile, len(setup.table)
    return parts_to_judge(sample, tile, n_classes, n_drawn=_WINDOWS)


def steps_to_judge(setup: Setup, fit_steps: int) -> float:
    """Tell how long :func:`judge_left_out` takes after a fit, in steps of that fit."""
    n_heads = len(left_out_slices(setup))
    return _STEP_PER_HEAD * n_heads * _n_steps(fit_steps) if n_heads else 0.0


def judge_left_out(
    setup: Setup,
    state: TrainingState,
    pixels: SampledPixels,
    fit: PixelFit,
    part: float = 1.0,
) -> Generator[Event, None, None]:
    """Score slices by heads that have not seen them, with paint from the others.

    The encoder has seen them once the GaLore stage is through. Slices of one image it
    has hardly learned by heart, those of other people it has: what is expected of them
    lies between what heads say before the stage, too low, and after it, too high.

    Parameters
    ----------
    setup, state
        The training; the state notes what comes of it.
    pixels, fit
        The pixels that the head was fitted to, and its fit.
    part
        Of the planned steps that the fit has taken.
    """
    left_out = left_out_slices(setup)
    if not left_out:
        return
    total = _n_steps(part * state.plan.head_steps)
    fits = LeftOutFits(fit, pixels.slices, left_out, total)
    started = time.monotonic()
    for step in range(1, total + 1):
        take = partial(fits.step, step)
        loss = yield from attempt(setup, state, _WHAT, take)
        if step % 10 == 0:
            per_step = (time.monotonic() - started) / step
            left = per_step * (total - step)
            yield setup.head_progress("left out", (step, total), loss, left)
    fits.finish()
    shown = Counter(int(c) for one in setup.training for c in classes_of(one))
    n_shown = [shown[column] for column in range(1, len(setup.table))]
    scores = LeftOutScores(setup.table.values[1:], n_shown)
    for number, sample in enumerate(setup.training[i] for i in left_out):
        look = partial(_predict, setup, state.network, fits, number, sample)
        logits, seen = yield from attempt(setup, state, _WHAT, look)
        if torch.isfinite(logits).all():
            take_in = partial(scores.take, logits, sample.truth)
            try:
                take_in(_carrier(setup, sample), sample.id.index, seen)
            except MedsagaError as error:  # its image's file is gone
                take_in(None, sample.id.index, seen)
                yield Notice(
                    message=f"{sample.id.name} is judged without the paint beside it: "
                    f"{error}"
                )
        yield setup.head_progress("left out", (total, total), loss, 0.0)
    state.trust = scores.trust() or state.trust
    state.expected = _with_what_was_said(state.expected, scores.expected_dice())
    if state.expected:
        yield Expected(dice=state.expected, n_left_out=len(left_out))


def _with_what_was_said(
    before: Mapping[int, float], now: Mapping[int, float]
) -> dict[int, float]:
    """Weigh what was forecast before the encoder learned with what is after it."""
    return {
        value: dice + _BEFORE * (before.get(value, dice) - dice)
        for value, dice in now.items()
    }


def _n_steps(fit_steps: float) -> int:
    return max(1, min(_MOST_STEPS, round(_SHARE_OF_STEPS * fit_steps)))


def _predict(
    setup: Setup, network: MedSAGa, fits: LeftOutFits, number: int, sample: Sample
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Give the logits of a slice by head `number`, and where it was looked at."""
    head, size = network.detail_head, sample.truth.shape
    assert head is not None
    all_logits, seen = None, np.zeros(size, bool)
    with _borrowed_head(network), evaluating(network):
        network.decoder.start_from_linear_map(fits.write_to(number, head))
        for part in _parts(setup, sample):
            logits = predict_image(network, part.sample.seen, setup.precision)
            if all_logits is None:
                all_logits = logits.new_zeros((len(logits), *size))
            all_logits[:, part.place[0], part.place[1]] = logits
            seen[part.place] = True
    assert all_logits is not None
    return all_logits, seen


@contextmanager
def _borrowed_head(network: MedSAGa) -> Iterator[None]:
    """Put back what decides on the classes, as it was before."""
    kept: Mapping[str, object] = {
        name: tensor.clone()
        for name, tensor in network.state_dict().items()
        if name.startswith(_DRAWN)
    }
    try:
        yield
    finally:
        network.load_state_dict(kept, strict=False)

"""Held-out slices: which ones, and how well a network segments them."""

from __future__ import annotations

from collections import defaultdict
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medsaga.computing import evaluating
from medsaga.events import Validated
from medsaga.metrics import mean_or_nan, score
from medsaga.network.inference import predict_image

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from medsaga.data.samples import Sample
    from medsaga.metrics import Scores
    from medsaga.models.card import ModelCard
    from medsaga.models.kept_slices import SliceName
    from medsaga.training.session import Session

_HELD_OUT_SHARE = 0.2
_MOST_VALIDATED = 8
# Views of these numbers are never trained on.
_FIRST_VIEW = 1_000_000_000


def split_held_out(
    samples: Sequence[Sample],
    n_classes: int,
    hold_out_from: int,
    card: ModelCard | None = None,
    corrected: Collection[SliceName] = (),
) -> tuple[list[Sample], list[Sample]]:
    """Split into training and held-out slices.

    From `hold_out_from` slices upwards a fifth is held out, spread evenly over them;
    below, none is. A slice that alone carries a class or background is not held out.
    Of a model that goes on, whose `card` is given, what was held out stays so, but for
    what the user has `corrected`, and what it has trained on is not held out: it would
    score high on that.
    """
    if len(samples) < hold_out_from:
        return list(samples), []
    wanted = max(2, round(_HELD_OUT_SHARE * len(samples)))
    slices_left = np.zeros(n_classes, dtype=int)
    present = [classes_of(sample) for sample in samples]
    for classes in present:
        slices_left[classes] += 1
    names = [(sample.name, sample.slice_index) for sample in samples]
    before = _names(card.held_out_slices if card else ()) - {*corrected}
    trained = _names(card.training_slices if card else ()) | {*corrected}
    free = [i for i, name in enumerate(names) if name not in trained]
    held_out: set[int] = set()

    def hold_out_one(candidates: Iterable[int]) -> None:
        for index in candidates:
            if index not in held_out and (slices_left[present[index]] > 1).all():
                held_out.add(index)
                slices_left[present[index]] -= 1
                return

    for index in free:
        if names[index] in before and len(held_out) < wanted:
            hold_out_one([index])
    n_more = max(0, wanted - len(held_out))
    spread = np.linspace(0, len(samples) - 1, n_more + 2)[1:-1].round().astype(int)
    for start in spread:
        hold_out_one(sorted(free, key=lambda i: abs(i - start)))
    return (
        [s for i, s in enumerate(samples) if i not in held_out],
        [s for i, s in enumerate(samples) if i in held_out],
    )


def _names(slices: Iterable[Sequence[Any]]) -> set[tuple[str, int]]:
    return {(name, index) for name, index in slices}


def validate(session: Session, step: int) -> Validated:
    """Score the network on the held-out slices, or else on the training slices.

    Dice and HD95 are means over the slices on which a class can be scored, at the
    slices' own resolution. Eight slices are looked at, and more only for a class that
    none of them shows. On a slice of which not every pixel is known, Dice is that of
    the known ones, and there is no HD95.
    """
    found: list[Scores] = []
    with evaluating(session.network):
        for sample in validated_slices(session):
            logits = predict_image(
                session.network,
                sample.image,
                sample.content,
                sample.truth.shape,
                session.precision,
            )
            mask = session.table.to_values(logits.argmax(0).cpu().numpy())
            values = session.table.values[1:]
            found.append(
                score(mask, sample.truth, values, sample.spacing, sample.known)
            )
    return Validated(
        step=step,
        dice=_means(scores.dice for scores in found),
        hd95=_means(scores.hd95 for scores in found),
        measured_on="held-out slices" if session.held_out else "training slices",
    )


def dice_on_views(session: Session) -> float:
    """Score the network on augmented views of training slices that it never saw.

    The head is fitted to the very pixels of the training slices, and scores high on
    them for that alone. A training that clearly served other slices kept its Dice on
    such views, and one that clearly spoiled them lost it (docs/choices.md).

    Returns
    -------
    float
        Mean Dice over the classes, of each the mean over the views on which it can be
        scored, at the working size; NaN if none can be.
    """
    augment, classes = session.augmenter(), range(1, len(session.table))
    found: list[Scores] = []
    slices = islice(cycle(validated_slices(session)), _MOST_VALIDATED)
    with evaluating(session.network):
        for number, sample in enumerate(slices, _FIRST_VIEW):
            image, target = augment(sample.image, sample.labels, number, sample.content)
            size = (image.shape[1], image.shape[2])
            logits = predict_image(
                session.network, image, size, size, session.precision
            )
            mask, known = logits.argmax(0).cpu().numpy(), (target >= 0).numpy()
            found.append(score(mask, target.numpy(), classes, known=known))
    return mean_or_nan(_means(scores.dice for scores in found).values())


def _means(scores: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """Give the mean of each class over those that have a score of it."""
    rows: dict[int, list[float]] = defaultdict(list)
    for row in scores:
        for key, number in row.items():
            rows[key].append(number)
    return {key: float(np.mean(row)) for key, row in rows.items()}


def validated_slices(session: Session) -> list[Sample]:
    """Pick those to score: spread evenly, and those that other classes are seen on."""
    samples = session.held_out or session.training
    spread = np.linspace(0, len(samples) - 1, min(len(samples), _MOST_VALIDATED))
    picked = [samples[index] for index in spread.round().astype(int)]
    seen = {index for sample in picked for index in classes_of(sample)}
    for sample in samples:
        classes = set(classes_of(sample))
        if not classes <= seen:
            picked.append(sample)
            seen |= classes
    return picked


def classes_of(sample: Sample) -> np.ndarray:
    """Give the indices of the classes on a slice, background among them."""
    classes = torch.unique(sample.target)
    known: np.ndarray = classes[classes >= 0].numpy()
    return known

"""How well a network segments the slices that it is judged by."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np

from medsaga.computing import evaluating
from medsaga.data.samples import classes_of
from medsaga.data.tiles import parts_to_judge
from medsaga.events import Validated
from medsaga.metrics import mean, mean_by_class, score
from medsaga.network.inference import predict_image
from medsaga.windows import WorkingImage

if TYPE_CHECKING:
    from medsaga.data.samples import Sample
    from medsaga.data.tiles import Part
    from medsaga.metrics import Scores
    from medsaga.network.medsaga import MedSAGa
    from medsaga.training.setup import Setup

_MOST_VALIDATED = 8
# Views of these numbers are never trained on.
_FIRST_VIEW = 1_000_000_000


def validate(setup: Setup, network: MedSAGa, step: int) -> Validated:
    """Score the network on the held-out slices, or else on the training slices.

    Dice and HD95 are means over the slices on which a class can be scored, at the
    slices' own resolution; of slices that are seen in tiles, over those with the most
    of a class. Eight slices are looked at, and more only for a class that
    none of them shows. On a slice of which not every pixel is known, Dice is that of
    the known ones, and there is no HD95.
    """
    found: list[Scores] = []
    with evaluating(network):
        for part in judged_parts(setup):
            sample = part.sample
            logits = predict_image(network, sample.seen, setup.precision)
            mask = setup.table.to_values(logits.argmax(0).cpu().numpy())
            values = [setup.table.values[index] for index in part.classes]
            found.append(
                score(mask, sample.truth, values, sample.spacing, sample.known)
            )
    return Validated(
        step=step,
        dice=mean_by_class(scores.dice for scores in found),
        hd95=mean_by_class(scores.hd95 for scores in found),
        measured_on="held-out slices" if setup.held_out else "training slices",
    )


def dice_on_views(setup: Setup, network: MedSAGa) -> float:
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
    augment, classes = setup.augmenter(), range(1, len(setup.table))
    found: list[Scores] = []
    slices = islice(cycle(validated_slices(setup)), _MOST_VALIDATED)
    with evaluating(network):
        for number, sample in enumerate(slices, _FIRST_VIEW):
            image, target = augment.view(sample, number)
            size = (image.shape[1], image.shape[2])
            seen = WorkingImage(image=image, content=size, size=size)
            logits = predict_image(network, seen, setup.precision)
            mask, known = logits.argmax(0).cpu().numpy(), (target >= 0).numpy()
            found.append(score(mask, target.numpy(), classes, known=known))
    return mean(mean_by_class(scores.dice for scores in found).values())


def judged_parts(setup: Setup) -> list[Part]:
    """Give what is scored of the slices that are: all of them, or some tiles."""
    tile, n_classes = setup.canvas.tile, len(setup.table)
    slices = validated_slices(setup)
    return [part for one in slices for part in parts_to_judge(one, tile, n_classes)]


def validated_slices(setup: Setup) -> list[Sample]:
    """Pick those to score: spread evenly, and those that other classes are seen on."""
    samples = setup.judged
    spread = np.linspace(0, len(samples) - 1, min(len(samples), _MOST_VALIDATED))
    picked = [samples[index] for index in spread.round().astype(int)]
    seen = {index for sample in picked for index in classes_of(sample)}
    for sample in samples:
        classes = set(classes_of(sample))
        if not classes <= seen:
            picked.append(sample)
            seen |= classes
    return picked

"""Classes that a training has lost: noticed, and fitted anew where they are."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from medsaga.computing import evaluating
from medsaga.data.sizing import scale_targets
from medsaga.data.tiles import parts_to_judge
from medsaga.network.detail_head import sample_pyramid
from medsaga.training.features.sampled_pixels import shuffled_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsaga.data.samples import Sample
    from medsaga.events import Validated
    from medsaga.network.medsaga import MedSAGa
    from medsaga.training.setup import Setup

_MOST_SLICES = 8
_PIXELS = 1000
_DECAY = 1e-3
_FIT_STEPS = 50


def lost_classes(
    setup: Setup, network: MedSAGa, scores: Validated | None = None
) -> list[int]:
    """Find the classes that the network sees nowhere on its own training slices.

    Parameters
    ----------
    setup, network
        The training, and the network as it is.
    scores
        Those of the network as it is: a class with a Dice above 0 is not looked for,
        but one that no held-out slice shows is. None looks for all.

    Returns
    -------
    list of int
        Their indices, of those that are on a training slice at all.
    """
    seen_on = cache(
        lambda i: {
            index
            for part in _parts(setup, setup.training[i])
            for index in _rightly_found(setup, network, part)
        }
    )
    lost = []
    for index, value in enumerate(setup.table.values[1:], 1):
        if scores is not None and scores.dice.get(value):
            continue
        slices = _slices_with(setup.training, index)
        if slices and not any(index in seen_on(i) for i in slices):
            lost.append(index)
    return lost


def refit_class(setup: Setup, network: MedSAGa, index: int) -> None:
    """Fit the outputs of one class anew, the rest of the network left as it is.

    Its row of the detail head and its mask of the decoder become the logistic
    regression on the features that lead to them, against the other classes' logits as
    they are. As at the start of the training, the decoder's mask then is the same
    combination of its features on every image.
    """
    slices = [
        part
        for i in _slices_with(setup.training, index)
        for part in _parts(setup, setup.training[i])
    ]
    parts = [_features_and_others(setup, network, s, index) for s in slices]
    features, others, is_class = (torch.cat(part) for part in zip(*parts, strict=True))
    deviation = features.std(0).clamp_min(1e-4)
    row = _fit_row(features / deviation, others, is_class) / deviation
    n_decoder = network.decoder.feature_channels
    network.decoder.set_linear_map(index, row[:n_decoder])
    if network.detail_head is not None:
        with torch.no_grad():
            network.detail_head.classify.weight[index, :, 0, 0] = row[n_decoder:-1]
            bias = network.detail_head.classify.bias
            assert bias is not None
            bias[index] = row[-1]


def _parts(setup: Setup, sample: Sample) -> list[Sample]:
    parts = parts_to_judge(sample, setup.canvas.tile, len(setup.table.values))
    return [part.sample for part in parts]


def _slices_with(samples: Sequence[Sample], index: int) -> list[int]:
    """Give the indices of slices that show a class, the one with most of it first."""
    shown = [int((sample.target == index).sum()) for sample in samples]
    order = sorted(range(len(samples)), key=lambda i: -shown[i])
    return [i for i in order if shown[i]][:_MOST_SLICES]


def _rightly_found(setup: Setup, network: MedSAGa, sample: Sample) -> set[int]:
    """Give the indices of the classes of which some pixel is found where it is."""
    with evaluating(network), setup.autocast():
        logits = network(setup.to_device(sample.image[None]))
    height, width = logits.shape[-2:]
    # A stroke that vanished where the target shrinks could never be found.
    shown = scale_targets(
        sample.target[None], (height, width), keep_strokes=sample.known is not None
    )
    found = logits.argmax(1).cpu()
    return set(found[found == shown].tolist())


def _features_and_others(
    setup: Setup, network: MedSAGa, sample: Sample, index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample pixels: features of the class's outputs, other logits, and whether it is.

    The other classes' logits are brought down to one number, their log-sum-exp, which
    is all that the probability of the class depends on.
    """
    images = setup.to_device(sample.image[None])
    points = _draw_points(sample.target, index, setup.settings.seed)
    with evaluating(network), setup.autocast():
        pyramid = network.backbone(images)
        maps = [network.decoder.decode(pyramid[-1])[1]]
        if network.detail_head is not None:
            maps.append(network.detail_head.hidden(pyramid, images))
        logits = network.logits(pyramid, images)
    size = (sample.image.shape[-2], sample.image.shape[-1])
    places = points.to(setup.device)
    features = sample_pyramid(maps, places, size)
    sampled = sample_pyramid([logits], places, size)
    others = torch.cat([sampled[:, :index], sampled[:, index + 1 :]], 1).logsumexp(1)
    if network.detail_head is not None:  # which alone has a bias
        features = F.pad(features, (0, 1), value=1.0)
    is_class = sample.target[points[:, 0], points[:, 1]] == index
    return features, others, is_class.to(others)


def _draw_points(target: Tensor, index: int, seed: int) -> Tensor:
    """Draw pixels of the class and as many of the others: (n, 2) rows, columns."""
    generator = torch.Generator().manual_seed(seed)
    wanted = (target == index, (target != index) & (target >= 0))
    return torch.cat([shuffled_pixels(mask, generator)[:_PIXELS] for mask in wanted])


def _fit_row(features: Tensor, others: Tensor, is_class: Tensor) -> Tensor:
    row = torch.zeros(features.shape[1], device=features.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [row], max_iter=_FIT_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        margin = features @ row - others
        loss = F.binary_cross_entropy_with_logits(margin, is_class)
        loss = loss + _DECAY * row.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return row.detach()

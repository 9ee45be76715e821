"""What the benchmark compares: MedSAGa, its strategies, and what users have without it.

Each method trains on a task's annotated slices for a given time and gives a function
from a volume to its mask. All of them get the same images: scaled to the same working
size by the same intensity rule, and the networks the same augmented views, loss,
threads and number format.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from dae_former import DAEFormer
from monai.networks.nets import UNet
from torch import Tensor, nn

import medsaga
from medsaga import FineTuneSettings, SegmentSettings, Volume, drain
from medsaga.computing import (
    FixedPrecision,
    autocast,
    computing_threads,
    pick_device,
    pick_precision,
)
from medsaga.data.annotation import annotated_slices
from medsaga.data.augment import Augmenter, choose_negatives
from medsaga.data.canvas import choose_canvas
from medsaga.data.classes import class_table
from medsaga.data.intensity import choose_intensity
from medsaga.data.samples import build_samples, drawn_sample, working_image
from medsaga.data.sizing import collate
from medsaga.data.survey import finest_width
from medsaga.events import Notice, Preview, Progress
from medsaga.network.backbones.catalogue import kind_of_weights
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.backbones.sam_format import read_checkpoint
from medsaga.network.inference import look_at
from medsaga.segmentation.smoothing import is_smoothed, smooth_slices
from medsaga.settings.fine_tune import ONE_STAGE
from medsaga.training.optim.losses import SegmentationLoss
from medsaga.training.optim.strategy import STRATEGIES
from medsaga.training.plan.steps import lr_factor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tasks import Task

Predictor = Callable[[Volume, SegmentSettings], "NDArray[Any]"]
"""A volume, and how to segment it, to its mask."""
_MULTIPLE = 32


@dataclass
class Fitted:
    """A method after its training: how it predicts, and what is known of it."""

    predict: Predictor
    values: tuple[int, ...]
    votes: bool = False
    losses: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def fit_medsaga(
    task: Task, settings: FineTuneSettings, *, stops_early: bool = False
) -> Fitted:
    """Fine-tune by the engine, as a user does.

    With `stops_early` by one who clicks Stop at the first preview that a model gives.
    """
    losses: list[float] = []
    previews: list[Preview] = []

    def note(event: medsaga.events.Event) -> None:
        if isinstance(event, Progress) and event.stage == "galore":
            losses.append(event.loss)
        elif isinstance(event, Preview):
            previews.append(event)
        elif isinstance(event, Notice):
            print(event.message)

    images, labels = zip(*task.training, strict=True)
    stream = medsaga.fine_tune(
        medsaga.TrainingData(images, labels, axis=task.axis), settings
    )

    def has_seen_enough() -> bool:
        return stops_early and any(seen.stage != "paint" for seen in previews)

    model = drain(stream, note, should_stop=has_seen_enough)
    assert model is not None
    trust = model.card.paint_trust
    facts = {
        "first_preview_seconds": previews[0].seconds if previews else None,
        "steps": model.card.metrics["step"],
        "precision": model.card.settings["precision"],
        "expected_dice": model.card.metrics["expected_dice"],
        "paint_growth": trust and trust.growth,
        "optimizer_state_mb": model.card.measured.get("optimizer_state_bytes", 0)
        / 2**20,
    }

    def predict(volume: Volume, way: SegmentSettings) -> NDArray[Any]:
        return drain(medsaga.segment(model, volume, way)).mask.array

    return Fitted(predict, model.card.classes.values[1:], True, losses, facts)


class _Prepared:
    """A task's slices as the engine would train on them."""

    def __init__(self, task: Task, settings: FineTuneSettings) -> None:
        images, labels = map(list, zip(*task.training, strict=True))
        background = settings.painted_background
        annotation = annotated_slices(labels, task.axis, background_value=background)
        self.axis = annotation.axis
        self.table = class_table(labels, annotation)
        self.rule, _ = choose_intensity(
            settings.intensity, images, labels, None, background
        )
        sizes = [
            (images[v].slice_shape(self.axis), images[v].slice_spacing(self.axis))
            for v, _ in annotation.slices
        ]
        stride = embedding_stride(settings.backbone)
        finest = finest_width(images, labels, annotation)
        self.canvas = choose_canvas(
            sizes,
            settings,
            _MULTIPLE,
            stride,
            finest,
            neighbours=settings.neighbours,
        )
        self.samples = build_samples(
            images, labels, annotation, self.table, self.rule, self.canvas
        )
        self.settings = replace(
            settings,
            negatives=choose_negatives(settings.negatives, self.samples, self.rule),
        )


def embedding_stride(backbone: str) -> int:
    """Tell how coarse the compared backbone is, on which the working size depends."""
    with torch.device("meta"):
        return build_backbone(_architecture(backbone)).embedding.stride


def compared_precision(settings: FineTuneSettings, side: int) -> FixedPrecision:
    """Pick the number format that the compared backbone computes in.

    A small network's own times differ too little to pick the same one in every run.
    """
    device = pick_device()
    network = build_backbone(_architecture(settings.backbone)).to(device)
    network = network.to(memory_format=torch.channels_last)
    with computing_threads():
        return pick_precision(settings.precision, network, device, side)


def _architecture(backbone: str) -> str:
    if not Path(backbone).is_file():
        return backbone
    return kind_of_weights(read_checkpoint(Path(backbone))).name


def fit_from_scratch(
    network_of: Callable[[int], nn.Module],
    task: Task,
    settings: FineTuneSettings,
    *,
    learning_rate: float,
    batch_size: int = 4,
    warmup_steps: int = 30,
) -> Fitted:
    """Train a network from random weights.

    Parameters
    ----------
    network_of
        From the number of classes to a network, from (batch, 3, rows, columns) to
        logits of the same size, sides being multiples of 32.
    task, settings
        As for every method.
    learning_rate
        AdamW's, after the warm-up; it decays with the time left.
    batch_size
        Views in a step.
    warmup_steps
        Steps in which the learning rate rises from 0, unless the settings have none.
    """
    data, device = _Prepared(task, settings), pick_device()
    precision = compared_precision(settings, data.canvas.tile or data.canvas.long_side)
    started = time.monotonic()
    warmup_steps = warmup_steps if settings.warmup_steps else 1
    torch.manual_seed(settings.seed)
    network = network_of(len(data.table)).to(device)
    network = network.to(memory_format=torch.channels_last)
    loss_of = SegmentationLoss(settings.loss_dice_weight)
    optimizer = torch.optim.AdamW(
        network.parameters(), learning_rate, weight_decay=settings.weight_decay
    )
    losses: list[float] = []
    with computing_threads():
        network.train()
        batches = _batches(data, batch_size)
        for share, (images, targets) in zip(
            _shares(settings, started), batches, strict=False
        ):
            factor = min(1, (len(losses) + 1) / warmup_steps) * lr_factor(
                int(1000 * share), 1000, 0, settings.decay_power
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor
            images = images.to(device, memory_format=torch.channels_last)
            with autocast(device, precision):
                logits = network(images)
            loss = loss_of(logits, targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    facts = {"steps": len(losses), "precision": precision}
    predict = partial(_predict, network.eval(), data, precision)
    return Fitted(predict, data.table.values[1:], losses=losses, facts=facts)


def _shares(settings: FineTuneSettings, started: float) -> Iterator[float]:
    """Give, before each step, what part of the steps or of the time is over."""
    for step in count():
        seconds = time.monotonic() - started
        share = (
            step / settings.steps
            if settings.steps
            else seconds / (settings.minutes * 60)
        )
        if share >= 1:
            return
        yield share


def _batches(data: _Prepared, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Give augmented views of the slices without end; an epoch draws each once."""
    settings, n = data.settings, len(data.samples)
    augment = Augmenter(settings, settings.seed, data.canvas.tile)
    for first in count(step=batch_size):
        drawn = [
            (data.samples[drawn_sample(settings.seed, view, n)], view)
            for view in range(first, first + batch_size)
        ]
        yield collate([augment.view(sample, view) for sample, view in drawn])


def _predict(
    network: nn.Module,
    data: _Prepared,
    precision: FixedPrecision,
    volume: Volume,
    way: SegmentSettings,
) -> NDArray[Any]:
    """Segment a volume slice by slice; the network gives logits for images."""
    limits = data.rule.limits(volume)
    with computing_threads():
        stack = (
            look_at(
                network,  # type: ignore[arg-type] # anything from images to logits
                working_image(volume, data.axis, index, limits, data.canvas),
                precision,
                data.canvas.tile,
            )
            for index in range(volume.shape[data.axis])
        )
        if is_smoothed(way.smooth, volume, data.axis):
            stack = smooth_slices(stack)
        masks = [logits.restore().argmax(0) for logits in stack]
    indices = torch.stack(masks, dim=data.axis).cpu().numpy()
    return data.table.to_values(indices)


def _unet(n_classes: int, *, width: int = 16) -> nn.Module:
    """Build MONAI's residual U-Net."""
    network: nn.Module = UNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=n_classes,
        channels=tuple(width * 2**i for i in range(5)),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )
    return network


def fit_propagation(
    task: Task, settings: FineTuneSettings, *, follows_flow: bool | None = None
) -> Fitted:
    """Carry the painted slices through their volume; nothing is learned."""
    (image, labels), *others = task.training
    if others or image.is_2d:
        raise medsaga.MedsagaError(
            "Paint is carried within one volume: leave this method out for the task."
        )

    def predict(volume: Volume, way: SegmentSettings) -> NDArray[Any]:
        carried = medsaga.propagate(
            volume,
            labels,
            axis=task.axis,
            background_value=settings.painted_background,
            follows_flow=follows_flow,
        )
        return drain(carried).mask.array

    values = np.unique(labels.array[labels.array != 0]).tolist()
    return Fitted(predict, tuple(values))


def fit_forest(task: Task, settings: FineTuneSettings) -> Fitted:
    """Fit a random forest on scikit-image's multi-scale features of each pixel."""
    from skimage.feature import multiscale_basic_features
    from sklearn.ensemble import RandomForestClassifier

    data = _Prepared(task, settings)
    features, targets = [], []
    for sample in data.samples:
        rows, cols = sample.content
        image = sample.image[1].numpy()  # between its neighbours, if any
        # Of the padded image, as in prediction: the coarse features see the padding.
        found = _features(multiscale_basic_features, image)
        features.append(found[:rows, :cols].reshape(rows * cols, -1))
        targets.append(sample.target[:rows, :cols].numpy().ravel())
    x, y = np.concatenate(features), np.concatenate(targets)
    forest = RandomForestClassifier(
        n_estimators=100,
        max_depth=20,
        max_samples=0.1,
        n_jobs=-1,
        random_state=settings.seed,
    ).fit(x[y >= 0], y[y >= 0])

    def logits(image: Tensor) -> Tensor:
        x = _features(multiscale_basic_features, image[1].cpu().numpy())
        x = x.reshape(-1, x.shape[-1])
        scores = np.zeros((len(x), len(data.table)), np.float32)
        scores[:, forest.classes_] = forest.predict_proba(x)
        return torch.from_numpy(scores.T.reshape(-1, *image.shape[1:]))

    predict = partial(_predict, _Forest(logits), data, "fp32")
    return Fitted(predict, data.table.values[1:])


class _Forest(nn.Module):
    """A forest as a network: it has a parameter, by which its device is told."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.zeros(1))
        self._logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self._logits(image) for image in images])


def _features(of: Callable[..., NDArray[Any]], image: NDArray[Any]) -> NDArray[Any]:
    """Give (rows, columns, features)."""
    return of(image, sigma_min=0.5, sigma_max=16).astype(np.float32)


def _strategy(name: Any, task: Task, settings: FineTuneSettings) -> Fitted:
    settings = replace(settings, strategy="medsaga")
    if name in ONE_STAGE:
        settings = replace(
            settings, detail_head=False, stages="galore", mend_classes=False
        )
    return fit_medsaga(task, replace(settings, strategy=name))


# Its paper's rate, 0.05, is for SGD. On a CPU its steps are dear and it needs hundreds
# of them, so that they are small here, and few of them are warm-up.
_fit_from_few_views = partial(fit_from_scratch, batch_size=2, warmup_steps=10)

METHODS: dict[str, Callable[..., Fitted]] = {
    **{name: partial(_strategy, name) for name in STRATEGIES},
    "first-preview": partial(fit_medsaga, stops_early=True),
    "unet-slow": partial(fit_from_scratch, _unet, learning_rate=1e-3),
    "unet": partial(fit_from_scratch, _unet, learning_rate=3e-3),
    "unet-fast": partial(fit_from_scratch, _unet, learning_rate=1e-2),
    "unet-faster": partial(fit_from_scratch, _unet, learning_rate=3e-2),
    "unet-fast-wide": partial(
        fit_from_scratch, partial(_unet, width=32), learning_rate=1e-2
    ),
    "unet-fast-narrow": partial(
        fit_from_scratch, partial(_unet, width=8), learning_rate=1e-2
    ),
    "dae-former": partial(_fit_from_few_views, DAEFormer, learning_rate=1e-3),
    "dae-former-slow": partial(_fit_from_few_views, DAEFormer, learning_rate=5e-4),
    "dae-former-narrow": partial(
        _fit_from_few_views,
        partial(DAEFormer, widths=(64, 160, 256)),
        learning_rate=1e-3,
    ),
    "forest": fit_forest,
    "propagation": fit_propagation,
    "propagation-plain": partial(fit_propagation, follows_flow=False),
}

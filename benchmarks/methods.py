"""What the benchmark compares: MedSAGa, its strategies, and what users have without it.

Each method trains on a task's annotated slices for a given time and gives a function
from a volume to its mask. All of them get the same images: scaled to the same working
size by the same intensity rule, and the networks the same augmented views, loss,
threads and number format.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.networks.nets import UNet
from torch import nn

import medsaga
from medsaga import FineTuneSettings, Notice, Preview, Progress, Volume, drain
from medsaga.computing import autocast, computing_threads, pick_device, pick_precision
from medsaga.data.annotation import annotated_slices
from medsaga.data.augment import Augmenter
from medsaga.data.canvas import Canvas, choose_long_side
from medsaga.data.classes import class_table
from medsaga.data.intensity import choose_intensity
from medsaga.data.samples import build_samples
from medsaga.data.sizing import collate
from medsaga.inference import predict_slice
from medsaga.settings import ONE_STAGE
from medsaga.training.losses import SegmentationLoss
from medsaga.training.optimizer import lr_factor
from medsaga.training.strategy import STRATEGIES

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tasks import Task

Predictor = Callable[[Volume], "NDArray[Any]"]
_MULTIPLE = 32


@dataclass
class Fitted:
    """A method after its training: how it predicts, and what is known of it."""

    predict: Predictor
    values: tuple[int, ...]
    losses: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def fit_medsaga(task: Task, settings: FineTuneSettings) -> Fitted:
    """Fine-tune by the engine, as a user does."""
    losses: list[float] = []
    previews: list[float] = []

    def note(event: medsaga.Event) -> None:
        if isinstance(event, Progress) and event.stage == "galore":
            losses.append(event.loss)
        elif isinstance(event, Preview):
            previews.append(event.seconds)
        elif isinstance(event, Notice):
            print(event.message)

    images, labels = zip(*task.training, strict=True)
    model = drain(medsaga.fine_tune(images, labels, settings), note)
    assert model is not None
    facts = {
        "first_preview_seconds": previews[0] if previews else None,
        "steps": model.card.metrics["step"],
        "precision": model.card.settings["precision"],
        "optimizer_state_mb": model.card.measured.get("optimizer_state_bytes", 0)
        / 2**20,
    }

    def predict(volume: Volume) -> NDArray[Any]:
        return drain(medsaga.segment(model, volume)).mask.array

    return Fitted(predict, model.card.classes.values[1:], losses, facts)


class _Prepared:
    """A task's slices as the engine would train on them."""

    def __init__(self, task: Task, settings: FineTuneSettings) -> None:
        images, labels = map(list, zip(*task.training, strict=True))
        annotation = annotated_slices(labels)
        self.axis = annotation.axis
        self.table = class_table(labels, annotation)
        self.rule, _ = choose_intensity(settings.intensity, images, labels, None)
        sizes = [
            (images[v].slice_shape(self.axis), images[v].slice_spacing(self.axis))
            for v, _ in annotation.slices
        ]
        side = choose_long_side(sizes, settings, _MULTIPLE)
        self.canvas = Canvas(long_side=side, multiple=_MULTIPLE)
        self.samples = build_samples(
            images, labels, annotation, self.table, self.rule, self.canvas
        )


def fit_unet(
    task: Task,
    settings: FineTuneSettings,
    *,
    width: int = 16,
    learning_rate: float = 3e-3,
    batch_size: int = 4,
) -> Fitted:
    """Train MONAI's residual U-Net from scratch; the rate decays with the time left."""
    started = time.monotonic()
    data, device = _Prepared(task, settings), pick_device()
    torch.manual_seed(settings.seed)
    network: nn.Module = UNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=len(data.table),
        channels=tuple(width * 2**i for i in range(5)),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    ).to(device, memory_format=torch.channels_last)
    augment, loss_of = Augmenter(settings, settings.seed), SegmentationLoss(0.8)
    optimizer = torch.optim.AdamW(
        network.parameters(), learning_rate, weight_decay=0.01
    )
    losses: list[float] = []
    with computing_threads():
        precision = pick_precision(
            settings.precision, network, device, data.canvas.long_side
        )
        network.train()
        while (share := (time.monotonic() - started) / (settings.minutes * 60)) < 1:
            step, view = len(losses), len(losses) * batch_size
            factor = min(1, (step + 1) / 30) * lr_factor(
                int(1000 * share), 1000, 0, settings.decay_power
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor
            drawn = [
                (data.samples[_order(settings.seed, v, len(data.samples))], v)
                for v in range(view, view + batch_size)
            ]
            images, targets = collate(
                [augment(s.image, s.target, v, s.content) for s, v in drawn]
            )
            images = images.to(device, memory_format=torch.channels_last)
            with autocast(device, precision):
                logits = network(images)
            loss = loss_of(logits, targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    network.eval()

    def predict(volume: Volume) -> NDArray[Any]:
        limits = data.rule.limits(volume)
        with computing_threads():
            masks = [
                predict_slice(
                    network,  # type: ignore[arg-type] - anything from images to logits
                    volume,
                    data.axis,
                    index,
                    limits=limits,
                    canvas=data.canvas,
                    precision=precision,
                ).argmax(0)
                for index in range(volume.shape[data.axis])
            ]
        indices = torch.stack(masks, dim=data.axis).cpu().numpy()
        return data.table.to_values(indices)

    facts = {"steps": len(losses), "precision": precision}
    return Fitted(predict, data.table.values[1:], losses, facts)


def _order(seed: int, view: int, n: int) -> int:
    rng = np.random.default_rng([seed, view // n])
    return int(rng.permutation(n)[view % n])


def fit_forest(task: Task, settings: FineTuneSettings) -> Fitted:
    """Fit a random forest on scikit-image's multi-scale features of each pixel."""
    from skimage.feature import multiscale_basic_features
    from sklearn.ensemble import RandomForestClassifier

    data = _Prepared(task, settings)
    features, targets = [], []
    for sample in data.samples:
        rows, cols = sample.content
        image = sample.image[0, :rows, :cols].numpy()
        features.append(_features(multiscale_basic_features, image))
        targets.append(sample.target[:rows, :cols].numpy().ravel())
    x, y = np.concatenate(features), np.concatenate(targets)
    forest = RandomForestClassifier(
        n_estimators=100,
        max_depth=20,
        max_samples=0.1,
        n_jobs=-1,
        random_state=settings.seed,
    ).fit(x[y >= 0], y[y >= 0])

    def logits(image: torch.Tensor) -> torch.Tensor:
        x = _features(multiscale_basic_features, image[0].cpu().numpy())
        scores = np.zeros((len(x), len(data.table)), np.float32)
        scores[:, forest.classes_] = forest.predict_proba(x)
        return torch.from_numpy(scores.T.reshape(-1, *image.shape[1:]))

    def predict(volume: Volume) -> NDArray[Any]:
        limits = data.rule.limits(volume)
        masks = [
            predict_slice(
                _Forest(logits),  # type: ignore[arg-type] - images to logits
                volume,
                data.axis,
                index,
                limits=limits,
                canvas=data.canvas,
                precision="fp32",
            ).argmax(0)
            for index in range(volume.shape[data.axis])
        ]
        return data.table.to_values(torch.stack(masks, dim=data.axis).numpy())

    return Fitted(predict, data.table.values[1:])


class _Forest(nn.Module):
    """A forest as a network: it has a parameter, by which its device is told."""

    def __init__(self, logits: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.zeros(1))
        self._logits = logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._logits(image) for image in images])


def _features(of: Callable[..., NDArray[Any]], image: NDArray[Any]) -> NDArray[Any]:
    found = of(image, sigma_min=0.5, sigma_max=16)
    return found.reshape(-1, found.shape[-1]).astype(np.float32)


def _strategy(name: Any, task: Task, settings: FineTuneSettings) -> Fitted:
    settings = replace(settings, strategy="medsaga")
    if name in ONE_STAGE:
        settings = replace(settings, detail_head=False, stages="galore")
    return fit_medsaga(task, replace(settings, strategy=name))


METHODS: dict[str, Callable[..., Fitted]] = {
    **{name: partial(_strategy, name) for name in STRATEGIES},
    "unet": fit_unet,
    "unet-wide": partial(fit_unet, width=32),
    "unet-slow": partial(fit_unet, learning_rate=1e-3),
    "forest": fit_forest,
}

"""Dice on the reference tasks: five annotated slices or images in, the rest segmented.

    python benchmarks/reference_tasks.py DATA TASK... [--preset NAME] [--set NAME=VALUE]

DATA holds the folders `multi-organ-ct-3mm`, `chest-xray`, `hippocampus-mri`,
`nuclei-microscopy` and `spleen-ct`. One JSON document a task goes to stdout: Dice of
each class on the slices that did not train, at their own resolution (a mean over the
test images), with the whole model and with the decoder's or the detail head's logits
left out, and the time of the first preview and of the training. Images are judged that
never trained; nothing is chosen on them.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v3 as imageio
import numpy as np
import torch
from torch.nn import functional as F

import medsaga
from medsaga import Preview, TrainedModel, Volume, drain, fine_tune, segment
from medsaga.model import LogitParts, MedSAGa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Image = tuple[Volume, Volume]  # with its truth


@dataclass(frozen=True)
class Task:
    """What trains, and what is judged: images with truth, and the slices that count."""

    training: list[Image]
    test: list[tuple[Volume, Volume, list[int]]]


def _annotate(image: Volume, truth: Volume, slices: list[int]) -> Image:
    labels = np.zeros_like(truth.array)
    labels[slices] = truth.array[slices]
    return image, truth.with_array(labels)


def _one_volume(image: Volume, truth: Volume, slices: list[int]) -> Task:
    rest = [i for i in range(image.shape[0]) if i not in slices]
    return Task([_annotate(image, truth, slices)], [(image, truth, rest)])


def ct_5(data: Path) -> Task:
    folder = data / "multi-organ-ct-3mm"
    truth = medsaga.read_labels(folder / "example_seg.nii.gz")
    wanted = np.isin(truth.array, (1, 2, 3, 5, 20, 52))
    truth = truth.with_array(np.where(wanted, truth.array, 0))
    image = medsaga.read_volume(folder / "example_ct_sm.nii.gz")
    return _one_volume(image, truth, [3, 9, 15, 21, 27])


def spleen_5(data: Path) -> Task:
    image = medsaga.read_volume(data / "spleen-ct" / "image.nii.gz")
    truth = medsaga.read_labels(data / "spleen-ct" / "label.nii.gz")
    labelled = np.flatnonzero(truth.array.any(axis=(1, 2)))
    spread = np.linspace(1, len(labelled) - 2, 5).round().astype(int)
    return _one_volume(image, truth, labelled[spread].tolist())


def hippo_5(data: Path) -> Task:
    folder = data / "hippocampus-mri"
    pairs = [
        (
            medsaga.read_volume(path),
            medsaga.read_labels(folder / "labels" / path.name),
        )
        for path in sorted((folder / "images").iterdir())[:25]
    ]
    training = []
    for (image, truth), number in zip(pairs, (3, 8, 12, 16, 20), strict=False):
        labelled = np.flatnonzero(truth.array.any(axis=(1, 2)))
        chosen = int(labelled[number % len(labelled)])
        training.append(_annotate(image, truth, [chosen]))
    return Task(training, [(i, t, list(range(i.shape[0]))) for i, t in pairs[5:]])


def nuclei_5(data: Path) -> Task:
    folder = data / "nuclei-microscopy"
    pairs = [
        (_read_grey(path), medsaga.read_labels(folder / "masks" / path.name))
        for path in sorted((folder / "images").iterdir())
    ]
    chosen = (0, 13, 26, 39, 52)
    rest = [(i, t, [0]) for n, (i, t) in enumerate(pairs) if n not in chosen]
    return Task([pairs[n] for n in chosen], rest)


def cxr_5(data: Path) -> Task:
    folder = data / "chest-xray"
    rows = list(csv.DictReader((folder / "index.csv").open(encoding="utf-8")))
    patients = list(dict.fromkeys(row["patientid"] for row in rows))
    chosen = patients[::7][:5]
    training: dict[str, Image] = {}
    test = []
    for row in rows:
        name, patient = f"{row['name']}.png", row["patientid"]
        image = _resize(_read_grey(folder / "images" / name), "area")
        truth = _resize(medsaga.read_labels(folder / "masks" / name), "nearest-exact")
        if patient in chosen:
            training.setdefault(patient, (image, truth))
        else:
            test.append((image, truth, [0]))
    return Task(list(training.values()), test)


TASKS: Mapping[str, Callable[[Path], Task]] = {
    "ct-5": ct_5,
    "cxr-5": cxr_5,
    "hippo-5": hippo_5,
    "nuclei-5": nuclei_5,
    "spleen-5": spleen_5,
}


def _read_grey(path: Path) -> Volume:
    pixels = imageio.imread(path)
    if pixels.ndim == 3:  # ITU-R BT.601 luma
        pixels = (pixels[..., :3] @ (0.299, 0.587, 0.114)).round().astype(np.uint8)
    return medsaga.volume_from_array(pixels, name=path.stem, rgb=False)


def _resize(volume: Volume, mode: str, size: int = 256) -> Volume:
    planes = torch.from_numpy(volume.array).float()[None]
    resized = F.interpolate(planes, size=(size, size), mode=mode)[0].round()
    return volume.with_array(resized.numpy().astype(np.uint8))


def measure_dice(model: TrainedModel, task: Task) -> dict[str, float]:
    """Mean Dice of each class over the test images that have it or are given it."""
    scores: dict[int, list[float]] = {v: [] for v in model.card.classes.values[1:]}
    for image, truth, slices in task.test:
        mask = drain(segment(model, image)).mask.array[slices]
        dice = medsaga.score(mask, truth.array[slices], list(scores)).dice
        for value, number in dice.items():
            scores[value].append(number)
    return {str(value): float(np.mean(numbers)) for value, numbers in scores.items()}


@contextmanager
def left_out(part: str) -> Iterator[None]:
    """Leave one of the two summands of the logits out, in every network."""
    whole = MedSAGa.logit_parts

    def without(network: MedSAGa, pyramid: Any) -> LogitParts:
        parts = whole(network, pyramid)
        if part == "head":
            return LogitParts(parts.decoder, None)
        return LogitParts(torch.zeros_like(parts.decoder), parts.head)

    MedSAGa.logit_parts = without  # type: ignore[method-assign]
    try:
        yield
    finally:
        MedSAGa.logit_parts = whole  # type: ignore[method-assign]


def run(task: Task, settings: medsaga.FineTuneSettings) -> dict[str, Any]:
    """Train, and judge what was trained."""
    previews: list[float] = []
    started = time.monotonic()

    def note(event: medsaga.Event) -> None:
        if isinstance(event, Preview):
            previews.append(event.seconds)

    images, labels = zip(*task.training, strict=True)
    model = drain(fine_tune(images, labels, settings), note)
    assert model is not None
    seconds = time.monotonic() - started
    dice = measure_dice(model, task)
    result = {
        "mean_dice": float(np.mean(list(dice.values()))),
        "dice": dice,
        "first_preview_seconds": previews[0] if previews else None,
        "training_seconds": seconds,
        "galore_steps": model.card.metrics["step"],
        "precision": model.card.settings["precision"],
        "peak_memory_mb": model.card.measured["peak_memory"] / 2**20,
    }
    for part in ("decoder", "head") if settings.detail_head else ():
        with left_out(part):
            dice = measure_dice(model, task)
        result[f"mean_dice_without_{part}"] = float(np.mean(list(dice.values())))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument("--preset", default="balanced", choices=medsaga.PRESETS)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    kinds = {s.name: s.type for s in medsaga.describe(medsaga.FineTuneSettings)}
    given = dict(text.split("=", 1) for text in arguments.set)
    values = {
        name: text == "true" if kinds[name] is bool else kinds[name](text)
        for name, text in given.items()
    }
    settings = replace(medsaga.preset(arguments.preset), **values)
    for name in arguments.tasks:
        print(json.dumps({"task": name, **run(TASKS[name](arguments.data), settings)}))


if __name__ == "__main__":
    main()

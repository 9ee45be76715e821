"""The tasks of the benchmark, by name.

Most come from a folder of real images with ground truth that holds
`multi-organ-ct-3mm`, `chest-xray`, `hippocampus-mri`, `nuclei-microscopy` and
`spleen-ct`. The data sets of the paper are in `paper_sets` and `chest_xray8`. What
trains is never judged, and is split from it by patient where there is more than one.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from chest_xray8 import chestxray8
from fine_tasks import cells, vessels
from images import Image, Task, annotate, draw_strokes, read_grey, resize, spread
from paper_sets import amos, isles, spleen_msd

import medsaga
from medsaga import MedsagaError, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def make_task(name: str, data: Path, n: int) -> Task:
    """Make a task with n annotated slices.

    Parameters
    ----------
    name
        One of `TASKS`. `amos@20` judges on 20 of the patients that `amos` judges on:
        any of `PAPER_TASKS` can be cut short like that.
    data
        The folder of its images.
    n
        How many slices train.

    Raises
    ------
    MedsagaError
        If there is no such task, or its images are not there as they should be.
    """
    name, at, patients = name.partition("@")
    if name not in TASKS:
        raise MedsagaError(f"There is no task {name}: give {', '.join(TASKS)}.")
    if not at:
        return TASKS[name](data, n)
    if name not in PAPER_TASKS or not patients.isdecimal() or int(patients) < 1:
        raise MedsagaError(
            f"{name}@{patients} is no task: put a number of patients after the @ of "
            f"{', '.join(PAPER_TASKS)}, as in amos@20."
        )
    return PAPER_TASKS[name](data, n, test_patients=int(patients))


# The default was chosen on these: those that train where so many are annotated.
_PATIENTS_LOOKED_AT, _NUCLEI_LOOKED_AT = 20, 40


def _one_volume(image: Volume, truth: Volume, slices: list[int]) -> Task:
    rest = [i for i in range(image.shape[0]) if i not in slices]
    return Task([annotate(image, truth, slices)], [(image, truth, rest)])


def ct(data: Path, n: int) -> Task:
    """Six organs on n of the 30 axial slices of one CT; the others are judged."""
    folder = data / "multi-organ-ct-3mm"
    truth = medsaga.read_labels(folder / "example_seg.nii.gz")
    wanted = np.isin(truth.array, (1, 2, 3, 5, 20, 52))
    truth = truth.with_array(np.where(wanted, truth.array, 0))
    image = medsaga.read_volume(folder / "example_ct_sm.nii.gz")
    task = _one_volume(image, truth, spread(image.shape[0], n))
    return replace(task, looked_at=frozenset({0}))  # other organs of it were


def labelled_slices(image: str, labels: str, data: Path, n: int) -> Task:
    """One class on n of a volume's labelled axial slices; the others are judged."""
    volume = medsaga.read_volume(data / image)
    truth = medsaga.read_labels(data / labels)
    labelled = np.flatnonzero(truth.array.any(axis=(1, 2)))
    return _one_volume(volume, truth, labelled[spread(len(labelled), n)].tolist())


def grey_matter(data: Path, n: int) -> Task:
    """The grey matter of a spinal cord on n of 11 thick slices of an MRI."""
    folder = "spinal-cord-mri/t2s_uncropped"
    files = f"{folder}.nii.gz", f"{folder}_gmseg_manual.nii.gz"
    return replace(labelled_slices(*files, data, n), looked_at=frozenset({0}))


def hippo(data: Path, n: int) -> Task:
    """Two parts of the hippocampus on one slice of each of n volumes.

    Volumes 6 to 25 are judged, whatever n is.
    """
    folder = data / "hippocampus-mri"
    pairs = [
        (
            medsaga.read_volume(path),
            medsaga.read_labels(folder / "labels" / path.name),
        )
        for path in sorted((folder / "images").iterdir())
    ]
    training = []
    free = [*pairs[:5], *pairs[25:]]
    if n > len(free):
        raise MedsagaError(f"hippo has no more than {len(free)} volumes to train on.")
    for (image, truth), number in zip(free[:n], cycle((3, 8, 12, 16, 20))):
        labelled = np.flatnonzero(truth.array.any(axis=(1, 2)))
        chosen = int(labelled[number % len(labelled)])
        training.append(annotate(image, truth, [chosen]))
    return Task(training, [(i, t, list(range(i.shape[0]))) for i, t in pairs[5:25]])


def nuclei(data: Path, n: int) -> Task:
    """Nuclei on n of 66 microscopy images in grey; the others are judged."""
    folder = data / "nuclei-microscopy"
    pairs = [
        (read_grey(path), medsaga.read_labels(folder / "masks" / path.name))
        for path in sorted((folder / "images").iterdir())
    ]
    chosen = [0, 13, 26, 39, 52] if n == 5 else spread(len(pairs), n)
    rest = [k for k in range(len(pairs)) if k not in chosen]
    known = spread(len(pairs), _NUCLEI_LOOKED_AT)
    return Task(
        [pairs[k] for k in chosen],
        [(*pairs[k], [0]) for k in rest],
        looked_at=frozenset(i for i, k in enumerate(rest) if k in known),
    )


def cxr(data: Path, n: int, side: int = 256) -> Task:
    """Lungs and heart on chest X-rays of n patients; the other patients are judged."""
    folder = data / "chest-xray"
    rows = list(csv.DictReader((folder / "index.csv").open(encoding="utf-8")))
    patients = list(dict.fromkeys(row["patientid"] for row in rows))
    chosen = patients[::7][:5] if n == 5 else _picked(patients, n)
    known = _picked(patients, _PATIENTS_LOOKED_AT)
    training: dict[str, Image] = {}
    test, looked_at = [], set()
    for row in rows:
        name, patient = f"{row['name']}.png", row["patientid"]
        image = resize(read_grey(folder / "images" / name), "area", side)
        mask = medsaga.read_labels(folder / "masks" / name)
        truth = resize(mask, "nearest-exact", side)
        if patient in chosen:
            training.setdefault(patient, (image, truth))
        else:
            if patient in known:
                looked_at.add(len(test))
            test.append((image, truth, [0]))
    return Task(list(training.values()), test, looked_at=frozenset(looked_at))


def with_strokes(make: Callable[[Path, int], Task], data: Path, n: int) -> Task:
    """The same task with strokes in place of paint."""
    task = make(data, n)
    background = medsaga.FineTuneSettings().background_value
    strokes = [
        (image, draw_strokes(labels, background)) for image, labels in task.training
    ]
    return replace(task, training=strokes, is_sparse=True)


PAPER_TASKS: Mapping[str, Callable[..., Task]] = {
    "amos": amos,
    "chestxray8": chestxray8,
    "isles": isles,
    "spleen-msd": spleen_msd,
}
_PAINTED: Mapping[str, Callable[[Path, int], Task]] = {
    "ct": ct,
    "cxr": cxr,
    "cxr768": partial(cxr, side=768),
    "hippo": hippo,
    "nuclei": nuclei,
    "spleen": partial(
        labelled_slices, "spleen-ct/image.nii.gz", "spleen-ct/label.nii.gz"
    ),
    "cord": partial(
        labelled_slices,
        "spinal-cord-mri/t2.nii.gz",
        "spinal-cord-mri/t2_seg-manual.nii.gz",
    ),
    "grey-matter": grey_matter,
    "cells": cells,
    "vessels": vessels,
}
TASKS: Mapping[str, Callable[[Path, int], Task]] = {
    **PAPER_TASKS,
    **_PAINTED,
    **{f"{name}-strokes": partial(with_strokes, _PAINTED[name]) for name in _PAINTED},
}


def _picked(items: list[str], n: int) -> list[str]:
    return [items[i] for i in spread(len(items), n)]

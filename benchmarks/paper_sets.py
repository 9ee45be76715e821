"""The paper's data sets of volumes: AMOS 2022, ISLES 2022 and MSD Spleen.

They are read from the folders that their archives unpack to, and prepared as in the
paper (MedSAGa, arXiv 2407.15042): AMOS' 15 organs on slices with at least 5 of them,
padded to 512 x 512; ISLES' lesions on slices of the DWI that show any, 112 x 112; the
spleen on slices that show it. Only these slices train and are judged.

A patient is judged by one Dice and HD95 a class over these slices as one stack, as the
authors' own `test.py` scores a case (github.com/Annie2603/MedSAGa). Slices that are
neighbours in the stack count as one slice distance apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from images import Image, Judged, OnDemand, Task, annotate, on_square, take_slices
from patients import SEED, split_and_draw
from remembered import remembered

import medsaga
from medsaga import MedsagaError, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Cases = dict[str, tuple[Path, Path]]  # image and labels of each patient

_FIRST_MRI = 500  # of AMOS' numbers


@dataclass(frozen=True, kw_only=True)
class VolumeSet:
    """How a data set of volumes is found and prepared.

    Attributes
    ----------
    name
        Of the task.
    find
        Gives image and label file of each patient in a folder.
    fewest_classes
        A slice (of axis 0) that shows as many can be used.
    side
        Slices are brought to `side` x `side` pixels; None leaves them as they are.
    enlarge
        Scale smaller slices up to `side`, rather than only pad them.
    is_ct
        Stacks hold the slices that are used alone, in whole Hounsfield units. Others
        are kept whole, as their intensities are scaled by those of the whole volume.
    """

    name: str
    find: Callable[[Path], Cases]
    fewest_classes: int = 1
    side: int | None = None
    enlarge: bool = False
    is_ct: bool = True


def amos(
    data: Path, n: int, *, test_patients: int | None = None, seed: int = SEED
) -> Task:
    """15 abdominal organs on n slices of AMOS' CTs; its MRIs are left out.

    `amos22.zip` (zenodo.org/records/7262581) holds `imagesTr/amos_0001.nii.gz` and its
    like, labels under the same names in `labelsTr`, and so `imagesVa` and `labelsVa`;
    numbers below 500 are CTs, the others MRIs (its readme.md). The 200 + 100 CTs are
    pooled and split anew. MRIs are left out because one window of intensities cannot
    serve both. A slice longer than 512 pixels is scaled down, a shorter one padded.

    Parameters
    ----------
    data
        The folder with `imagesTr`, or the one above.
    n
        How many slices train.
    test_patients
        At most so many patients are judged; None: all.
    seed
        Of the split and the draw.

    Raises
    ------
    MedsagaError
        If files are missing, or there are fewer than n slices.
    """
    spec = VolumeSet(name="amos", find=find_amos, fewest_classes=5, side=512)
    return _make_task(spec, data, n, test_patients, seed)


def isles(
    data: Path, n: int, *, test_patients: int | None = None, seed: int = SEED
) -> Task:
    """Stroke lesions on n slices of ISLES 2022's DWIs.

    `ISLES-2022.zip` (zenodo.org/records/7960856) follows BIDS:
    `sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_dwi.nii.gz`, its mask
    `derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz`.
    The challenge's first release had the images in `rawdata/sub-*/ses-0001` (README of
    github.com/ezequieldlrosa/isles22): it is read too. Slices of another size than
    112 x 112 are scaled to it at their proportions, and padded.

    Parameters and errors are those of :func:`amos`.
    """
    spec = VolumeSet(name="isles", find=find_isles, side=112, enlarge=True, is_ct=False)
    return _make_task(spec, data, n, test_patients, seed)


def spleen_msd(
    data: Path, n: int, *, test_patients: int | None = None, seed: int = SEED
) -> Task:
    """The spleen on n slices of the Medical Segmentation Decathlon's CTs.

    `Task09_Spleen.tar` (medicaldecathlon.com) holds `imagesTr`, `labelsTr`, and
    `dataset.json`, whose list `training` pairs them; `imagesTs` has no labels. The list
    is followed because the folders also hold files of macOS, whose names begin with
    `._` and which are no images.

    Parameters and errors are those of :func:`amos`.
    """
    spec = VolumeSet(name="spleen-msd", find=find_spleen)
    return _make_task(spec, data, n, test_patients, seed)


def find_amos(data: Path) -> Cases:
    """Find AMOS' labelled CTs."""
    root = _root(
        data,
        ("amos22", "amos"),
        "labelsTr",
        "AMOS 2022: give the folder with imagesTr, labelsTr, imagesVa and labelsVa "
        "that amos22.zip of zenodo.org/records/7262581 unpacks to.",
    )
    cases: Cases = {}
    for part in ("Tr", "Va"):
        for labels in root.glob(f"labels{part}/amos_*.nii.gz"):
            name = labels.name.split(".")[0]
            if int(name.split("_")[1]) < _FIRST_MRI:
                cases[name] = root / f"images{part}" / labels.name, labels
    return cases


def find_isles(data: Path) -> Cases:
    """Find ISLES' diffusion-weighted images and their lesion masks."""
    root = _root(
        data,
        ("ISLES-2022",),
        "derivatives",
        "ISLES 2022: give the folder with sub-strokecase0001 and its like, and "
        "derivatives, that ISLES-2022.zip of zenodo.org/records/7960856 unpacks to.",
    )
    cases: Cases = {}
    for mask in root.glob("derivatives/sub-strokecase*/ses-0001/sub-*_msk.nii.gz"):
        session = mask.parent.relative_to(root / "derivatives")
        name = mask.name.replace("_msk.", "_dwi.")
        first_release = root / "rawdata" / session / name
        image = root / session / "dwi" / name
        is_first = first_release.is_file() and not image.is_file()
        cases[session.parts[0]] = (first_release if is_first else image), mask
    return cases


def find_spleen(data: Path) -> Cases:
    """Find the decathlon's labelled CTs of the spleen."""
    root = _root(
        data,
        ("Task09_Spleen",),
        "dataset.json",
        "the MSD Spleen set: give the folder Task09_Spleen with dataset.json, imagesTr "
        "and labelsTr that Task09_Spleen.tar of medicaldecathlon.com unpacks to.",
    )
    listed = json.loads((root / "dataset.json").read_text(encoding="utf-8"))["training"]
    pairs = [(root / pair["image"], root / pair["label"]) for pair in listed]
    return {label.name.split(".")[0]: (image, label) for image, label in pairs}


def _make_task(
    spec: VolumeSet, data: Path, n: int, test_patients: int | None, seed: int
) -> Task:
    cases = spec.find(data)
    _check_files(spec, cases, data)
    usable = _usable_slices(spec, cases)
    split = split_and_draw(usable, n, test_patients, seed)
    training, test = split.training.items(), split.test.items()
    return Task(
        [_trains(spec, cases[p], sorted(slices)) for p, slices in training],
        OnDemand([partial(_judged, spec, cases[p], [*slices]) for p, slices in test]),
        axis=0,
        keeps_neighbours=not spec.is_ct,
        facts=split.facts,
    )


def _usable_slices(spec: VolumeSet, cases: Cases) -> Mapping[str, list[int]]:
    """Find the slices of each patient that show enough classes; none: left out."""

    def look() -> dict[str, list[int]]:
        print(f"Looking through the {len(cases)} label files of {spec.name}, once.")
        found = {}
        for patient in sorted(cases):
            labels = medsaga.read_labels(cases[patient][1]).array
            shown = [np.count_nonzero(np.bincount(s.ravel())[1:]) for s in labels]
            slices = np.flatnonzero(np.array(shown) >= spec.fewest_classes).tolist()
            if slices:
                found[patient] = slices
        return found

    files = [label for _, (_, label) in sorted(cases.items())]
    kind = f"{spec.name}-{spec.fewest_classes}"
    usable: Mapping[str, list[int]] = remembered(kind, files, look)
    return usable


def _trains(spec: VolumeSet, files: tuple[Path, Path], slices: list[int]) -> Image:
    image, truth, kept = _judged(spec, files, slices)
    return annotate(image, truth, kept)


def _judged(spec: VolumeSet, files: tuple[Path, Path], slices: list[int]) -> Judged:
    """Read and prepare a patient; the slices are counted anew in a stack of them."""
    image, truth = medsaga.read_volume(files[0]), medsaga.read_labels(files[1])
    medsaga.frontend.check_pair(image, truth)
    if spec.is_ct:
        image, truth = take_slices(image, slices), take_slices(truth, slices)
        image = _whole_hounsfield(image)
        slices = list(range(len(slices)))
    if spec.side is not None:
        image = on_square(image, spec.side, enlarge=spec.enlarge)
        truth = on_square(truth, spec.side, enlarge=spec.enlarge, is_labels=True)
    return image, truth, slices


def _whole_hounsfield(image: Volume) -> Volume:
    """Round to 16 bits, half of what single precision takes."""
    if image.array.dtype.kind != "f":
        return image
    limits = np.iinfo(np.int16)
    whole = np.clip(np.rint(image.array), limits.min, limits.max)
    return image.with_array(whole.astype(np.int16))


def _root(data: Path, names: tuple[str, ...], marker: str, expected: str) -> Path:
    """Give the folder that holds `marker`: the given one, or one in it."""
    for folder in (data, *(data / name for name in names)):
        if (folder / marker).exists():
            return folder
    raise MedsagaError(f"{data} does not hold {expected}")


def _check_files(spec: VolumeSet, cases: Cases, data: Path) -> None:
    if not cases:
        raise MedsagaError(
            f"There is no labelled volume of {spec.name} in {data}: unpack the archive "
            "again."
        )
    missing = [f for pair in cases.values() for f in pair if not f.is_file()]
    if missing:
        raise MedsagaError(
            f"{missing[0]} is missing, and {len(missing) - 1} more: unpack the archive "
            "again."
        )

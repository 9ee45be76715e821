"""ChestX-ray8 as NIH ships it, with the masks of CheXmask.

NIH's folder (nihcc.app.box.com/v/ChestXray-NIHCC) has the images in
`images_001/images/00000001_000.png` to `images_012/images` (unpacked into one place, in
`images`), and `Data_Entry_2017.csv` (or `Data_Entry_2017_v2020.csv`) with the columns
"Image Index" and "Patient ID".

CheXmask's table (physionet.org/content/chexmask-cxr-segmentation-data/1.0.0, file
`OriginalResolution/ChestX-Ray8.csv`) has "Image Index", "Dice RCA (Mean)", "Left Lung",
"Right Lung", "Heart", "Height" and "Width" among its columns. A mask is a list of
starts and lengths of runs of pixels, row by row; the first pixel is number 1
(`DataPostprocessing/utils.py` of github.com/ngaggion/CheXmask-Database). They were made
by a network, HybridGNet: they are no drawings by hand. Its README advises to use only
those whose estimated quality, "Dice RCA (Mean)", is at least 0.7; so does this.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from images import Image, Judged, OnDemand, Task, read_grey, resize
from patients import SEED, split_and_draw
from remembered import remembered

import medsaga
from medsaga import MedsagaError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = {"Left Lung": 1, "Right Lung": 2, "Heart": 3}
"""Where two overlap, the later one counts."""

LOWEST_QUALITY = 0.7
SIDE = 512
_TABLE = "ChestX-Ray8.csv"


def chestxray8(
    data: Path, n: int, *, test_patients: int | None = None, seed: int = SEED
) -> Task:
    """Left lung, right lung and heart on n chest X-rays, at 512 x 512 pixels.

    A patient has one X-ray or more. Images that are not unpacked, or have no mask of
    good quality, are left out, so that a part of the archives serves too.

    Parameters
    ----------
    data
        NIH's folder, with CheXmask's table in it or in its `OriginalResolution`.
    n
        How many images train.
    test_patients
        At most so many patients are judged; None: all, which are thousands.
    seed
        Of the split and the draw.

    Raises
    ------
    MedsagaError
        If files are missing or broken, or there are fewer than n images.
    """
    images, table = _find_images(data), _find_table(data)
    places = remembered("chexmask", [table], partial(find_masks, table))
    of_patient: dict[str, list[str]] = defaultdict(list)
    for name, patient in sorted(_read_patients(data).items()):
        if name in images and name in places:
            of_patient[patient].append(name)
    split = split_and_draw(of_patient, n, test_patients, seed)

    def read(name: str) -> Image:
        return _read(images[name], table, places[name])

    def judged(name: str) -> Judged:
        return (*read(name), [0])

    return Task(
        [read(name) for name in chain(*split.training.values())],
        OnDemand([partial(judged, name) for name in chain(*split.test.values())]),
        facts=split.facts,
    )


def decode_runs(runs: str, height: int, width: int) -> NDArray[np.bool_]:
    """Decode a mask of CheXmask.

    Parameters
    ----------
    runs
        "start length start length ...", row by row from pixel 1; empty: no pixel.
    height, width
        Of the mask, in pixels.

    Returns
    -------
    ndarray
        (height, width), True inside.

    Raises
    ------
    MedsagaError
        If the runs do not fit into the mask.
    """
    numbers = np.array(runs.split(), dtype=np.int64)
    if len(numbers) % 2 == 0:
        starts, lengths = numbers[::2] - 1, numbers[1::2]
        ends = starts + lengths
        inside = (starts >= 0) & (lengths >= 0) & (ends <= height * width)
        if inside.all():
            edges = np.zeros(height * width + 1, np.int32)
            np.add.at(edges, starts, 1)
            np.add.at(edges, ends, -1)
            return (edges.cumsum()[:-1] > 0).reshape(height, width)
    raise MedsagaError(
        f"A mask of {_TABLE} does not fit into its {height} x {width} pixels: download "
        "the table again."
    )


def find_masks(table: Path) -> dict[str, int]:
    """Give the byte at which the line of each image with a good mask begins.

    The table has gigabytes, and only the lines of the images that are used are read.
    """
    found = {}
    with table.open("rb") as file:
        columns = _split(file.readline())
        wanted = {"Image Index", "Dice RCA (Mean)", "Height", "Width", *CLASSES}
        if missing := wanted - set(columns):
            raise MedsagaError(
                f"{table} has no column {min(missing)}: give CheXmask's {_TABLE} of "
                "its folder OriginalResolution."
            )
        name, quality = (columns.index(c) for c in ("Image Index", "Dice RCA (Mean)"))
        place = file.tell()
        for line in file:
            row = _split(line)
            is_whole = len(row) == len(columns)
            if is_whole and float(row[quality] or 0) >= LOWEST_QUALITY:
                found[row[name]] = place
            place += len(line)
    return found


def _read(path: Path, table: Path, place: int) -> Image:
    with table.open("rb") as file:
        columns = _split(file.readline())
        file.seek(place)
        row = dict(zip(columns, _split(file.readline()), strict=True))
    height, width = int(float(row["Height"])), int(float(row["Width"]))
    mask = np.zeros((height, width), np.uint8)
    for name, value in CLASSES.items():
        mask[decode_runs(row[name], height, width)] = value
    image = read_grey(path)
    truth = medsaga.volume_from_array(mask, name=path.stem, rgb=False)
    medsaga.frontend.check_pair(image, truth)
    return resize(image, "area", SIDE), resize(truth, "nearest-exact", SIDE)


def _split(line: bytes) -> list[str]:
    return next(csv.reader([line.decode("utf-8-sig")]))


def _find_images(data: Path) -> dict[str, Path]:
    folders = [*data.glob("images_*/images"), data / "images"]
    images = {
        entry.name: folder / entry.name
        for folder in folders
        if folder.is_dir()
        for entry in os.scandir(folder)
        if entry.name.endswith(".png")
    }
    if not images:
        raise MedsagaError(
            f"{data} does not hold ChestX-ray8: give the folder with images_001/images "
            "to images_012/images and Data_Entry_2017.csv from "
            "nihcc.app.box.com/v/ChestXray-NIHCC."
        )
    return images


def _read_patients(data: Path) -> dict[str, str]:
    """Give the patient of each image."""
    tables = sorted(data.glob("Data_Entry_2017*.csv"))
    if not tables:
        raise MedsagaError(
            f"{data} has no Data_Entry_2017.csv, which names the patients: put it "
            "there, from nihcc.app.box.com/v/ChestXray-NIHCC."
        )
    # Of this header only the columns after those that are needed here hold a comma.
    with tables[0].open(encoding="utf-8-sig", newline="") as file:
        rows: Any = csv.DictReader(file)
        return {row["Image Index"]: row["Patient ID"] for row in rows}


def _find_table(data: Path) -> Path:
    for folder in (data, data / "OriginalResolution"):
        if (folder / _TABLE).is_file():
            return folder / _TABLE
    raise MedsagaError(
        f"{data} has no masks: put CheXmask's OriginalResolution/{_TABLE} there, from "
        "physionet.org/content/chexmask-cxr-segmentation-data."
    )

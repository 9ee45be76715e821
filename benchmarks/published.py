"""The values that MedSAGa's paper gives (arXiv 2407.15042), to stand beside ours.

Of its Table 1 the smallest and the largest number of training images. The names of the
data sets are those of the tasks here; a task on other images has nothing published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cells import DICE, Entry

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = "arXiv 2407.15042"

# Dice of MedSAGa, SAMed and DAE-Former.
_TABLE_1: Mapping[str, Mapping[int, tuple[float, float, float]]] = {
    "chestxray8": {50: (0.899, 0.882, 0.842), 1800: (0.938, 0.943, 0.949)},
    "isles": {200: (0.343, 0.218, 0.267), 3200: (0.783, 0.742, 0.733)},
    "spleen-msd": {100: (0.842, 0.807, 0.793), 800: (0.882, 0.907, 0.916)},
    "amos": {500: (0.199, 0.166, 0.268), 7000: (0.389, 0.377, 0.349)},
}


def _entry(data_set: str, n: int, method: str, dice: float) -> Entry:
    return Entry(data_set, n, f"{method} (paper)", DICE.title, dice, source=SOURCE)


TABLE_1 = [
    _entry(data_set, n, method, dice)
    for data_set, rows in _TABLE_1.items()
    for n, row in rows.items()
    for method, dice in zip(("medsaga", "samed", "dae-former"), row, strict=True)
]
TABLE_2 = [
    _entry("chestxray8", 100, "medsaga", 0.913),
    _entry("chestxray8", 100, "medsaga warmup_steps=0", 0.736),
]
TABLE_3 = [
    _entry("chestxray8", 50, "medsaga", 0.899),
    _entry("chestxray8", 50, "medsaga-v1", 0.703),
    _entry("chestxray8", 50, "medsaga-v2", 0.119),
]

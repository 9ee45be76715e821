"""Does advice find the slices that are worth painting, and those that are wrong?

    python benchmarks/advice.py DATA OUT [--tasks ct spleen] [--seeds 0 1 2]
        [--minutes 0.5]

Five slices are painted, and three more one after the other: by advice, in the middle of
the widest gap, at random among slices that show a class, and where the mask is really
worst (which nobody knows: the ceiling). After each a model is trained anew. What is
judged is the mask of the whole volume, as painted where it is painted. Of the first
model it says besides what part of all wrong pixels lies in the fifth of the unpainted
slices that comes first in the order of review, and in the worst fifth.

Each task and seed leaves one file in OUT, and is not run again. Run nothing else
meanwhile.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from images import annotate
from tasks import make_task

import medsaga
from medsaga import TrainingData, drain

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from medsaga import TrainedModel, Volume

_PAINTED, _ADDED = 5, 3
_WAYS = ("advice", "widest gap", "random", "true error")


class Round:
    """A volume whose first slices are painted, and the trainings on it.

    Parameters
    ----------
    image, truth
        The volume.
    painted
        The slices that are painted at first.
    settings
        Of each training.
    """

    def __init__(
        self,
        image: Volume,
        truth: Volume,
        painted: list[int],
        settings: medsaga.FineTuneSettings,
    ) -> None:
        self.image, self.truth, self.painted = image, truth, painted
        self._settings = settings
        self._random = np.random.default_rng(settings.seed)
        self._trained: dict[tuple[int, ...], tuple[TrainedModel, NDArray[Any]]] = {}

    def fit(self, painted: list[int]) -> tuple[TrainedModel, NDArray[Any]]:
        """Give the model of these painted slices, and its mask of the volume."""
        key = tuple(sorted(painted))
        if key not in self._trained:
            empty = [i for i in key if not self.truth.array[i].any()]
            pair = annotate(self.image, self.truth, list(key))
            data = TrainingData(*pair, empty_slices=empty)
            model = drain(medsaga.fine_tune(data, self._settings))
            assert model is not None
            mask = drain(medsaga.segment(model, self.image)).mask.array
            self._trained[key] = model, mask
        return self._trained[key]

    def dice(self, painted: list[int]) -> float:
        """Score the mask of the whole volume."""
        _, mask = self.fit(painted)
        return medsaga.score(mask, self.truth.array).mean_dice

    def next_slice(self, painted: list[int], way: str) -> int:
        """Choose the slice to paint next."""
        free = [i for i in range(len(self.truth.array)) if i not in painted]
        if way == "advice":
            model, _ = self.fit(painted)
            return drain(medsaga.advise(model, self.image)).to_paint()[0]
        if way == "widest gap":
            return max(free, key=lambda i: (min(abs(i - p) for p in painted), -i))
        if way == "random":
            shown = [i for i in free if self.truth.array[i].any()]
            return int(self._random.choice(shown))
        lost = self._lost(painted)
        return max(free, key=lambda i: float(lost[i]))

    def _lost(self, painted: list[int]) -> NDArray[Any]:
        """Give what each slice takes from the mean Dice."""
        _, mask = self.fit(painted)
        values = [v for v in np.unique(self.truth.array) if v]
        shares = [
            ((mask == v) != (self.truth.array == v)).sum(axis=(1, 2))
            / (self.truth.array == v).sum()
            for v in values
        ]
        return np.mean(shares, axis=0)

    def review(self) -> dict[str, float]:
        """Say how many of the wrong pixels the first fifth of the slices holds."""
        model, mask = self.fit(self.painted)
        wrong = (mask != self.truth.array).sum(axis=(1, 2))
        order = drain(medsaga.advise(model, self.image)).to_review()
        first = round(len(order) / 5)
        at_best = sorted(wrong[order], reverse=True)[:first]
        return {
            "by_advice": float(wrong[order[:first]].sum() / max(1, wrong.sum())),
            "at_best": float(sum(at_best) / max(1, wrong.sum())),
            "by_chance": first / len(order),
        }


def run(name: str, data: Path, settings: medsaga.FineTuneSettings) -> dict[str, Any]:
    """Run one task with one seed."""
    image, truth, judged = make_task(name, data, _PAINTED).test[0]
    painted = [i for i in range(len(truth.array)) if i not in judged]
    labelled = [i for i in painted if truth.array[i].any()]
    this = Round(image, truth, labelled, settings)
    found: dict[str, Any] = {"start": this.dice(labelled), "review": this.review()}
    for way in _WAYS:
        chosen = list(labelled)
        for _ in range(_ADDED):
            chosen.append(this.next_slice(chosen, way))
        found[way] = {"dice": this.dice(chosen), "added": chosen[len(labelled) :]}
        print(f"  {way}: {found[way]['dice']:.4f} {found[way]['added']}", flush=True)
    return found


def table(rows: list[str], found: dict[str, list[dict[str, Any]]]) -> str:
    """Write the mean over seeds of each task."""
    heads = ["task", "five slices", *_WAYS, *rows]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    measured: Callable[[dict[str, Any]], list[float]] = lambda one: [  # noqa: E731
        one["start"],
        *(one[way]["dice"] for way in _WAYS),
        *(one["review"][row] for row in rows),
    ]
    for name, seeds in found.items():
        means = [mean(column) for column in zip(*map(measured, seeds), strict=True)]
        numbers = " | ".join(f"{number:.3f}" for number in means)
        lines.append(f"| {name}, {len(seeds)} seeds | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["ct", "spleen"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=0.5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    medsaga.frontend.warm_up("galore")
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for name in options.tasks:
            settings = replace(
                medsaga.preset("balanced"), minutes=options.minutes, seed=seed
            )
            file = options.out / f"{name}_{options.minutes:g}min_{seed}.json"
            if not file.exists():
                print(f"{name}, seed {seed}", flush=True)
                result = run(name, options.data, settings)
                file.write_text(json.dumps(result), encoding="utf-8")
            one = json.loads(file.read_text(encoding="utf-8"))
            found.setdefault(name, []).append(one)
    print(table(["by_advice", "at_best", "by_chance"], found))


if __name__ == "__main__":
    main()

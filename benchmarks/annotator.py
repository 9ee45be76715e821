"""How long does an annotator need for a mask that can be trusted?

    python benchmarks/annotator.py DATA OUT [--tasks ct spleen cord] [--seeds 0]
        [--minutes 0.5] [--passes 0.95]

A simulated annotator works on a volume of which the truth is known, in one of five
ways:

outlines
    Every class of a slice is outlined by hand, slice after slice in the middle of the
    widest gap; a model is trained, and so on.
outlines, filled
    The same, but the paint is carried to the other slices, and nothing is trained.
boxes, filled
    As the loop, but the paint is carried, and nothing is trained.
boxes, live
    As the loop, but all slices are suggested as with Live on, and nothing is trained.
loop
    Every class of a slice is boxed, up to two clicks mend its mask, and what is still
    wrong is outlined. A model is trained; the advice says which slice is next. There
    the class map is taken as it is where it is right, and else boxed like the others.

After each slice the mask of the whole volume is scored. What an action takes is from
published measurements:

- an outline 79 s: 22 worker hours for 1000 segmentations (COCO, arXiv 1405.0312);
- a box 7.0 s: four extreme points (Papadopoulos et al. 2017, arXiv 1708.02750);
- a click 2.4 s, a further one 0.9 s (Bearman et al. 2016, arXiv 1506.02106);
- a key 0.28 s, and 1.35 s to make up one's mind (Card, Moran and Newell 1980): looking
  at a class takes as much, and going to another slice a key.

The machine's seconds are those measured. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from tasks import make_task

import medsaga
from medsaga import Box, Click, Prompt, PromptPredictor, TrainingData, drain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsaga import Volume

OUTLINE, BOX, FIRST_CLICK, CLICK, KEY, LOOK = 79.0, 7.0, 2.4, 0.9, 0.28, 1.35
WAYS = ("outlines", "outlines, filled", "boxes, filled", "boxes, live", "loop")
GOALS = (0.90, 0.95)
_MOST_SLICES, _MOST_CLICKS = 10, 2
_SMALLEST = 4


@dataclass
class Work:
    """What was done so far: seconds of the human and of the machine, and actions."""

    human: float = 0.0
    machine: float = 0.0
    actions: dict[str, int] = field(default_factory=dict)

    def act(self, name: str, seconds: float, n: int = 1) -> None:
        """Note `n` actions of `seconds` each."""
        self.human += n * seconds
        self.actions[name] = self.actions.get(name, 0) + n


class Annotator:
    """Works on one volume, along its axis.

    Parameters
    ----------
    image, truth
        The volume.
    values
        Label values of the classes.
    settings
        Of each training.
    passes
        The Dice from which on a class is let pass; what is below is mended.
    """

    def __init__(
        self,
        image: Volume,
        truth: Volume,
        values: list[int],
        settings: medsaga.FineTuneSettings,
        passes: float,
    ) -> None:
        self.passes = passes
        self.image, self.truth = image, truth.array
        self.values, self.settings = values, settings
        self.labels = np.zeros_like(self.truth)
        self.painted: list[int] = []
        self.work = Work()
        self.predictor = PromptPredictor()

    def dice(self, mask: NDArray[Any]) -> float:
        """Score the mask of the volume, as painted where it is painted."""
        merged = mask.copy()
        merged[self.painted] = self.labels[self.painted]
        scores = []
        for value in self.values:
            one, other = merged == value, self.truth == value
            scores.append(2 * (one & other).sum() / (one.sum() + other.sum()))
        return float(np.mean(scores))

    def outline(self, index: int) -> None:
        """Outline every class of a slice by hand."""
        self.work.act("slice", KEY)
        for value in self._classes(index):
            self.work.act("outline", OUTLINE, self._n_parts(index, value))
        self.labels[index] = self.truth[index]
        self.painted.append(index)

    def box(self, index: int, suggested: NDArray[Any] | None = None) -> None:
        """Box what is suggested wrongly, mend it by clicks, outline what is left."""
        self.work.act("slice", KEY)
        found = np.zeros_like(self.truth[index])
        values = self._classes(index)
        if suggested is not None:
            values = sorted({*values, *np.unique(suggested[suggested > 0]).tolist()})
        for value in values:
            wanted = self.truth[index] == value
            self.work.act("look", LOOK)
            if (
                suggested is not None
                and _dice(suggested == value, wanted) >= self.passes
            ):
                found[suggested == value] = value
                continue
            for part in _parts(wanted):
                found[self._boxed(index, part)] = value
        if suggested is not None:
            self.work.act("key", KEY)
        self.labels[index] = found
        self.painted.append(index)

    def _boxed(self, index: int, part: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if part.sum() < _SMALLEST:
            self.work.act("click", FIRST_CLICK)
            return part
        rows, columns = np.nonzero(part)
        box = Box(rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        self.work.act("box", BOX)
        clicks: list[Click] = []
        for n_clicks in range(_MOST_CLICKS + 1):
            started = time.monotonic()
            prompt = Prompt(box=box, clicks=tuple(clicks))
            mask = self.predictor.predict(self.image, prompt, index=index).mask
            self.work.machine += time.monotonic() - started
            self.work.act("look", LOOK)
            if _dice(mask, part) >= self.passes:
                return mask
            if n_clicks < _MOST_CLICKS:
                clicks.append(_worst(mask, part))
                self.work.act("click", FIRST_CLICK if n_clicks == 0 else CLICK)
        self.work.act("outline", OUTLINE)
        return part

    def fill(self, *, live: bool) -> NDArray[Any]:
        """Carry the paint, and with `live` learn from it; gives the mask of all."""
        self.work.act("key", KEY)
        started = time.monotonic()
        pair = self.image, self.image.with_array(self.labels)
        carry = medsaga.suggest if live else medsaga.propagate
        stream = carry(*pair, axis=0, slices=self.painted)
        mask = drain(stream).mask.array
        self.work.machine += time.monotonic() - started
        return mask

    def train(self) -> tuple[NDArray[Any], list[int]]:
        """Train; gives the mask of the volume, and the slices to paint next."""
        self.work.act("key", KEY)
        started = time.monotonic()
        data = TrainingData(
            self.image,
            self.image.with_array(self.labels),
            axis=0,
            slices=sorted(self.painted),
        )
        model = drain(medsaga.fine_tune(data, self.settings))
        assert model is not None
        advice = drain(medsaga.advise(model, self.image))
        self.work.machine += time.monotonic() - started
        return advice.mask.array, advice.to_paint(1)

    def gap(self) -> int:
        """Give the middle of the widest gap among the slices that show a class."""
        shown = np.flatnonzero(self.truth.any((1, 2)))
        if not self.painted:
            return int(shown[len(shown) // 2])
        free = [int(i) for i in shown if i not in self.painted]
        return max(free, key=lambda i: min(abs(i - j) for j in self.painted))

    def _classes(self, index: int) -> list[int]:
        here = np.unique(self.truth[index]).tolist()
        return [value for value in self.values if value in here]

    def _n_parts(self, index: int, value: int) -> int:
        return len(_parts(self.truth[index] == value))


def _parts(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    parts, total = ndimage.label(mask)
    return [parts == number for number in range(1, total + 1)]


def _dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    total = int(one.sum() + other.sum())
    return float(2 * (one & other).sum() / total) if total else 1.0


def _worst(mask: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> Click:
    """Give a click into the middle of the largest error."""
    best, deepest = Click(0, 0), 0.0
    for adds, error in ((True, wanted & ~mask), (False, mask & ~wanted)):
        depth = ndimage.distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1]
        if depth.max() > deepest:
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            deepest = float(depth.max())
            best = Click(float(row) + 0.5, float(column) + 0.5, adds)
    return best


def run(annotator: Annotator, way: str) -> list[dict[str, Any]]:
    """Work in one way until the last goal is reached; gives what stood after each."""
    course: list[dict[str, Any]] = []
    suggested: NDArray[Any] | None = None
    wanted = annotator.gap()
    while len(annotator.painted) < _MOST_SLICES:
        if way == "loop" or way.startswith("boxes"):
            annotator.box(wanted, None if suggested is None else suggested[wanted])
        else:
            annotator.outline(wanted)
        advised: list[int] = []
        if way.endswith(("filled", "live")):
            suggested = annotator.fill(live=way.endswith("live"))
        else:
            suggested, advised = annotator.train()
        work = annotator.work
        course.append(
            {
                "slices": len(annotator.painted),
                "dice": annotator.dice(suggested),
                "human": round(work.human, 1),
                "machine": round(work.machine, 1),
                "actions": dict(work.actions),
            }
        )
        print(way, course[-1], flush=True)
        if course[-1]["dice"] >= GOALS[-1]:
            break
        uses_advice = way == "loop" and len(annotator.painted) > 1 and advised
        wanted = advised[0] if uses_advice else annotator.gap()
    return course


def until(course: list[dict[str, Any]], goal: float) -> dict[str, Any] | None:
    """Give what stood when a Dice was first reached."""
    return next((one for one in course if one["dice"] >= goal), None)


def main() -> None:
    """Parse the command line, work, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["ct", "spleen", "cord"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--passes", type=float, default=0.95)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.tasks:
        image, truth, _ = make_task(name, options.data, 5).test[0]
        values = [int(v) for v in np.unique(truth.array) if v]
        for seed in options.seeds:
            for way in WAYS:
                path = options.out / f"{name}_{way.replace(', ', '_')}_{seed}.json"
                if path.exists():
                    continue
                settings = replace(
                    medsaga.preset("balanced"), minutes=options.minutes, seed=seed
                )
                annotator = Annotator(image, truth, values, settings, options.passes)
                course = run(annotator, way)
                path.write_text(json.dumps(course, indent=1) + "\n", encoding="utf-8")
                for goal in GOALS:
                    print(name, way, seed, goal, until(course, goal))


if __name__ == "__main__":
    main()

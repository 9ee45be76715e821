"""How long does a mask of a box or a click take, idle and while a model is trained?

    python benchmarks/prompts.py DATA [--slices 8] [--json FILE]

Boxes are drawn around classes of slices of a CT that were not looked at before
(*first*), and further ones on the same slice; clicks lie in the middle of a class. With
a training under way a mask is computed between two of its steps, as in the dock.
Seconds, median and worst. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from tasks import make_task

import medsaga
from medsaga import Box, Click, Prompt, PromptPredictor, TrainingData
from napari_medsaga.jobs.guests import as_guest, let_guests_through

if TYPE_CHECKING:
    from medsaga import Volume

_WARM_SECONDS = 45.0
"""Until the training is through its head stage."""


class Training(threading.Thread):
    """A training that rests at each event while a guest computes."""

    def __init__(self, image: Volume, labels: Volume) -> None:
        super().__init__(daemon=True)
        self._stream = medsaga.fine_tune(
            TrainingData(image, labels),
            replace(medsaga.preset("balanced"), minutes=10.0),
        )
        self._is_over = threading.Event()

    def run(self) -> None:
        """Drain it until it is to end."""
        for _ in self._stream:
            let_guests_through()
            if self._is_over.is_set():
                return

    def end(self) -> None:
        """End it at its next event."""
        self._is_over.set()
        self.join()


def measure(
    image: Volume, truth: Volume, slices: list[int], *, beside_job: bool
) -> dict[str, list[float]]:
    """Give the seconds of first and further boxes, and of clicks."""
    predictor = PromptPredictor()
    seconds: dict[str, list[float]] = {"first": [], "further": [], "click": []}
    predictor.look_at(image, 0, 0)  # the network is loaded

    def ask(kind: str, prompt: Prompt, index: int) -> None:
        started = time.perf_counter()
        with as_guest(beside_job=beside_job):
            predictor.predict(image, prompt, index=index)
        seconds[kind].append(time.perf_counter() - started)

    for index in slices:
        kind = "first"
        for value in np.unique(truth.array[index]):
            if value:
                rows, columns = np.nonzero(truth.array[index] == value)
                corners = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
                ask(kind, Prompt(box=Box(*map(float, corners))), index)
                kind = "further"
                middle = len(rows) // 2
                click = Click(float(rows[middle]), float(columns[middle]))
                ask("click", Prompt(clicks=(click,)), index)
    return seconds


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    task = make_task("ct", options.data, 5)
    image, truth, judged = task.test[0]
    picked = np.linspace(0, len(judged) - 1, options.slices).round().astype(int)
    slices = [int(list(judged)[i]) for i in picked]
    found = {"idle": measure(image, truth, slices, beside_job=False)}
    training = Training(*task.training[0])
    training.start()
    time.sleep(_WARM_SECONDS)
    found["while a model is trained"] = measure(image, truth, slices, beside_job=True)
    training.end()
    for when, kinds in found.items():
        for kind, seconds in kinds.items():
            print(f"{when}: {kind} {median(seconds):.2f}, at most {max(seconds):.2f} s")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Progress on the terminal: a bar, or plain lines where there is none."""

import math
import time
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from medsaga.events import (
    Event,
    Expected,
    FileProgress,
    ItemEvent,
    ItemsDone,
    Notice,
    Progress,
    SegmentedSlice,
    Validated,
    VotedSlice,
)
from medsaga.frontend import count, duration, shown

_STAGES = {
    "features": "Head stage, features",
    "head": "Head stage, fit",
    "galore": "GaLore stage",
    "left out": "Slices left out",
    "agreed": "Slices agreed on",
}
_SECONDS_BETWEEN_LINES = 5.0
_MB = 1e6
_LONGEST_SENTENCE, _LONGEST_LABEL = 4000, 60


class Display:
    """Shows what a stream reports, on stderr; a context manager that takes it away."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, emoji=False)
        self._said: set[str] = set()
        self._label = ""
        self._started = self._last_line = 0.0
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                console=self._console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence, the same one only once."""
        if sentence not in self._said:
            self._said.add(sentence)
            plain = shown(sentence, _LONGEST_SENTENCE)
            self._console.print(plain, soft_wrap=True, markup=False)

    def show(self, event: Event) -> None:
        """Show an event of any stream, or leave it out."""
        match event:
            case Notice():
                self.say(event.message)
            case Validated() if event.dice:
                self.say(
                    f"Step {event.step}: mean Dice {event.mean_dice:.3f} on the "
                    f"{event.measured_on}."
                )
            case Expected():
                self.say(_describe_expected(event))
            case Progress():
                self._show_training(event)
            case SegmentedSlice() | VotedSlice():
                self._show_slice(event)
            case FileProgress() if event.total:
                self._show_file(event)
            case ItemsDone():
                workers = count(event.n_workers, "worker")
                self.work("Images", event.done, event.total, workers)
            case ItemEvent():
                self.show(event.event)

    def work(self, label: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        """Show how much of a piece of work is done; `total` is 0 while unknown."""
        label = shown(label, _LONGEST_LABEL)
        if label != self._label:
            self._label = label
            self._started, self._last_line = time.monotonic(), 0.0
            if self._bar is not None:
                for task in self._bar.task_ids:
                    self._bar.remove_task(task)
                self._task = self._bar.add_task(escape(label), total=None, detail="")
        if self._bar is not None:
            self._bar.update(
                self._task, completed=done, total=total or None, detail=detail
            )
        elif self._is_line_due(done, total):
            self._last_line = time.monotonic()
            count = f" {done}/{total or '?'}" if done else ""
            self._console.print(
                f"{label}{count}{detail and ', '}{detail}", soft_wrap=True, markup=False
            )

    def _is_line_due(self, done: int, total: int) -> bool:
        waited = time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES
        return not self._last_line or waited or done == total > 0

    def _show_training(self, event: Progress) -> None:
        loss = "" if math.isnan(event.loss) else f"loss {event.loss:.3f}, "
        left = f"{duration(event.seconds_left)} left"
        self.work(_STAGES[event.stage], event.step, event.total, loss + left)

    def _show_slice(self, event: SegmentedSlice | VotedSlice) -> None:
        done = event.done
        if done == 1:
            self.work(event.image_name, done, event.total)
            return
        per_slice = (time.monotonic() - self._started) / (done - 1)
        left = f"{duration(per_slice * (event.total - done))} left"
        self.work(event.image_name, done, event.total, left)

    def _show_file(self, event: FileProgress) -> None:
        done, total = (round(n / _MB) for n in (event.done, event.total))
        self.work(f"{event.doing} {event.name} (MB)", done, total)


def _describe_expected(event: Expected) -> str:
    mean = fmean(event.dice.values())
    worst = min(event.dice, key=lambda value: event.dice[value])
    lowest = f", {event.dice[worst]:.2f} of class {worst}"
    return (
        f"To be expected on slices that nobody painted: mean Dice {mean:.2f}"
        f"{lowest if len(event.dice) > 1 else ''} (from {event.n_left_out} slices, "
        "left out one by one)."
    )

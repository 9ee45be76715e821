"""The command `evaluate`: masks and truths in, Dice and HD95 out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsaga import MedsagaError
from medsaga.cli._options import AsJson
from medsaga.cli._run import (
    FAILED,
    STOPPED,
    Job,
    print_json,
    print_result,
    reports_errors,
    start_job,
)
from medsaga.cli._tables import make_table, mean, number

if TYPE_CHECKING:
    from rich.table import Table

    from medsaga import Scores


@reports_errors
def evaluate(
    prediction: Annotated[
        Path, typer.Argument(help="Mask, or a folder of masks.", show_default=False)
    ],
    truth: Annotated[
        Path,
        typer.Argument(
            help="True mask, or a folder of them with the masks' names.",
            show_default=False,
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(help="Model folder, for the classes' names.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score masks against the truth: Dice and HD95 of each class.

    A class that only one of the two has scores a Dice of 0 and has no HD95; one that
    neither has is left out.
    """
    from medsaga import load_card

    names = {} if model is None else load_card(model).classes.names_by_value
    with start_job() as job:
        result = _score_all(job, prediction, truth)
    if as_json:
        print_json(result.as_json(names, is_stopped=job.is_stopped))
    else:
        _print(result, names)
    if job.is_stopped:
        raise typer.Exit(STOPPED)
    if result.failed:
        raise typer.Exit(FAILED)


@dataclass(frozen=True, kw_only=True)
class _ClassScores:
    """The scores of one class over all files."""

    dice: float | None
    hd95: float | None
    n_files: int
    missing: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        return {
            "dice": self.dice,
            "hd95": self.hd95,
            "files": self.n_files,
            "missing": dict(self.missing),
        }


@dataclass(frozen=True, kw_only=True)
class _Result:
    """The scores of all files, by name, and why others have none."""

    scores: Mapping[str, "Scores"]
    failed: Mapping[str, str]
    without_prediction: list[str]

    @property
    def unit(self) -> str | None:
        """Unit of HD95; None if the files differ in it, so that it has no mean."""
        units = {scores.unit for scores in self.scores.values()}
        return units.pop() if len(units) == 1 else None

    def by_class(self) -> dict[int, _ClassScores]:
        """Average each class over the files that have it."""
        values = {value for scores in self.scores.values() for value in scores.dice}
        return {value: self._of_class(value) for value in sorted(values)}

    def _of_class(self, value: int) -> _ClassScores:
        having = [s for s in self.scores.values() if value in s.dice]
        reasons = [s.missing[value] for s in having if value in s.missing]
        hd95 = mean(s.hd95[value] for s in having if value in s.hd95)
        return _ClassScores(
            dice=mean(s.dice[value] for s in having),
            hd95=None if self.unit is None else hd95,
            n_files=len(having),
            missing={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        )

    def means(self) -> tuple[float | None, float | None]:
        """Mean Dice and HD95 over the classes' means."""
        classes = self.by_class().values()
        return (
            mean(c.dice for c in classes if c.dice is not None),
            mean(c.hd95 for c in classes if c.hd95 is not None),
        )

    def as_json(self, names: Mapping[int, str], *, is_stopped: bool) -> dict[str, Any]:
        dice, hd95 = self.means()
        return {
            "stopped": is_stopped,
            "unit": self.unit,
            "mean_dice": dice,
            "mean_hd95": hd95,
            "classes": {
                str(value): {"name": names.get(value)} | scores.as_json()
                for value, scores in self.by_class().items()
            },
            "files": {name: _as_json(s) for name, s in self.scores.items()},
            "failed": dict(self.failed),
            "without_prediction": self.without_prediction,
        }


def _as_json(scores: "Scores") -> dict[str, Any]:
    return {
        "unit": scores.unit,
        "mean_dice": mean(scores.dice.values()),
        "mean_hd95": mean(scores.hd95.values()),
        "dice": {str(value): dice for value, dice in scores.dice.items()},
        "hd95": {str(value): hd95 for value, hd95 in scores.hd95.items()},
        "missing": {str(value): reason for value, reason in scores.missing.items()},
    }


def _score_all(job: Job, prediction: Path, truth: Path) -> _Result:
    """Score pair by pair, so that a bad pair does not cost the others."""
    from medsaga import evaluate_files, image_files, pair_files
    from medsaga.data.formats.catalogue import stem

    pairs = pair_files(prediction, truth)
    name, count = Counter(stem(predicted) for predicted, _ in pairs).most_common(1)[0]
    if count > 1:
        raise MedsagaError(
            f"{prediction} has {count} masks for {name}: keep one of them there."
        )
    left_out = {t.name for t in image_files(truth)} - {t.name for _, t in pairs}
    if left_out:
        job.display.say(f"No prediction for: {', '.join(sorted(left_out))}.")
    scores: dict[str, Scores] = {}
    failed: dict[str, str] = {}
    for done, (predicted, true) in enumerate(pairs):
        if job.is_stopped:
            break
        job.display.work("Scoring", done, len(pairs))
        try:
            scores.update(evaluate_files(predicted, true))
        except MedsagaError as error:
            if len(pairs) == 1:
                raise
            failed[predicted.name] = str(error)
            job.display.say(f"{predicted.name} failed: {error}")
    return _Result(scores=scores, failed=failed, without_prediction=sorted(left_out))


def _print(result: _Result, names: Mapping[int, str]) -> None:
    classes = result.by_class()
    n_missing = sum(sum(scores.missing.values()) for scores in classes.values())
    parts: list[Table | str] = []
    if len(result.scores) > 1:
        parts += [_file_table(result), ""]
    parts.append(_class_table(result, classes, names))
    if n_missing:
        parts.append(f"No HD95 for {n_missing} missing (see the last column).")
    print_result(*parts)


def _class_table(
    result: _Result, classes: Mapping[int, _ClassScores], names: Mapping[int, str]
) -> "Table":
    heading = f"HD95 ({result.unit})" if result.unit else "HD95"
    table = make_table("Class", "Name", "Dice", heading, "Files", "Missing")
    for value, scores in classes.items():
        table.add_row(
            str(value),
            names.get(value, ""),
            number(scores.dice, 3),
            number(scores.hd95, 1),
            str(scores.n_files),
            ", ".join(f"{reason}: {n}" for reason, n in scores.missing.items()),
        )
    table.add_section()
    dice, hd95 = result.means()
    table.add_row("mean", "", number(dice, 3), number(hd95, 1), "", "")
    return table


def _file_table(result: _Result) -> "Table":
    table = make_table("File", "Dice", "HD95", "Unit")
    for name, scores in result.scores.items():
        dice, hd95 = mean(scores.dice.values()), mean(scores.hd95.values())
        table.add_row(name, number(dice, 3), number(hd95, 1), scores.unit)
    return table

"""The command `evaluate`: masks and truths in, scores out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import medsaga
from medsaga.cli.options import AsJson
from medsaga.cli.run import (
    FAILED,
    STOPPED,
    print_json,
    print_result,
    reports_errors,
    start_run,
)
from medsaga.cli.tables import make_table, number
from medsaga.frontend import shown

if TYPE_CHECKING:
    from rich.table import Table

    from medsaga import Evaluation, Scores


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
    """Score masks against the truth: Dice, HD95 and surface Dice of each class.

    Surface Dice is the part of both surfaces that lies within 1 mm (1 pixel where the
    spacing is unknown) of the other one. A class that only one of the two has scores a
    Dice of 0 and has neither of the others; one that neither has is left out.
    """
    names = {} if model is None else medsaga.load_card(model).classes.names_by_value
    with start_run() as run:
        found = run.drain(medsaga.evaluate(prediction, truth))
    if as_json:
        print_json(_as_json(found, names, is_stopped=run.is_stopped))
    else:
        _print(found, names)
    if run.is_stopped:
        raise typer.Exit(STOPPED)
    if found.failed:
        raise typer.Exit(FAILED)


def _as_json(
    found: "Evaluation", names: Mapping[int, str], *, is_stopped: bool
) -> dict[str, Any]:
    return {
        "stopped": is_stopped,
        "unit": found.unit,
        "mean_dice": found.mean_dice,
        "mean_hd95": found.mean_hd95,
        "mean_surface_dice": found.mean_surface_dice,
        "classes": {
            str(value): {
                "name": names.get(value),
                "dice": scores.dice,
                "hd95": scores.hd95,
                "surface_dice": scores.surface_dice,
                "files": scores.n_files,
                "missing": dict(scores.missing),
            }
            for value, scores in found.by_class.items()
        },
        "files": {name: _file_json(s) for name, s in found.scores.items()},
        "failed": dict(found.failed),
        "without_prediction": found.without_prediction,
    }


def _file_json(scores: "Scores") -> dict[str, Any]:
    return {
        "unit": scores.unit,
        "mean_dice": scores.mean_dice,
        "mean_hd95": scores.mean_hd95,
        "mean_surface_dice": scores.mean_surface_dice,
        "dice": {str(value): dice for value, dice in scores.dice.items()},
        "hd95": {str(value): hd95 for value, hd95 in scores.hd95.items()},
        "surface_dice": {str(v): dice for v, dice in scores.surface_dice.items()},
        "missing": {str(value): reason for value, reason in scores.missing.items()},
    }


def _print(found: "Evaluation", names: Mapping[int, str]) -> None:
    classes = found.by_class.values()
    n_missing = sum(sum(scores.missing.values()) for scores in classes)
    parts: list[Table | str] = []
    if len(found.scores) > 1:
        parts += [_file_table(found), ""]
    parts.append(_class_table(found, names))
    if n_missing:
        parts.append(
            f"No HD95 and surface Dice for {n_missing} missing (see the last column)."
        )
    print_result(*parts)


def _class_table(found: "Evaluation", names: Mapping[int, str]) -> "Table":
    heading = f"HD95 ({found.unit})" if found.unit else "HD95"
    within = f"Surface Dice (1 {found.unit.removesuffix('s')})" if found.unit else ""
    table = make_table(
        "Class", "Name", "Dice", heading, within or "Surface Dice", "Files", "Missing"
    )
    for value, scores in found.by_class.items():
        table.add_row(
            str(value),
            shown(names.get(value, "")),
            number(scores.dice, 3),
            number(scores.hd95, 1),
            number(scores.surface_dice, 3),
            str(scores.n_files),
            ", ".join(f"{reason}: {n}" for reason, n in scores.missing.items()),
        )
    table.add_section()
    table.add_row(
        "mean",
        "",
        number(found.mean_dice, 3),
        number(found.mean_hd95, 1),
        number(found.mean_surface_dice, 3),
        "",
        "",
    )
    return table


def _file_table(found: "Evaluation") -> "Table":
    table = make_table("File", "Dice", "HD95", "Surface Dice", "Unit")
    for name, scores in found.scores.items():
        table.add_row(
            name,
            number(scores.mean_dice, 3),
            number(scores.mean_hd95, 1),
            number(scores.mean_surface_dice, 3),
            scores.unit,
        )
    return table

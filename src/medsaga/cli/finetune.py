"""The command `finetune`: images with labels in, a model folder out."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsaga import PRESETS, FineTuneSettings, MedsagaError, preset
from medsaga.cli.options import (
    AsJson,
    Overwrite,
    PresetName,
    parse_axis,
    parse_names,
    parse_slices,
    settings_options,
)
from medsaga.cli.run import (
    STOPPED,
    Run,
    check_writable,
    print_json,
    print_result,
    reports_errors,
    start_run,
)
from medsaga.cli.tables import class_table

if TYPE_CHECKING:
    from medsaga import ModelCard, TrainedModel
    from medsaga.events import Stream

DEFAULT_PRESET = "balanced"


@reports_errors
@settings_options(FineTuneSettings, PRESETS, DEFAULT_PRESET)
def finetune(
    image: Annotated[
        Path,
        typer.Argument(help="Image file, or a folder of them.", show_default=False),
    ],
    labels: Annotated[
        Path,
        typer.Argument(
            help="Labels of some slices, or a folder of files named as the images.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the model.", show_default=False)
    ],
    given: dict[str, Any],
    preset_name: PresetName = DEFAULT_PRESET,
    axis: Annotated[
        str | None,
        typer.Option(
            help="Axis that the slices are cut across: axial, coronal, sagittal, or "
            "0, 1, 2.",
            show_default="the one with the fewest labelled slices",
        ),
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            help="Slices that train, such as 3,9,15-20, counted from 0; may be given "
            "several times.",
            show_default="those that carry a label",
        ),
    ] = None,
    empty: Annotated[
        list[str] | None,
        typer.Option(
            help="Slices that show nothing of any class and train beside the others, "
            "such as 0,4,25-28.",
            show_default=False,
        ),
    ] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Intensities that become black and white; overrides --intensity.",
            metavar="LOW HIGH",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a class, such as 1=liver; may be given several times.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on images of which a few slices are labelled.

    Ctrl-C ends the training in order and keeps the best model so far.
    """
    settings = make_settings(preset_name, given)
    names, chosen_axis = parse_names(name), parse_axis(axis)
    chosen_slices = parse_slices(slices, "--slices")
    empty_slices = parse_slices(empty, "--empty") or []
    with start_run() as run:
        from medsaga import TrainingData, fine_tune

        folder = model_target(out, overwrite=overwrite)
        data = TrainingData(
            image,
            labels,
            axis=chosen_axis,
            slices=chosen_slices,
            empty_slices=empty_slices,
            window=window,
            class_names=names,
        )
        training = fine_tune(data, settings)
        model = train(run, training, folder)
        card = None if model is None else model.card
        if card is not None:
            _tell_unused_names(run, names, card)
    _print(folder, card, is_stopped=run.is_stopped, as_json=as_json)
    if run.is_stopped:
        raise typer.Exit(STOPPED)


def make_settings(preset_name: str, given: Mapping[str, Any]) -> FineTuneSettings:
    """Give a preset's settings with those changed that were given as options.

    Raises
    ------
    MedsagaError
        If there is no such preset, a value is not allowed, or two exclude one another.
    """
    if {"minutes", "steps"} <= given.keys():
        raise MedsagaError("--minutes and --steps exclude one another: give one.")
    return replace(preset(preset_name), **given)


def model_target(folder: Path, *, overwrite: bool) -> Path:
    """Give the path to save a model to, before time is spent on the model.

    Raises
    ------
    MedsagaError
        If something is there that may not be replaced, or nothing can be written.
    """
    from medsaga.frontend import check_model_target

    check_writable(folder.expanduser().absolute().parent)
    target = check_model_target(folder)
    if not overwrite and target.exists() and any(target.iterdir()):
        raise MedsagaError(
            f"{folder} is a model already: add --overwrite to replace it, or choose "
            "another name."
        )
    return target


def train(
    run: Run, training: "Stream[TrainedModel | None]", folder: Path
) -> "TrainedModel | None":
    """Run a training and save its model; None if it was stopped before it had one."""
    from medsaga import save_model

    model = run.drain(training)
    if model is None:
        run.display.say("Stopped before anything was learned: nothing is written.")
        return None
    save_model(model, folder)
    if run.is_stopped:
        run.display.say(f"Stopped: the best model so far is saved in {folder}.")
    return model


def _tell_unused_names(run: Run, names: Mapping[int, str], card: "ModelCard") -> None:
    for value, name in names.items():
        if value not in card.classes.values:
            run.display.say(
                f"No slice that trained carries the label {value}: its name {name!r} "
                "is unused."
            )


def _print(
    folder: Path, card: "ModelCard | None", *, is_stopped: bool, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "model": None if card is None else str(folder),
                "stopped": is_stopped,
                "card": None if card is None else json.loads(card.to_json()),
            }
        )
    elif card is not None:
        print_result(class_table(card), f"Model: {folder}")

"""The command `finetune`: images with labels in, a model folder out."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from medsaga import PRESETS, FineTuneSettings, MedsagaError, preset
from medsaga.cli.options import (
    PRESET_HELP,
    AsJson,
    Axis,
    Overwrite,
    parse_axis,
    parse_names,
    parse_slices,
    settings_options,
)
from medsaga.cli.repeating import DataOptions, Repetition
from medsaga.cli.run import (
    Run,
    leave_signals_to_others,
    print_json,
    print_result,
    reports_errors,
    start_run,
)
from medsaga.cli.tables import class_table
from medsaga.cli.training import (
    Trained,
    begin,
    end,
    find_interrupted,
    go_on,
    model_target,
)

if TYPE_CHECKING:
    from medsaga import Journal, ModelCard, TrainedModel
    from medsaga.events import Stream
    from medsaga.frontend import Ranks

DEFAULT_PRESET = "balanced"


@reports_errors
@settings_options(FineTuneSettings, PRESETS, DEFAULT_PRESET)
def finetune(
    context: typer.Context,
    given: dict[str, Any],
    image: Annotated[
        Path | None,
        typer.Argument(help="Image file, or a folder of them.", show_default=False),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Argument(
            help="Labels of some slices, or a folder of files named as the images.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the model.", show_default=False),
    ] = None,
    preset_name: Annotated[
        str | None,
        typer.Option("--preset", help=PRESET_HELP, show_default=DEFAULT_PRESET),
    ] = None,
    axis: Axis = None,
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
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a training that was interrupted: the one of --out, or the "
            "only one. With an image and labels too, begin it if there is none.",
        ),
    ] = False,
    from_card: Annotated[
        Path | None,
        typer.Option(
            "--from-card",
            help="Repeat the training of a model, given by its folder or card.json, "
            "with its settings, slices, classes and threads; other options change "
            "these.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on images of which a few slices are labelled.

    Ctrl-C ends the training in order and keeps the best model so far.

    Started by torchrun, its processes share each step: --batch-size is of each.
    """
    from medsaga.frontend import join_ranks

    ranks = context.with_resource(join_ranks())
    if not ranks.leads:
        from medsaga.frontend import follow

        leave_signals_to_others()
        follow(ranks)
        return
    if from_card is not None and (preset_name is not None or "minutes" in given):
        raise MedsagaError(
            "--from-card repeats the steps that a training took: leave --preset and "
            "--minutes out, or give --steps for another number."
        )
    options = DataOptions(
        axis=parse_axis(axis),
        slices=parse_slices(slices, "--slices"),
        empty_slices=parse_slices(empty, "--empty") or [],
        window=window,
        class_names=parse_names(name),
    )
    repetition = None
    if from_card is not None:
        repetition = Repetition.read(from_card, _for_all(given, ranks))
    if image is None or labels is None or out is None:
        is_told = bool(given or preset_name or from_card) or options != DataOptions()
        _check_alone(
            resume=resume,
            has_image=image is not None,
            has_options=is_told,
        )
        asked = None
    else:
        settings = make_settings(preset_name or DEFAULT_PRESET, given)
        settings = replace(settings, **_for_all(asdict(settings), ranks))
        asked = _Asked(image=image, labels=labels, settings=settings, options=options)
        asked = asked.repeating(repetition)
    with start_run() as run:
        described = {} if asked is None else asked.describe()
        entry = find_interrupted(out, described or None) if resume else None
        if entry is not None:
            trained = go_on(run, entry, out, ranks, overwrite=overwrite)
        elif asked is not None and out is not None:
            target = model_target(out, overwrite=overwrite)
            trained = begin(run, target, described, partial(asked.train, ranks))
            _tell_of_result(run, asked, repetition, trained.card)
        else:
            raise AssertionError
    _print(trained, is_stopped=run.is_stopped, as_json=as_json)
    end(is_stopped=run.is_stopped, problem=trained.problem)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a training is asked for."""

    image: Path
    labels: Path
    settings: FineTuneSettings
    options: DataOptions

    def repeating(self, repetition: Repetition | None) -> Self:
        """Give it with what is not asked for otherwise as it was before."""
        if repetition is None:
            return self
        options = self.options.over(repetition.options)
        return replace(self, settings=repetition.settings, options=options)

    def describe(self) -> dict[str, Any]:
        """Give all of it as JSON gives it back, and the files as they are now."""
        files = {name: _stamp(getattr(self, name)) for name in ("image", "labels")}
        described: dict[str, Any] = json.loads(json.dumps(asdict(self) | files))
        return described

    def train(
        self, ranks: "Ranks", journal: "Journal | None"
    ) -> "Stream[TrainedModel | None]":
        """Give the training, whose steps the ranks share."""
        from medsaga import TrainingData, fine_tune

        data = TrainingData(self.image, self.labels, **vars(self.options))
        return fine_tune(data, self.settings, journal=journal, ranks=ranks)


def _for_all(settings: Mapping[str, Any], ranks: "Ranks") -> dict[str, Any]:
    """Give the slices of a step, if they are said, as those of all ranks together."""
    said = {"batch_size"} & settings.keys()
    return {**settings, **{name: ranks.size * settings[name] for name in said}}


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    """Tell a file, or those of a folder, from what they are once they have changed."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.absolute(), file.stat()) for file in files if file.is_file()]
    return [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def _check_alone(*, resume: bool, has_image: bool, has_options: bool) -> None:
    """Check a command that does not say what to train on: it is to go on.

    Raises
    ------
    MedsagaError
        If it is not, or says what a training that goes on has long been told.
    """
    if not resume or has_image:
        raise MedsagaError(
            "An image, its labels and --out FOLDER are needed: give all three, or "
            "--resume to go on with a training that was interrupted."
        )
    if has_options:
        raise MedsagaError(
            "--resume goes on with what the training was begun with: leave the other "
            "options out, but for --out and --overwrite."
        )


def make_settings(preset_name: str, given: Mapping[str, Any]) -> FineTuneSettings:
    """Give a preset's settings with those changed that were given as options.

    The preset is that of the device that computes.

    Raises
    ------
    MedsagaError
        If there is no such preset, a value is not allowed, or two exclude one another.
    """
    if {"minutes", "steps"} <= given.keys():
        raise MedsagaError("--minutes and --steps exclude one another: give one.")
    from medsaga.frontend import has_gpu

    return replace(preset(preset_name, on_gpu=has_gpu()), **given)


def _tell_of_result(
    run: Run,
    asked: _Asked,
    repetition: Repetition | None,
    card: "ModelCard | None",
) -> None:
    if card is None:
        return
    for value, name in asked.options.class_names.items():
        if value not in card.classes.values:
            run.display.say(
                f"No slice that trained carries the label {value}: its name {name!r} "
                "is unused."
            )
    if repetition is not None:
        run.display.say(repetition.describe(card))


def _print(trained: Trained, *, is_stopped: bool, as_json: bool) -> None:
    card, path = trained.card, trained.path
    if as_json:
        print_json(
            {
                "model": path and str(path),
                "stopped": is_stopped,
                "card": None if card is None else json.loads(card.to_json()),
            }
        )
    elif card is not None:
        print_result(class_table(card), *([f"Model: {path}"] if path else []))

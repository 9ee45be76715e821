"""The command `demo`: the main run on the bundled sample."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsaga import PRESETS, FineTuneSettings, MedsagaError
from medsaga.cli.finetune import make_settings
from medsaga.cli.options import AsJson, PresetName, settings_options
from medsaga.cli.run import (
    Run,
    check_writable,
    print_json,
    print_result,
    reports_errors,
    start_run,
)
from medsaga.cli.tables import dice_table
from medsaga.cli.training import begin, end, model_target

if TYPE_CHECKING:
    from medsaga import ModelCard, Scores, TrainedModel, Volume

DEFAULT_PRESET = "balanced"


@reports_errors
@settings_options(FineTuneSettings, PRESETS, DEFAULT_PRESET)
def demo(
    given: dict[str, Any],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for the results; those of an earlier demo there are replaced.",
        ),
    ] = Path("medsaga-demo"),
    preset_name: PresetName = DEFAULT_PRESET,
    as_json: AsJson = False,
) -> None:
    """Fine-tune on five slices of a synthetic CT, segment the others, score them."""
    settings = make_settings(preset_name, given)
    out = out.expanduser()
    check_writable(out)
    with ExitStack() as stack:
        sample = _Sample.find(stack)
        run = stack.enter_context(start_run())
        result = _make(run, sample, settings, out)
    if as_json:
        print_json(result.as_json(sample.names, is_stopped=run.is_stopped))
    else:
        _print(result, sample.names)
    end(is_stopped=run.is_stopped, problem=result.problem)


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The files of the bundled sample."""

    image: Path
    labels: Path
    truth: Path
    names: Mapping[int, str]
    colours: Mapping[int, str]

    @classmethod
    def find(cls, stack: ExitStack) -> "_Sample":
        """Find the sample, unpacked for as long as `stack` is open."""
        try:
            bundled = files("napari_medsaga") / "sample_data"
            folder = stack.enter_context(as_file(bundled))
            classes = json.loads((folder / "phantom_classes.json").read_text("utf-8"))
        except (ModuleNotFoundError, FileNotFoundError) as error:
            raise MedsagaError(
                "The sample data are not installed: run pip install --force-reinstall "
                "--no-deps napari-medsaga."
            ) from error
        return cls(
            image=folder / "phantom_ct.nii.gz",
            labels=folder / "phantom_labels.nii.gz",
            truth=folder / "phantom_truth.nii.gz",
            names={int(value): row["name"] for value, row in classes.items()},
            colours={int(value): row["colour"] for value, row in classes.items()},
        )


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What the demo has made; None where it was stopped before."""

    model: Path | None = None
    mask: Path | None = None
    sheet: Path | None = None
    scores: "Scores | None" = None
    scored_slices: tuple[int, ...] = ()
    problem: str | None = None

    def as_json(self, names: Mapping[int, str], *, is_stopped: bool) -> dict[str, Any]:
        scores = self.scores
        dice = {} if scores is None else scores.dice
        paths = {"model": self.model, "mask": self.mask, "sheet": self.sheet}
        return {
            "stopped": is_stopped,
            **{name: path and str(path) for name, path in paths.items()},
            "mean_dice": None if scores is None else scores.mean_dice,
            "classes": {
                str(value): {"name": names.get(value), "dice": score}
                for value, score in dice.items()
            },
            "scored_slices": list(self.scored_slices),
        }


def _make(run: Run, sample: _Sample, settings: FineTuneSettings, out: Path) -> _Result:
    from medsaga import TrainingData, fine_tune, read_volume

    target = model_target(out / "phantom_model", overwrite=True)
    data = TrainingData(
        sample.image,
        sample.labels,
        class_names=sample.names,
        class_colours=sample.colours,
    )
    trained = begin(
        run,
        target,
        {"demo": str(out.absolute()), "settings": asdict(settings)},
        lambda journal: fine_tune(data, settings, journal=journal),
    )
    if trained.model is None:
        return _Result()
    image = read_volume(sample.image)
    mask = None if run.is_stopped else _segment(run, trained.model, image)
    result = _Result(model=trained.path, problem=trained.problem)
    if mask is None:
        return result
    return _write(trained.model.card, image, mask, sample, out, result)


def _segment(run: Run, model: "TrainedModel", image: "Volume") -> "Volume | None":
    from medsaga import segment

    result = run.drain(segment(model, image))
    return result.mask if result.is_complete else None


def _write(
    card: "ModelCard",
    image: "Volume",
    mask: "Volume",
    sample: _Sample,
    out: Path,
    result: _Result,
) -> _Result:
    """Write mask and sheet, and score the slices that were not annotated."""
    from medsaga import read_labels, score, volume_from_array, write_volume
    from medsaga.cli.sheet import draw_sheet

    truth = read_labels(sample.truth)
    rest = tuple(_not_annotated(card, image))
    predicted, true = (v.array.take(rest, card.axis) for v in (mask, truth))
    # HD95 would take the slices that are left for neighbours.
    scores = score(predicted, true, card.classes.values[1:])
    picture = draw_sheet(card, image, mask, truth, rest, scores.dice)
    return replace(
        result,
        mask=write_volume(mask, out / "phantom_mask.nii.gz", is_labels=True),
        sheet=write_volume(
            volume_from_array(picture, rgb=True), out / "phantom_overlays.png"
        ),
        scores=scores,
        scored_slices=rest,
    )


def _not_annotated(card: "ModelCard", image: "Volume") -> Iterator[int]:
    annotated = {one.index for one in (*card.training_slices, *card.held_out_slices)}
    return (i for i in range(image.shape[card.axis]) if i not in annotated)


def _print(result: _Result, names: Mapping[int, str]) -> None:
    if result.scores is not None:
        print_result(
            f"Dice on the {len(result.scored_slices)} slices that were not annotated:",
            "",
            dice_table(result.scores, names),
            "",
        )
    paths = {"Model": result.model, "Mask": result.mask, "Overlays": result.sheet}
    print_result(*(f"{title}: {p}" for title, p in paths.items() if p is not None))

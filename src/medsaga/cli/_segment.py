"""The command `segment`: a model and images in, masks out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medsaga import MedsagaError, SegmentSettings
from medsaga.cli._options import AsJson, Overwrite, settings_options
from medsaga.cli._run import (
    FAILED,
    OUT_OF_MEMORY,
    STOPPED,
    Job,
    check_writable,
    print_json,
    print_result,
    reports_errors,
    start_job,
)
from medsaga.errors import memory_explained

if TYPE_CHECKING:
    from medsaga import ModelCard, Outputs, TrainedModel


@reports_errors
@settings_options(SegmentSettings, {"": SegmentSettings()}, "")
def segment_images(
    model: Annotated[Path, typer.Argument(help="Model folder.", show_default=False)],
    image: Annotated[
        list[Path],
        typer.Argument(help="Image files, or folders of them.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for the masks, which get the images' names.",
            show_default=False,
        ),
    ],
    given: dict[str, Any],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Segment images with a trained model.

    Masks that are there already are kept, so the same command continues a run that was
    stopped.
    """
    settings = SegmentSettings(**given)
    out = out.expanduser()
    check_writable(out)
    with start_job() as job:
        from medsaga import load_model

        trained = load_model(model)
        planned = _plan_outputs(image, out, trained.card, settings)
        run = _Run(job, trained, settings, overwrite)
        items = run.segment_all(planned)
    if as_json:
        names = trained.card.classes.names
        document = {"model": str(model), "stopped": job.is_stopped}
        print_json(document | {"images": [item.as_json(names) for item in items]})
    else:
        print_result(*(str(path) for item in items for path in item.written))
    if job.is_stopped:
        raise typer.Exit(STOPPED)
    if any(item.error is not None for item in items):
        raise typer.Exit(FAILED)


@dataclass(frozen=True, kw_only=True)
class _Item:
    """What became of one image."""

    outputs: "Outputs"
    status: Literal["written", "kept", "failed", "stopped"]
    new: Sequence[Path] = ()
    error: str | None = None
    seconds: float = 0.0

    @property
    def written(self) -> list[Path]:
        """The files that were written now."""
        from medsaga import actual_path

        return [actual_path(path) for path in self.new]

    def as_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Give it for a program; files are named only where they are there."""
        from medsaga import actual_path

        document: dict[str, Any] = {
            "image": str(self.outputs.image),
            "status": self.status,
            "error": self.error,
            "seconds": round(self.seconds, 2),
        }
        if self.status not in ("written", "kept"):
            return document
        paths = [str(actual_path(path)) for path in self.outputs.probabilities]
        entropy = self.outputs.entropy
        return document | {
            "mask": str(actual_path(self.outputs.mask)),
            "probabilities": dict(zip(class_names, paths, strict=bool(paths))),
            "entropy": None if entropy is None else str(actual_path(entropy)),
        }


@dataclass(frozen=True)
class _Run:
    """A model that segments one image after the other."""

    job: Job
    model: "TrainedModel"
    settings: SegmentSettings
    overwrite: bool

    def segment_all(self, planned: Sequence["Outputs"]) -> list[_Item]:
        """Segment the images one by one; a bad one does not stop the others.

        Raises
        ------
        MedsagaError
            If there is but one and it cannot be segmented.
        """
        items = []
        for outputs in planned:
            try:
                with memory_explained(OUT_OF_MEMORY):
                    items.append(self.segment(outputs))
            except MedsagaError as error:
                if len(planned) == 1:
                    raise
                self.job.display.say(f"{outputs.image} failed: {error}")
                items.append(_Item(outputs=outputs, status="failed", error=str(error)))
        return items

    def segment(self, outputs: "Outputs") -> _Item:
        """Segment one image and write what is not there yet."""
        wanted = outputs.paths if self.overwrite else outputs.missing
        if not wanted:
            self.job.display.say(
                f"{outputs.mask} is there already and is kept (--overwrite replaces "
                "it)."
            )
            return _Item(outputs=outputs, status="kept")
        if self.job.is_stopped:
            return _Item(outputs=outputs, status="stopped")
        if len(wanted) < len(outputs.paths):
            self.job.display.say(
                f"Of {outputs.image.name} only what was not there is written; the rest "
                "may be another model's (--overwrite writes all of it)."
            )
        started = time.monotonic()
        is_complete = self._write(outputs, wanted)
        return _Item(
            outputs=outputs,
            status="written" if is_complete else "stopped",
            new=wanted if is_complete else (),
            seconds=time.monotonic() - started,
        )

    def _write(self, outputs: "Outputs", wanted: Sequence[Path]) -> bool:
        from medsaga import read_volume, segment, write_volume

        image = read_volume(outputs.image)
        result = self.job.run(segment(self.model, image, self.settings))
        if not result.is_complete:
            self.job.display.say(
                f"Stopped: {outputs.image.name} is not segmented to the end, so "
                "nothing of it is written."
            )
            return False
        for path, volume in zip(outputs.paths, result.volumes(), strict=True):
            if path in wanted:
                write_volume(volume, path, is_labels=volume is result.mask)
        return True


def _plan_outputs(
    images: Sequence[Path], out: Path, card: "ModelCard", settings: SegmentSettings
) -> list["Outputs"]:
    """Plan the outputs for files and folders of images, before any is written.

    Raises
    ------
    MedsagaError
        If an image is not there, or an output would replace an image or another output.
    """
    from medsaga import OutputPlan, image_files

    files: dict[Path, Path] = {}
    for image in images:
        for file in image_files(image):
            files.setdefault(file.resolve(), file)
    plan = OutputPlan(folder=out, images=set(files), card=card, settings=settings)
    return [plan.outputs(file) for file in files.values()]

"""The command `segment`: a model and images in, masks out."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsaga import SegmentSettings
from medsaga.cli.options import AsJson, Overwrite, settings_options
from medsaga.cli.run import (
    FAILED,
    STOPPED,
    Run,
    check_writable,
    print_json,
    print_result,
    reports_errors,
    start_run,
)
from medsaga.events import Event

if TYPE_CHECKING:
    from medsaga import ItemResult
    from medsaga.frontend import BatchItem


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
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Painted slices, to be carried to the others: a file for a single "
            "image, or a folder of files called as the images are.",
            show_default="what the model knows of the image",
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            help="Share the images among the workers of a dask cluster: the address "
            "or the scheduler file of one, or local for workers on this computer.",
            metavar="ADDRESS|local",
            show_default="one image after the other, here",
        ),
    ] = None,
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
    with start_run() as run:
        from medsaga import load_model, segment_batch
        from medsaga.frontend import batch_items, connect_cluster

        trained, items = load_model(model), batch_items(image, labels)
        for sentence in _left_out(items, image, labels, out):
            run.display.say(sentence)
        with nullcontext() if dask is None else connect_cluster(dask) as client:
            batch = segment_batch(
                trained, items, settings, out=out, replaces=overwrite, client=client
            )
            results = run.drain(batch, partial(_tell, run, is_alone=len(items) == 1))
    if len(results) == 1 and results[0].error is not None:
        raise results[0].error
    if as_json:
        names = trained.card.classes.names
        document = {"model": str(model), "stopped": run.is_stopped}
        print_json(document | {"images": [_as_json(r, names) for r in results]})
    else:
        print_result(*(str(path) for r in results for path in r.written))
    for result in results:
        if result.unexpected is not None:
            traceback.print_exception(result.unexpected)
    if run.is_stopped:
        raise typer.Exit(STOPPED)
    if any(result.error is not None for result in results):
        raise typer.Exit(FAILED)


def _left_out(
    items: "Sequence[BatchItem]", images: Sequence[Path], labels: Path | None, out: Path
) -> Iterator[str]:
    """Name what the folders hold that the items are not made of."""
    from medsaga.frontend import left_out, left_without_partner

    yield from left_out(images if labels is None else [*images, labels], out)
    if labels is not None and labels.is_dir():
        yield from left_without_partner(items, labels)


def _tell(run: Run, event: Event, *, is_alone: bool) -> None:
    """Say what became of an image, unless it is written as it should be.

    Why one that `is_alone` failed is said in the end.
    """
    from medsaga.frontend import ItemEnded

    if not isinstance(event, ItemEnded):
        return
    result, outputs = event.result, event.result.outputs
    assert outputs is not None
    match result.status:
        case "kept":
            run.display.say(
                f"{outputs.mask} is there already and is kept (--overwrite replaces "
                "it)."
            )
        case "failed" if not is_alone:
            run.display.say(f"{outputs.image} failed: {result.message}")
        case "stopped":
            run.display.say(
                f"Stopped: {outputs.image.name} is not segmented to the end, so "
                "nothing of it is written."
            )
        case _ if result.keeps_some:
            run.display.say(
                f"Of {outputs.image.name} only what was not there is written; the rest "
                "may be another model's (--overwrite writes all of it)."
            )


def _as_json(result: "ItemResult", class_names: Sequence[str]) -> dict[str, Any]:
    """Give it for a program; files are named only where they are there."""
    outputs = result.outputs
    assert outputs is not None
    document: dict[str, Any] = {
        "image": str(outputs.image),
        "status": "written" if result.status == "done" else result.status,
        "error": result.message or None,
        "seconds": round(result.seconds, 2),
    }
    if result.status not in ("done", "kept"):
        return document
    maps = zip(class_names, outputs.probabilities, strict=bool(outputs.probabilities))
    return document | {
        "mask": str(outputs.mask),
        "probabilities": {name: str(path) for name, path in maps},
        "entropy": None if outputs.entropy is None else str(outputs.entropy),
    }

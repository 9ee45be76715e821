"""The commands `propagate` and `suggest`: paint in, a mask out, without a training."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsaga.cli.options import AsJson, Axis, Overwrite, parse_axis, parse_slices
from medsaga.cli.run import (
    STOPPED,
    Run,
    check_output,
    print_json,
    print_result,
    reports_errors,
    start_run,
)
from medsaga.events import CarriedSlice, Event

if TYPE_CHECKING:
    from medsaga import Propagation

Painted = Annotated[
    Path, typer.Argument(help="Labels of some of its slices.", show_default=False)
]
Image = Annotated[Path, typer.Argument(help="Image file.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="File for the mask.")]
Slices = Annotated[
    list[str] | None,
    typer.Option(
        help="Slices that are taken for painted, such as 3,9,15-20, counted from "
        "0; may be given several times.",
        show_default="those that carry a label",
    ),
]
Empty = Annotated[
    list[str] | None,
    typer.Option(
        help="Slices that show nothing of any class, such as 0,4,25-28.",
        show_default=False,
    ),
]
BackgroundValue = Annotated[
    int | None,
    typer.Option(
        help="The label value of background, where label 0 is unknown.",
        show_default=False,
    ),
]


@reports_errors
def propagate_paint(
    image: Image,
    labels: Painted,
    out: Out,
    axis: Axis = None,
    slices: Slices = None,
    empty: Empty = None,
    background_value: BackgroundValue = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Carry the painted slices of a volume to the slices between, without training.

    The boundaries follow the optical flow from slice to slice. It takes seconds.
    """
    out = out.expanduser()
    check_output(out, image, labels, overwrites=overwrite)
    found: list[CarriedSlice] = []

    def note(event: Event) -> None:
        if isinstance(event, CarriedSlice):
            found.append(event)

    with start_run() as run:
        from medsaga import propagate

        options = _options(axis, slices, empty, background_value)
        result = _drain(run, propagate, image, labels, options, note)
        written = _write(result, out)
    described = [
        {"index": e.index, "gap": e.gap, "agreement": e.agreement} for e in found
    ]
    if as_json:
        print_json({"mask": written, "axis": result.axis, "slices": described})
    else:
        print_result(written)


@reports_errors
def suggest_classes(
    image: Image,
    labels: Painted,
    out: Out,
    axis: Axis = None,
    slices: Slices = None,
    empty: Empty = None,
    background_value: BackgroundValue = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Segment an image by what is painted on it, in seconds, without training.

    What the pretrained encoder sees at the painted pixels is learned, and joined with
    the paint that is carried along the optical flow. Strokes and 2-D images will do.
    """
    out = out.expanduser()
    check_output(out, image, labels, overwrites=overwrite)
    with start_run() as run:
        from medsaga import suggest

        options = _options(axis, slices, empty, background_value)
        result = _drain(run, suggest, image, labels, options, lambda _: None)
        written = _write(result, out)
    if as_json:
        print_json({"mask": written, "axis": result.axis})
    else:
        print_result(written)


def _options(
    axis: str | None,
    slices: list[str] | None,
    empty: list[str] | None,
    background_value: int | None,
) -> dict[str, Any]:
    return {
        "axis": parse_axis(axis),
        "slices": parse_slices(slices, "--slices"),
        "empty_slices": parse_slices(empty, "--empty") or (),
        "background_value": background_value,
    }


def _drain(
    run: Run,
    carry: Callable[..., Any],
    image: Path,
    labels: Path,
    options: dict[str, Any],
    note: Callable[[Event], None],
) -> "Propagation":
    from medsaga import read_labels, read_volume

    stream = carry(read_volume(image), read_labels(labels), **options)
    result: Propagation = run.drain(stream, note)
    if not result.is_complete:
        typer.echo("Stopped: nothing is written.", err=True)
        raise typer.Exit(STOPPED)
    return result


def _write(result: "Propagation", out: Path) -> str:
    from medsaga import write_volume

    return str(write_volume(result.mask, out, is_labels=True))

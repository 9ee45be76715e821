"""The command `propagate`: painted slices in, the whole volume out, without a model."""

from pathlib import Path
from typing import Annotated

import typer

from medsaga.cli.options import AsJson, Axis, Overwrite, parse_axis, parse_slices
from medsaga.cli.run import (
    STOPPED,
    check_output,
    print_json,
    print_result,
    reports_errors,
    start_run,
)
from medsaga.events import CarriedSlice, Event


@reports_errors
def propagate_paint(
    image: Annotated[Path, typer.Argument(help="Image file.", show_default=False)],
    labels: Annotated[
        Path,
        typer.Argument(help="Labels of some of its slices.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="File for the mask.", show_default=False),
    ],
    axis: Axis = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            help="Slices that are taken for painted, such as 3,9,15-20, counted from "
            "0; may be given several times.",
            show_default="those that carry a label",
        ),
    ] = None,
    empty: Annotated[
        list[str] | None,
        typer.Option(
            help="Slices that show nothing of any class, such as 0,4,25-28.",
            show_default=False,
        ),
    ] = None,
    background_value: Annotated[
        int | None,
        typer.Option(
            help="The label value of background, where label 0 is unknown.",
            show_default=False,
        ),
    ] = None,
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
        from medsaga import propagate, read_labels, read_volume, write_volume

        stream = propagate(
            read_volume(image),
            read_labels(labels),
            axis=parse_axis(axis),
            slices=parse_slices(slices, "--slices"),
            empty_slices=parse_slices(empty, "--empty") or (),
            background_value=background_value,
        )
        result = run.drain(stream, note)
    if not result.is_complete:
        typer.echo("Stopped: nothing is written.", err=True)
        raise typer.Exit(STOPPED)
    written = write_volume(result.mask, out, is_labels=True)
    if as_json:
        print_json(
            {
                "mask": str(written),
                "axis": result.axis,
                "slices": [
                    {"index": e.index, "gap": e.gap, "agreement": e.agreement}
                    for e in found
                ],
            }
        )
    else:
        print_result(str(written))

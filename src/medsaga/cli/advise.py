"""The command `advise`: a model and a volume in, where a look is worth most out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medsaga.cli.options import AsJson, Overwrite
from medsaga.cli.run import (
    STOPPED,
    check_output,
    print_json,
    print_result,
    reports_errors,
    start_run,
)
from medsaga.cli.tables import make_table, number

if TYPE_CHECKING:
    from medsaga import Advice

_SHOWN = 10


@reports_errors
def advise_slices(
    model: Annotated[Path, typer.Argument(help="Model folder.", show_default=False)],
    image: Annotated[Path, typer.Argument(help="Image file.", show_default=False)],
    labels: Annotated[
        Path | None,
        typer.Argument(
            help="Painted slices of it.",
            show_default="what the model knows of the image",
        ),
    ] = None,
    n: Annotated[
        int,
        typer.Option("--next", min=1, help="Slices to paint that are named."),
    ] = 3,
    uncertainty: Annotated[
        Path | None,
        typer.Option(
            help="File for a map of how likely each voxel is wrong.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Say which slices of a volume to paint or to look at next.

    The slices to paint are those that help most, one after the other; those to look at
    are those with the most pixels that are expected to be wrong.
    """
    if uncertainty is not None:
        uncertainty = uncertainty.expanduser()
        inputs = [image] if labels is None else [image, labels]
        check_output(uncertainty, *inputs, overwrites=overwrite)
    with start_run() as run:
        import medsaga

        advice = run.drain(medsaga.advise(model, image, labels=labels))
    if not advice.is_complete:
        typer.echo("Stopped: not every slice was looked at.", err=True)
        raise typer.Exit(STOPPED)
    if uncertainty is not None:
        uncertainty = medsaga.write_volume(advice.uncertainty, uncertainty)
    if as_json:
        print_json(_as_json(advice, n, uncertainty))
        return
    chosen = ", ".join(map(str, advice.to_paint(n)))
    table = make_table("Slice", "Pixels expected wrong", left=())
    for index in advice.to_review()[:_SHOWN]:
        table.add_row(str(index), number(advice.errors[index], 0))
    print_result(
        f"Paint next: {chosen or 'all is painted'}.",
        "",
        table,
        *(() if uncertainty is None else ("", str(uncertainty))),
    )


def _as_json(advice: "Advice", n: int, uncertainty: Path | None) -> dict[str, object]:
    return {
        "axis": advice.axis,
        "painted": advice.painted,
        "to_paint": advice.to_paint(n),
        "to_review": advice.to_review(),
        "errors": [round(one, 2) for one in advice.errors],
        "doubts": [round(one, 6) for one in advice.doubts],
        "uncertainty": None if uncertainty is None else str(uncertainty),
    }

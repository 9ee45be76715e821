"""The commands `weights`: pretrained weights listed, downloaded, put in, checked."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsaga.cli.options import AsJson
from medsaga.cli.run import (
    FAILED,
    STOPPED,
    print_json,
    print_result,
    reports_errors,
    start_run,
)
from medsaga.cli.tables import make_table

if TYPE_CHECKING:
    from medsaga.frontend import WeightFile

weights = typer.Typer(
    help="List, download, import and check the pretrained weights of the backbones.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_STATES = {"here": "here", "missing": "not here", "damaged": "damaged"}


@weights.command("list")
@reports_errors
def list_weights(as_json: AsJson = False) -> None:
    """Show which weights are here, by name and size, and how to get the others."""
    from medsaga.frontend import weight_files

    _print(weight_files(), as_json=as_json, is_stopped=False)


@weights.command("download")
@reports_errors
def download(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="Backbones: vit_b, vit_l, vit_h.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Fetch official weights from Meta's server, unless they are here.

    A download that was cut off or stopped goes on where it was.
    """
    with start_run() as run:
        from medsaga.frontend import fetch_weights

        paths: dict[str, Path | None] = {}
        for name in names:
            if not run.is_stopped:
                paths[name] = run.drain(fetch_weights(name))
    _print_paths(paths, as_json=as_json, is_stopped=run.is_stopped)


@weights.command("import")
@reports_errors
def import_file(
    file: Annotated[
        Path, typer.Argument(help="Official file, by any name.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Copy a file of official weights to where they are looked for.

    Files of other people's weights are used by their path: finetune --backbone FILE.
    """
    with start_run() as run:
        from medsaga.frontend import import_weights

        path = run.drain(import_weights(file))
    _print_paths({str(file): path}, as_json=as_json, is_stopped=run.is_stopped)


@weights.command("verify")
@reports_errors
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Backbones.", show_default="all that are here"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read weights through and compare their SHA-256; exit code 1 if one is damaged.

    So it is if one that is named is not here.
    """
    with start_run() as run:
        from medsaga.frontend import verify_weights

        files = run.drain(verify_weights(names or ()))
    _print(files, as_json=as_json, is_stopped=run.is_stopped)
    bad = ("damaged", "missing") if names else ("damaged",)
    if any(file.state in bad for file in files):
        raise typer.Exit(FAILED)


def _print(files: Iterable["WeightFile"], *, as_json: bool, is_stopped: bool) -> None:
    """Print what is known of files, and end as a stopped command does if it was."""
    from medsaga.frontend import weights_folder

    if as_json:
        rows = [asdict(f) | {"path": f.path and str(f.path)} for f in files]
        folder = str(weights_folder())
        print_json({"folder": folder, "stopped": is_stopped, "weights": rows})
    else:
        left = ("Backbone", "Licence", "Weights", "File")
        table = make_table("Backbone", "MB", "Licence", "Weights", "File", left=left)
        for file in files:
            size, state = f"{file.n_bytes / 1e6:.0f}", _STATES[file.state]
            table.add_row(file.name, size, file.licence, state, str(file.path or "-"))
        print_result(table, *(f"\n{f.problem}" for f in files if f.problem))
    if is_stopped:
        raise typer.Exit(STOPPED)


def _print_paths(
    paths: dict[str, Path | None], *, as_json: bool, is_stopped: bool
) -> None:
    done: dict[str, Any] = {n: p and str(p) for n, p in paths.items()}
    if as_json:
        print_json({"stopped": is_stopped, "weights": done})
    else:
        print_result(*(path for path in done.values() if path))
    if is_stopped:
        raise typer.Exit(STOPPED)

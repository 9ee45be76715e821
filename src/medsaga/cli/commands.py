"""The commands by name.

Nothing heavy is imported before a command runs, so that ``--help`` is quick.
"""

import io
import sys
import warnings
from typing import Annotated

import typer

from medsaga import __version__
from medsaga.cli.advise import advise_slices
from medsaga.cli.demo import demo
from medsaga.cli.doctor import doctor
from medsaga.cli.evaluate import evaluate
from medsaga.cli.finetune import finetune
from medsaga.cli.info import info
from medsaga.cli.propagate import propagate_paint, suggest_classes
from medsaga.cli.segment import segment_images
from medsaga.cli.weights import weights

__all__ = ["app", "main"]

app = typer.Typer(
    name="medsaga",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed for some, 2 bad input, 130 stopped.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medsaga {__version__}")
        raise typer.Exit


@app.callback()
def _medsaga(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Fine-tune a Segment Anything model on a few annotated slices, segment the rest.

    Start with: medsaga demo
    """


app.command("finetune")(finetune)
app.command("segment")(segment_images)
app.command("propagate")(propagate_paint)
app.command("suggest")(suggest_classes)
app.command("advise")(advise_slices)
app.command("evaluate")(evaluate)
app.command("info")(info)
app.command("demo")(demo)
app.command("doctor")(doctor)
app.add_typer(weights, name="weights")


def main() -> None:
    """Run the command line."""
    if not sys.warnoptions:
        # What libraries tell their developers says nothing to who segments images.
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file on Windows may not hold all
            stream.reconfigure(errors="replace")
    app()

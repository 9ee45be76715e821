"""What all commands share: running a stream, signals, exit codes, results."""

import functools
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from errno import EINVAL, ELOOP, ENAMETOOLONG
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import typer
from rich.console import Console, RenderableType

from medsaga import MedsagaError, drain
from medsaga.cli.display import Display
from medsaga.events import Event, Stream
from medsaga.frontend import shown

FAILED, BAD_INPUT, STOPPED = 1, 2, 130
_RESULT_WIDTH = 160
_LONGEST_LINE = 5000
_STOPPING = b"\nStopping in order; press Ctrl-C again to abort at once.\n"

T = TypeVar("T")


class Run:
    """A command's long work: shows its streams, and stops them at a signal."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self.is_stopped = False
        self._terminals = [number for number in (1, 2) if os.isatty(number)]

    def drain(
        self, stream: Stream[T], on_event: Callable[[Event], object] | None = None
    ) -> T:
        """Run a stream to its end, or to the next event after a signal.

        Parameters
        ----------
        stream
            What is run; its events are shown.
        on_event
            Called with each of them too.

        Returns
        -------
        T
            What the stream returns.
        """

        def show(event: Event) -> None:
            self.display.show(event)
            if on_event is not None:
                on_event(event)

        return drain(stream, show, should_stop=lambda: self.is_stopped)

    def on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ask for the end at the first Ctrl-C; abort at the second."""
        if self.is_stopped:
            raise KeyboardInterrupt
        self.is_stopped = True
        # Python's and rich's streams must not be written to within a signal handler.
        with suppress(OSError):
            os.write(2, _STOPPING)

    def on_termination(self, number: int, frame: FrameType | None) -> None:
        """Ask for the end, as a batch scheduler or a logout does; however often."""
        self.is_stopped = True

    def on_hangup(self, number: int, frame: FrameType | None) -> None:
        """Ask for the end, with nobody left to tell: the terminal is gone."""
        self.is_stopped = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextmanager
def start_run() -> Iterator[Run]:
    """Show progress, stop in order at a signal, keep stdout free for the results."""
    with redirect_stdout(sys.stderr), Display() as display:
        run = Run(display)
        with _signals_to(run):
            display.work("Loading")
            yield run


@contextmanager
def _signals_to(run: Run) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    handlers = {
        "SIGINT": run.on_interrupt,
        "SIGTERM": run.on_termination,
        "SIGHUP": run.on_hangup,  # which Windows does not have
    }
    before: dict[int, Any] = {}
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        # Under nohup a hangup is ignored, and stays so.
        if number is not None and signal.getsignal(number) not in (
            None,  # set by another language, and not to be set back from here
            signal.SIG_IGN,
        ):
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def leave_signals_to_others() -> None:
    """Let another process decide when this one ends, from now on."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # the last of which Windows does not have
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn bad input into one sentence on stderr and an exit code."""

    @functools.wraps(command)
    def reporting(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except MedsagaError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(BAD_INPUT) from error
        except OSError as error:
            if error.errno not in (ENAMETOOLONG, ELOOP, EINVAL):
                raise
            name = shown(str(error.filename))
            typer.echo(
                f"Error: {name} is no name of a file here ({error.strerror}): choose "
                "another.",
                err=True,
            )
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as error:
            typer.echo("Aborted.", err=True)
            raise typer.Exit(STOPPED) from error

    return reporting


def print_json(document: object) -> None:
    """Print a result for a program; a score that does not exist (NaN) is null."""
    typer.echo(json.dumps(_without_nan(document), indent=2, allow_nan=False))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def print_result(*parts: RenderableType) -> None:
    """Print a result for a human: lines as they are, and tables."""
    console = Console(highlight=False, emoji=False)
    is_read_by_people = console.is_terminal
    if not is_read_by_people:
        console = Console(highlight=False, emoji=False, width=_RESULT_WIDTH)
    for part in parts:
        if isinstance(part, str):
            # A program needs a path as it is; a terminal would do what it says.
            line = shown(part, _LONGEST_LINE) if is_read_by_people else part
            console.print(line, soft_wrap=True, markup=False)
        else:
            console.print(part, markup=False)


def check_writable(folder: Path) -> None:
    """Raise MedsagaError unless `folder` can be written to, or be made."""
    existing = folder.expanduser().absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.exists():
        raise MedsagaError(f"There is no {existing}: choose another folder for --out.")
    if not existing.is_dir():
        raise MedsagaError(f"{existing} is a file: choose another folder for --out.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise MedsagaError(
            f"{existing} may not be written to: choose another folder for --out."
        )


def check_output(out: Path, *inputs: Path, overwrites: bool) -> None:
    """Raise MedsagaError where a file cannot be written, or would replace another."""
    from medsaga.frontend import possible_outputs

    check_writable(out.parent)
    if out.is_dir():
        raise MedsagaError(f"{out} is a folder: give a file.")
    for path in possible_outputs(out):
        if path.resolve() in {one.resolve() for one in inputs}:
            raise MedsagaError(
                f"{path} would be replaced by what is found: give another file."
            )
        if path.exists() and not overwrites:
            raise MedsagaError(
                f"{path} is there already: give another file, or --overwrite."
            )

"""The command `doctor`: what is installed, what computes here, and what is wrong."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from medsaga.cli.options import AsJson
from medsaga.cli.run import (
    FAILED,
    STOPPED,
    print_json,
    print_result,
    reports_errors,
    start_run,
)

if TYPE_CHECKING:
    from medsaga.frontend import Facts

_GB = 1e9


@reports_errors
def doctor(as_json: AsJson = False) -> None:
    """Look at this installation and computer, and say what to do about what is wrong.

    Exit code 1 if something is.
    """
    with start_run() as run:
        from medsaga.frontend import examine, notes, problems

        facts = run.drain(examine())
    wrong, told = problems(facts), notes(facts)
    if as_json:
        print_json(_as_json(facts) | {"problems": wrong, "notes": told})
    else:
        table = Table.grid(padding=(0, 2))
        for row in _rows(facts):
            table.add_row(*row)
        found = [f"Problem: {p}" for p in wrong] or ["No problem was found."]
        print_result(table, "", *found, *(f"Note: {note}" for note in told))
    if run.is_stopped:
        raise typer.Exit(STOPPED)
    if wrong:
        raise typer.Exit(FAILED)


def _as_json(facts: "Facts") -> dict[str, Any]:
    document: dict[str, Any] = asdict(facts)
    for row in (*document["weights"], *document["places"]):
        row["path"] = row["path"] and str(row["path"])
    return document


def _rows(facts: "Facts") -> Iterator[tuple[str, str]]:
    yield "Python", facts.python
    yield "System", facts.system
    for name, version in facts.versions.items():
        yield name, version or "not installed"
    yield from _of_computer(facts)
    for file in facts.weights:
        state = {"here": "whole", "missing": "not here"}.get(file.state, file.state)
        yield f"Weights {file.name}", f"{state}, {file.path}" if file.path else state
    for place in facts.places:
        free = f"{place.free_bytes / _GB:.1f} GB free"
        writable = "" if place.is_writable else ", cannot be written to"
        yield f"{place.title} are in", f"{place.path}, {free}{writable}"
    for title, reason in facts.unknown.items():
        yield title, f"could not be found out ({reason})"


def _of_computer(facts: "Facts") -> Iterator[tuple[str, str]]:
    torch = facts.torch
    if torch is not None:
        yield "CPU", f"{torch.cpu}, {torch.threads} threads in a training"
        yield "Threads", f"PyTorch takes {torch.own_threads} of itself"
        yield "CUDA", torch.cuda or "PyTorch is built without it"
        for name, free, total in torch.gpus:
            yield "GPU", f"{name}, {_share(free, total)}"
    if torch is not None and not torch.gpus:
        yield "GPU", "none that PyTorch can use"
    for name, value in facts.variables.items():
        yield name, value
    if facts.free_memory is not None and facts.total_memory is not None:
        yield "Memory", _share(facts.free_memory, facts.total_memory)


def _share(free: int, total: int) -> str:
    return f"{free / _GB:.1f} of {total / _GB:.1f} GB free"

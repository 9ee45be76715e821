"""The command `info`: what there is to know of a model."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medsaga import FineTuneSettings
from medsaga.cli.options import AsJson
from medsaga.cli.run import print_json, print_result, reports_errors
from medsaga.cli.tables import PlainTable, class_table
from medsaga.frontend import duration, shown

if TYPE_CHECKING:
    from medsaga import ModelCard
    from medsaga.frontend import SliceId

_MB = 1e6


@reports_errors
def info(
    model: Annotated[Path, typer.Argument(help="Model folder.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show what a model is, what it was trained on and how well it does."""
    from medsaga import load_card

    card = load_card(model)
    if as_json:
        print_json(json.loads(card.to_json()))
        return
    table = PlainTable.grid(padding=(0, 2))
    table.add_row("Model", f"{model}, {_megabytes(_size(model))}")
    for title, text in [*_of_model(card), *_of_training(card), *_of_cost(card)]:
        table.add_row(title, text)
    print_result(table, "", class_table(card))


def _of_model(card: "ModelCard") -> Iterable[tuple[str, str]]:
    from medsaga.frontend import AXIS_NAMES

    sha256 = f" (SHA-256 {card.base_sha256[:12]})" if card.base_sha256 else ""
    axis = next(name for name, axis in AXIS_NAMES.items() if axis == card.axis)
    rule = card.intensity
    unit = "percentiles " if rule.kind == "percentiles" else ""
    head = "with" if card.detail_head else "without"
    yield "Backbone", f"{card.backbone}, {head} detail head"
    yield "Started from", f"{card.base_weights}{sha256}"
    tiles = f", in tiles of {card.canvas.tile}" if card.canvas.tile else ""
    yield "Working size", f"{card.canvas.long_side} pixels along the long side{tiles}"
    seen = ", with the slices below and above" if card.canvas.neighbours else ""
    yield "Slices across", f"axis {card.axis} ({axis}){seen}"
    yield "Window", f"{unit}{rule.low:g} to {rule.high:g}"


def _of_training(card: "ModelCard") -> Iterable[tuple[str, str]]:
    settings = card.settings
    yield "Created", card.created
    yield "Trained on", _slices(card.training_slices)
    if card.held_out_slices:
        yield "Held out", _slices(card.held_out_slices)
    if settings.get("sparse"):
        yield "Annotation", f"sparse, background {settings['background_value']}"
    yield "Stages", _stages(card)
    yield "Seed", str(settings["seed"])
    yield "Data", f"SHA-256 {card.data_fingerprint[:12]}"


def _stages(card: "ModelCard") -> str:
    stages = card.settings["stages"]
    if stages == "head":
        return "the head alone"
    planned = card.settings["steps"]
    done = card.metrics.get("step", planned)  # not in cards of format version 1
    steps = f"{done} GaLore steps" + ("" if done == planned else f" of {planned}")
    return f"{stages}, {steps}"


def _of_cost(card: "ModelCard") -> Iterable[tuple[str, str]]:
    measured, settings = card.measured, card.settings
    if {"projected_share", "optimizer_state_bytes"} <= measured.keys():
        optimizer = settings["optimizer"]
        rank = FineTuneSettings(**settings).subspace_rank
        yield (
            {"galore": "GaLore", "fira": "Fira"}.get(optimizer, "APOLLO-Mini"),
            f"{measured['projected_share']:.0%} of the encoder's parameters projected "
            f"(rank {rank}), optimizer state "
            f"{_megabytes(measured['optimizer_state_bytes'])}",
        )
    yield "Time", f"{duration(measured['seconds'])} ({_computer(card)})"
    yield "Peak memory", _megabytes(measured["peak_memory"])
    yield "Software", ", ".join(f"{n} {v}" for n, v in card.software.items())


def _computer(card: "ModelCard") -> str:
    measured = card.measured
    threads = f", {measured['threads']} threads" if "threads" in measured else ""
    return f"{measured['device']}{threads}, {card.settings['precision']}"


def _slices(slices: Sequence["SliceId"]) -> str:
    """List slices: ``2 slices: ct [3], ct [9]``."""
    names = [shown(one.name) for one in slices]
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{len(names)} slices: {listed}"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def _megabytes(n_bytes: float) -> str:
    return f"{n_bytes / _MB:.0f} MB"

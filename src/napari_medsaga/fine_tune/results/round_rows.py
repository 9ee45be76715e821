"""A round as rows of a table, beside the round before it."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_medsaga.layers.rounds import Round

_HEADER = ("round", "model", "value", "class", "dice", "measured", "voxels", "slices")


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """What is to be said of one class after a round; empty where it is not known.

    `change` is what became of its Dice and of its size since the round before, and
    `history` has a line for each round.
    """

    value: int
    name: str
    dice: str
    size: str
    slices: str
    change: str
    history: str


def class_rows(rounds: Sequence[Round], *, is_2d: bool) -> list[ClassRow]:
    """Give a row for each class of the last round, in the order of its table."""
    if not rounds:
        return []
    last, before = rounds[-1], rounds[-2] if len(rounds) > 1 else None
    return [
        ClassRow(
            value=value,
            name=name,
            dice=_dice(last, value),
            size=_size(last, value, is_2d=is_2d),
            slices=_slices(last, value),
            change="" if before is None else _change(before, last, value),
            history=_history(rounds, value, is_2d=is_2d),
        )
        for value, name in last.names.items()
    ]


def rounds_as_csv(rounds: Sequence[Round], *, is_2d: bool) -> str:
    """Give all rounds as CSV, a row for each class of each."""
    unit = "mm2" if is_2d else "ml"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_HEADER, unit])
    for number, one in enumerate(rounds, 1):
        for value, name in one.names.items():
            measure = one.measures.get(value)
            dice = one.dice.get(value)
            writer.writerow(
                [
                    *(number, one.model, value, name),
                    "" if dice is None else f"{dice:.4f}",
                    one.where,
                    "" if measure is None else measure.n_voxels,
                    "" if measure is None else measure.n_slices,
                    ""
                    if measure is None or measure.size is None
                    else f"{measure.size:.4f}",
                ]
            )
    return text.getvalue()


def _dice(one: Round, value: int) -> str:
    dice = one.dice.get(value)
    return "" if dice is None else f"{dice:.2f}"


def _size(one: Round, value: int, *, is_2d: bool) -> str:
    measure = one.measures.get(value)
    if measure is None:
        return ""
    if measure.size is None:
        return f"{measure.n_voxels} px" if is_2d else f"{measure.n_voxels} vx"
    digits = 0 if measure.size >= 100 else 2 if measure.size < 10 else 1
    return f"{measure.size:.{digits}f} {'mm²' if is_2d else 'ml'}"


def _slices(one: Round, value: int) -> str:
    measure = one.measures.get(value)
    return "" if measure is None else str(measure.n_slices)


def _history(rounds: Sequence[Round], value: int, *, is_2d: bool) -> str:
    """Say what each round gave of a class, such as ``2: Dice 0.91, 14.2 ml``."""
    lines = []
    for number, one in enumerate(rounds, 1):
        dice, size = _dice(one, value), _size(one, value, is_2d=is_2d)
        parts = [f"Dice {dice}" if dice else "", size]
        lines.append(f"{number}: {', '.join(filter(None, parts)) or 'not known'}")
    return "\n".join(lines)


def _change(before: Round, last: Round, value: int) -> str:
    """Say how the Dice and the size moved, such as ``+0.03, -4 %``."""
    parts = []
    if value in before.dice and value in last.dice:
        parts.append(f"{last.dice[value] - before.dice[value]:+.2f}")
    then, now = before.measures.get(value), last.measures.get(value)
    if then is not None and now is not None and then.n_voxels:
        parts.append(f"{100 * (now.n_voxels / then.n_voxels - 1):+.0f} %")
    return ", ".join(parts)

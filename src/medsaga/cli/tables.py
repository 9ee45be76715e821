"""Tables of classes and their scores."""

from collections.abc import Iterable, Mapping
from math import isnan
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from medsaga.frontend import shown

if TYPE_CHECKING:
    from medsaga import ModelCard, Scores


_LONGEST_CELL = 1000


class PlainTable(Table):
    """A table whose cells are plain text, whatever the files say that they are of."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row; its strings are shown as they are, and hide nothing."""
        plain = (
            Text(shown(cell, _LONGEST_CELL)) if isinstance(cell, str) else cell
            for cell in cells
        )
        super().add_row(*plain, **options)


def class_table(card: "ModelCard") -> Table:
    """Make the table of a model's classes with their scores at the training's end."""
    metrics = card.metrics
    table = make_table("Class", "Name", "Expected", "Dice", "HD95")
    expected = metrics.get("expected_dice", {})
    for value, name, colour in _foreground(card):
        dice = metrics["dice"].get(str(value))
        hd95 = metrics["hd95"].get(str(value))
        named = Text.assemble(("■ ", colour or ""), shown(name))
        elsewhere = number(expected.get(str(value)), 2)
        table.add_row(str(value), named, elsewhere, number(dice, 3), number(hd95, 1))
    table.caption = Text(
        "Expected: Dice on slices that nobody painted. Dice and HD95: measured on the "
        f"{shown(metrics['measured_on'])}."
    )
    table.caption_justify = "left"
    return table


def make_table(*headers: str, left: Iterable[str] = ("Class", "Name", "File")) -> Table:
    """Make an empty table; columns other than those of text are aligned right."""
    table = PlainTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in headers:
        table.add_column(header, justify="left" if header in set(left) else "right")
    return table


def number(value: float | None, digits: int) -> str:
    """Give a number, or a dash where there is none."""
    return "-" if value is None or isnan(value) else f"{value:.{digits}f}"


def dice_table(scores: "Scores", names: Mapping[int, str]) -> Table:
    """Make the table of Dice by label value, with its mean."""
    table = make_table("Class", "Name", "Dice")
    for value, dice in scores.dice.items():
        table.add_row(str(value), shown(names.get(value, "")), number(dice, 3))
    table.add_section()
    table.add_row("mean", "", number(scores.mean_dice, 3))
    return table


def _foreground(card: "ModelCard") -> Iterable[tuple[int, str, str | None]]:
    classes = card.classes
    rows = zip(classes.values, classes.names, classes.colours, strict=True)
    return list(rows)[1:]

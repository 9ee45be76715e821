"""What tables of classes have in common: a colour before a row, and their height."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtGui import QColor, QIcon, QPixmap

if TYPE_CHECKING:
    from qtpy.QtWidgets import QTableWidget

_SWATCH = 14


def swatch(colour: str) -> QIcon:
    """Give a square of a colour."""
    pixmap = QPixmap(_SWATCH, _SWATCH)
    pixmap.fill(QColor(colour))
    return QIcon(pixmap)


def fit_height(table: QTableWidget, most_rows: int) -> None:
    """Make a table as high as its rows, of which at most so many are in sight."""
    rows = min(table.rowCount(), most_rows)
    height = sum(table.rowHeight(row) for row in range(rows))
    frame = 2 * table.frameWidth() + 2
    header = table.horizontalHeader().sizeHint().height()
    table.setFixedHeight(header + height + frame)

"""The live plot of a training: loss, and Dice per class in its colour."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

import pyqtgraph as pg
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from medsaga.frontend import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qtpy.QtGui import QShowEvent

    from medsaga.events import Progress, Stage, Validated

# Of each of the two plots, with its title and axis.
_HEIGHT_OF_ONE = 135
# A redraw takes tens of milliseconds under software rendering: seldom, so that the
# viewer stays smooth.
_REDRAW_MS = 2000
_LONGEST_NAME = 60


class TrainingPlot(QWidget):
    """Loss over the seconds, and below it Dice per class.

    What the classes had at the end of the training before is a dotted line.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._loss: list[tuple[float, float, str]] = []
        self._dice: dict[int, tuple[list[float], list[float]]] = {}
        self._before: dict[int, float] = {}
        self._is_stale = False
        self._graphics = pg.GraphicsLayoutWidget()
        self._loss_plot = self._graphics.addPlot(row=0, col=0)
        self._dice_plot = self._graphics.addPlot(row=1, col=0)
        self._dice_plot.setXLink(self._loss_plot)
        self._loss_line = self._loss_plot.plot(connect="finite")
        self._dice_lines: dict[int, pg.PlotDataItem] = {}
        self._levels: list[pg.InfiniteLine] = []
        self._colours: Mapping[int, str] = {}
        self._timer = QTimer(self)
        self._timer.setInterval(_REDRAW_MS)
        self._key = QLabel()
        self._key.setObjectName("plot_key")
        self._key.setWordWrap(True)
        self._key.setTextFormat(Qt.TextFormat.RichText)  # of names that are escaped

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._graphics)
        layout.addWidget(self._key)
        self._show_loss(True)
        for plot in (self._loss_plot, self._dice_plot):
            plot.setMouseEnabled(x=False, y=False)
            plot.hideButtons()
            plot.setMenuEnabled(False)
            plot.getAxis("left").setWidth(34)
            plot.getAxis("left").enableAutoSIPrefix(False)
            plot.getAxis("bottom").enableAutoSIPrefix(False)
        self._loss_plot.setTitle("Loss, by seconds", size="8pt")
        self._dice_plot.setYRange(0, 1)
        self._loss_plot.getAxis("bottom").setStyle(showValues=False)
        self.setToolTip(
            "Loss and Dice of each class over the seconds of the training; where the "
            "line of the loss breaks, another stage begins with another loss. Dotted: "
            "the Dice at the end of the training before."
        )

        self._timer.timeout.connect(self._on_time_to_redraw)

    def begin(self, colours: Mapping[int, str], names: Mapping[int, str]) -> None:
        """Empty the plot for a new training, with colours and names by label value."""
        self._before = {v: scored[-1] for v, (_, scored) in self._dice.items()}
        self._loss = []
        self._show_loss(True)
        self._dice = {}
        for line in (*self._dice_lines.values(), *self._levels):
            self._dice_plot.removeItem(line)
        self._dice_lines = {}
        self._colours = colours
        self._key.setText("  ".join(self._entry(v, name) for v, name in names.items()))
        self._levels = [
            self._dice_plot.addLine(y=dice, pen=self._pen(value, dotted=True))
            for value, dice in self._before.items()
            if value in names
        ]
        self._is_stale = True
        self._apply_theme()
        self._on_time_to_redraw()
        self._timer.start()

    def end(self) -> None:
        """Draw what there is and stop redrawing; of no losses there is no plot."""
        self._timer.stop()
        self._on_time_to_redraw()
        self._show_loss(sum(math.isfinite(loss) for _, loss, _ in self._loss) > 1)

    def add_step(self, progress: Progress, seconds: float) -> None:
        """Take the loss of a step, `seconds` after the beginning."""
        if self._loss and self._loss[-1][2] != progress.stage:
            self._loss.append((seconds, math.nan, ""))  # the line breaks
        self._loss.append((seconds, progress.loss, progress.stage))
        self._is_stale = True

    def add_scores(self, scores: Validated, seconds: float) -> None:
        """Take the Dice of every class; the title says on which slices."""
        for value, dice in scores.dice.items():
            times, scored = self._dice.setdefault(value, ([], []))
            times.append(seconds)
            scored.append(dice)
        self._dice_plot.setTitle(f"Dice on the {scores.measured_on}", size="8pt")
        self._is_stale = True

    def dice_points(self, value: int) -> list[tuple[float, float]]:
        """Give the points (seconds, Dice) of a class."""
        times, scored = self._dice.get(value, ([], []))
        return list(zip(times, scored, strict=True))

    def loss_points(self, stage: Stage) -> list[tuple[float, float]]:
        """Give the points (seconds, loss) of a stage."""
        return [(time, loss) for time, loss, of in self._loss if of == stage]

    def showEvent(self, event: QShowEvent) -> None:
        """Take the colours of the theme."""
        self._apply_theme()
        super().showEvent(event)

    def changeEvent(self, event: QEvent) -> None:
        """Take the colours of another theme."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.PaletteChange):
            self._apply_theme()

    def _show_loss(self, is_shown: bool) -> None:
        self._loss_plot.setVisible(is_shown)
        self._graphics.setFixedHeight((1 + is_shown) * _HEIGHT_OF_ONE)

    def _apply_theme(self) -> None:
        ink = self.palette().text().color()
        self._graphics.setBackground(self.palette().window().color())
        for plot in (self._loss_plot, self._dice_plot):
            for side in ("left", "bottom"):
                plot.getAxis(side).setPen(ink)
                plot.getAxis(side).setTextPen(ink)
        self._loss_line.setPen(ink)

    def _on_time_to_redraw(self) -> None:
        if not self._is_stale:
            return
        self._is_stale = False
        self._loss_line.setData(
            [time for time, *_ in self._loss], [loss for _, loss, _ in self._loss]
        )
        for value, points in self._dice.items():
            if value not in self._dice_lines:
                pen = self._pen(value)
                self._dice_lines[value] = self._dice_plot.plot(
                    pen=pen,
                    symbol="o",
                    symbolSize=4,
                    symbolBrush=pen.color(),
                )
            self._dice_lines[value].setData(*points)

    def _entry(self, value: int, name: str) -> str:
        colour = self._colours.get(value, "white")
        name = escape(shown(name, _LONGEST_NAME))
        return f"<span style='color: {colour}'>■</span>&nbsp;{name}"

    def _pen(self, value: int, *, dotted: bool = False) -> Any:
        style = Qt.PenStyle.DotLine if dotted else Qt.PenStyle.SolidLine
        width = 1 if dotted else 2
        return pg.mkPen(self._colours.get(value, "w"), width=width, style=style)

"""The live plot of a training: loss, and Dice per class in its colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyqtgraph as pg
from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qtpy.QtGui import QShowEvent

    from medsaga.events import Progress, Validated

_HEIGHT = 170
# A redraw takes tens of milliseconds under software rendering: seldom, so that the
# viewer stays smooth.
_REDRAW_MS = 2000


class TrainingPlot(QWidget):
    """Loss over the steps, and below it Dice per class."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._loss: tuple[list[float], list[float]] = [], []
        self._dice: dict[int, tuple[list[float], list[float]]] = {}
        self._is_stale = False
        self._graphics = pg.GraphicsLayoutWidget()
        self._loss_plot = self._graphics.addPlot(row=0, col=0)
        self._dice_plot = self._graphics.addPlot(row=1, col=0)
        self._dice_plot.setXLink(self._loss_plot)
        self._loss_line = self._loss_plot.plot()
        self._dice_lines: dict[int, pg.PlotDataItem] = {}
        self._colours: Mapping[int, str] = {}
        self._timer = QTimer(self)
        self._timer.setInterval(_REDRAW_MS)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._graphics)
        self.setFixedHeight(_HEIGHT)
        for plot in (self._loss_plot, self._dice_plot):
            plot.setMouseEnabled(x=False, y=False)
            plot.hideButtons()
            plot.setMenuEnabled(False)
            plot.getAxis("left").setWidth(34)
            plot.getAxis("left").enableAutoSIPrefix(False)
        self._loss_plot.setTitle("Loss", size="8pt")
        self._dice_plot.setYRange(0, 1)
        self._loss_plot.getAxis("bottom").setStyle(showValues=False)
        self.setToolTip("Loss of each step, and Dice of each class in its colour.")

        self._timer.timeout.connect(self._on_time_to_redraw)

    def begin(self, colours: Mapping[int, str]) -> None:
        """Empty the plot for a new training, with a colour for each label value."""
        self._loss = [], []
        self._dice = {}
        for line in self._dice_lines.values():
            self._dice_plot.removeItem(line)
        self._dice_lines = {}
        self._colours = colours
        self._is_stale = True
        self._apply_theme()
        self._on_time_to_redraw()
        self._timer.start()

    def end(self) -> None:
        """Draw what there is and stop redrawing."""
        self._timer.stop()
        self._on_time_to_redraw()

    def add_step(self, progress: Progress) -> None:
        """Take the loss of a step."""
        steps, losses = self._loss
        steps.append(progress.step)
        losses.append(progress.loss)
        self._is_stale = True

    def add_scores(self, scores: Validated) -> None:
        """Take the Dice of every class; the title says on which slices."""
        reached, _ = self._loss
        step = max([scores.step, *reached[-1:]])  # a head alone is scored at its step 0
        for value, dice in scores.dice.items():
            steps, scored = self._dice.setdefault(value, ([], []))
            steps.append(step)
            scored.append(dice)
        self._dice_plot.setTitle(f"Dice on the {scores.measured_on}", size="8pt")
        self._is_stale = True

    def dice_points(self, value: int) -> list[tuple[float, float]]:
        """Give the points (step, Dice) of a class."""
        steps, scored = self._dice.get(value, ([], []))
        return list(zip(steps, scored, strict=True))

    def loss_points(self) -> list[tuple[float, float]]:
        """Give the points (step, loss)."""
        return list(zip(*self._loss, strict=True))

    def showEvent(self, event: QShowEvent) -> None:
        """Take the colours of the theme."""
        self._apply_theme()
        super().showEvent(event)

    def changeEvent(self, event: QEvent) -> None:
        """Take the colours of another theme."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.PaletteChange):
            self._apply_theme()

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
        self._loss_line.setData(*self._loss)
        for value, points in self._dice.items():
            if value not in self._dice_lines:
                pen = pg.mkPen(self._colours.get(value, "w"), width=2)
                self._dice_lines[value] = self._dice_plot.plot(
                    pen=pen, symbol="o", symbolSize=4, symbolBrush=pen.color()
                )
            self._dice_lines[value].setData(*points)

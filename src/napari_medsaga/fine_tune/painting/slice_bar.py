"""A strip along the slices of a volume: which are painted, sure or doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtpy.QtCore import QPointF, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_medsaga.widgets.plain_text import tip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtCore import QEvent
    from qtpy.QtGui import QKeyEvent, QMouseEvent, QPaintEvent

_HEIGHT = 18
_PAINTED, _ACCEPTED, _EMPTY = QColor("#009e73"), QColor("#56b4e9"), QColor("#999999")
_UNKNOWN, _SURE, _DOUBTFUL = QColor("#666666"), QColor("#4c5a4c"), QColor("#d55e00")


@dataclass(frozen=True)
class SliceState:
    """What is known of a slice.

    Attributes
    ----------
    kind
        ``painted``, ``accepted``, ``empty``, or ``open`` for the others.
    doubt
        Of an open slice, from 0 (sure) to 1 (the most doubtful); None where not known.
    """

    kind: str = "open"
    doubt: float | None = None

    @property
    def colour(self) -> QColor:
        """How it is shown."""
        if self.kind != "open":
            return {"painted": _PAINTED, "accepted": _ACCEPTED}.get(self.kind, _EMPTY)
        if self.doubt is None:
            return _UNKNOWN
        return _mixed(_SURE, _DOUBTFUL, self.doubt)

    def describe(self) -> str:
        """Say it in words."""
        if self.kind != "open":
            return self.kind
        if self.doubt is None:
            return "not painted"
        return "doubtful" if self.doubt > 0.5 else "fairly sure"


def _mixed(low: QColor, high: QColor, part: float) -> QColor:
    channels = zip(low.getRgb()[:3], high.getRgb()[:3], strict=True)
    return QColor(*(round(a + part * (b - a)) for a, b in channels))


class SliceBar(QWidget):
    """Shows the state of each slice, and goes to the one that is clicked on."""

    picked = Signal(int)
    """Emits the index of a slice."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.states: Sequence[SliceState] = ()
        self.here = -1
        self.setObjectName("slice_bar")
        self.setFixedHeight(_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Slices")
        self.setToolTip(
            "All slices: painted (green), accepted (blue), empty (grey), and of the "
            "others how doubtful the result is, from dark (sure) to orange. Click to "
            "go there; the arrow keys step."
        )
        self.setMouseTracking(True)

    def show_states(self, states: Sequence[SliceState], here: int) -> None:
        """Show the slices, of which `here` is the one looked at."""
        if (states, here) != (self.states, self.here):
            self.states, self.here = states, here
            self.update()
        self.setVisible(len(states) > 1)

    def index_at(self, x: float) -> int:
        """Give the slice that a place along the strip stands for."""
        n = len(self.states)
        return max(0, min(n - 1, int(x * n / max(1, self.width()))))

    def paintEvent(self, _: QPaintEvent) -> None:
        """Draw a bar for each slice, and a frame around the one looked at."""
        painter = QPainter(self)
        n = max(1, len(self.states))
        wide, high = self.width() / n, float(self.height())
        for index, state in enumerate(self.states):
            painter.fillRect(
                QRectF(index * wide, 0, max(1.0, wide - (wide > 4)), high), state.colour
            )
        if 0 <= self.here < len(self.states):
            pen = QPen(self.palette().windowText().color())
            pen.setWidth(2)
            painter.setPen(pen)
            if wide >= 4:
                painter.drawRect(QRectF(self.here * wide + 1, 1, wide - 2, high - 2))
            else:
                middle = (self.here + 0.5) * wide
                painter.drawLine(QPointF(middle, 0), QPointF(middle, high))
        painter.end()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Go to the slice under the mouse."""
        if self.states:
            self.picked.emit(self.index_at(event.position().x()))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say what the slice under the mouse is; with a button held, go to it."""
        if not self.states:
            return
        index = self.index_at(event.position().x())
        if event.buttons() & Qt.MouseButton.LeftButton:
            self.picked.emit(index)
            return
        text = f"Slice {index}: {self.states[index].describe()}"
        QToolTip.showText(event.globalPosition().toPoint(), tip(text), self)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Step with the arrow keys."""
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(event.key(), 0)
        wanted = self.here + step
        if step and 0 <= wanted < len(self.states):
            self.picked.emit(wanted)
        elif not step:
            super().keyPressEvent(event)

    def changeEvent(self, event: QEvent) -> None:
        """Draw anew where the theme has changed."""
        super().changeEvent(event)
        self.update()

"""Whether unpainted pixels are unknown, and which label value means background."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton

from medsaga import FineTuneSettings
from medsaga.frontend import describe
from napari_medsaga.widgets.form import SettingsForm

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

SPARSE_SETTINGS = ("sparse", "background_value")
_WHY_NOT = (
    "A predicted layer says of every pixel what it is, so that what is not painted on "
    "it is background: erase where it is wrong. Strokes that trained its model stay "
    "strokes."
)


class SparseForm(SettingsForm[FineTuneSettings]):
    """The two settings that belong to the labels rather than to the plan."""

    painted_with = Signal(int)
    """Emits the label value that means background when it is to be painted with."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(FineTuneSettings(), only=SPARSE_SETTINGS, parent=parent)
        self._help = next(s for s in describe(FineTuneSettings) if s.name == "sparse")
        self._wanted: FineTuneSettings | None = None
        self.paint = QPushButton("Paint background")
        self.paint.setObjectName("paint_background")
        self.paint.setToolTip(
            "Paint with the label value that means background, such as around what is "
            "painted: without any, nothing is known to be background."
        )
        self.paint.clicked.connect(self._on_paint_clicked)
        self.layout().addWidget(self.paint)
        self.changed.connect(self._on_changed)
        self._on_changed()

    def background_value(self) -> int | None:
        """Give the label value that means background, None where 0 does."""
        return self.value().painted_background

    def complete(self, settings: FineTuneSettings) -> FineTuneSettings:
        """Give settings with these two as they are here."""
        own = self.value()
        return replace(
            settings, sparse=own.sparse, background_value=own.background_value
        )

    def set_predicted(self, predicted: bool) -> None:
        """Switch it off while a predicted layer is chosen, and back afterwards."""
        if predicted and self._wanted is None:
            self._wanted = self.value()
            self.set_value(replace(self._wanted, sparse=False))
        elif not predicted and self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            self.set_value(wanted)
        self.control("sparse").setEnabled(not predicted)
        self.control("sparse").setToolTip(_WHY_NOT if predicted else self._help.help)

    def _on_changed(self) -> None:
        self.control("background_value").setEnabled(self.value().sparse)
        self.paint.setEnabled(self.value().sparse)

    def _on_paint_clicked(self) -> None:
        value = self.background_value()
        if value is not None:
            self.painted_with.emit(value)

"""The choice of the axis that is painted across."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QComboBox

from napari_medsaga.layers.predictions import prediction_of

if TYPE_CHECKING:
    from napari.layers import Labels


class AxisChoice(QComboBox):
    """Offers the axes of a Labels layer, or to find the one that is painted across."""

    def __init__(self) -> None:
        super().__init__()
        self._labels: Labels | None = None
        self.setObjectName("axis")
        self.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.setMinimumContentsLength(10)
        self.setToolTip(
            "The axis that you painted across; by default the one with the fewest "
            "annotated slices."
        )

    def chosen_axis(self) -> int | None:
        """Give the array axis; None where it is to be found."""
        axis = self.currentIndex() - 1
        is_deep = self._labels is not None and self._labels.ndim == 3
        return axis if axis >= 0 and is_deep else None

    def follow(self, labels: Labels | None) -> None:
        """Offer the axes of a layer; a prediction's is that of its model."""
        self._labels = labels
        self.clear()
        self.addItem("automatic")
        if labels is not None and labels.ndim == 3:
            names = enumerate(labels.axis_labels)
            self.addItems([f"axis {i} ({name})" for i, name in names])
        predicted = prediction_of(labels)
        if predicted is not None and self.count() > 1:
            self.setCurrentIndex(predicted.axis + 1)
        self.set_running(False)

    def set_running(self, running: bool) -> None:
        """Let an axis be chosen, unless a prediction has been made along one."""
        is_free = prediction_of(self._labels) is None
        self.setEnabled(not running and self.count() > 1 and is_free)

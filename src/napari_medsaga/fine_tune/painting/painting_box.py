"""Buttons and keys of the loop: point, fill, accept, go on to the next slice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import (
    QFormLayout,
    QGridLayout,
    QMessageBox,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from medsaga import MedsagaError
from napari_medsaga.fine_tune.annotated.layer_rows import labelled
from napari_medsaga.fine_tune.painting import keys
from napari_medsaga.fine_tune.painting.keys import key_of
from napari_medsaga.fine_tune.painting.live import Live
from napari_medsaga.fine_tune.painting.navigation import (
    advice_on,
    known_slices,
    next_slice,
    slice_states,
)
from napari_medsaga.fine_tune.painting.prompting import Prompting
from napari_medsaga.fine_tune.painting.slice_bar import SliceBar
from napari_medsaga.fine_tune.painting.suggestions import accept
from napari_medsaga.layers.convert import class_names, shape_of, slice_shown
from napari_medsaga.layers.lasso import lassoed
from napari_medsaga.layers.plane import Plane, go_to
from napari_medsaga.widgets.plain_text import make_plain_label
from napari_medsaga.widgets.window_choice import WindowChoice

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer

    from napari_medsaga.fine_tune.annotated.annotation import AnnotationReport
    from napari_medsaga.fine_tune.annotated.data_box import DataBox
    from napari_medsaga.fine_tune.fill_box import FillBox

_SETTLE_MS = 60


class PaintingBox(QWidget):
    """Help in painting, for the chosen image and labels.

    Parameters
    ----------
    viewer
        The viewer, on which the keys work.
    data
        Where image and labels are chosen.
    fill
        Fills between slices; its button stands among the others.
    parent
        Qt parent.
    """

    compared = Signal()
    """Emitted when two results are to be compared."""

    def __init__(
        self,
        viewer: Viewer,
        data: DataBox,
        fill: FillBox,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._data, self.fill = viewer, data, fill
        self.prompting = Prompting(viewer, data, self)
        self.point = QPushButton(f"Box or click ({key_of('point')})")
        self.live = Live(viewer, data, self)
        self.suggest = QPushButton(f"Live ({key_of('live')})")
        self.accept = QPushButton(f"Accept ({key_of('accept')})")
        self.next = QPushButton(f"Next ({key_of('next')})")
        self.help = QPushButton("Keys…")
        self.window_choice = WindowChoice()
        self.bar = SliceBar()
        self.status = make_plain_label("painting_status")
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._keys = keys.Keys(viewer, self._actions())
        self._lay_out()
        self._describe()
        self._connect()

    def go_on(self) -> None:
        """Go to the slice that is worth a look next, and say why."""
        report, image = self._data.report(), self._data.image_layer()
        labels = self._data.labels_layer()
        if report is None or image is None or labels is None or image.ndim != 3:
            self._tell("Choose an image of several slices and a Labels layer first.")
            return
        axis = report.axis
        found = next_slice(
            known_slices(report, image, labels),
            advice_on(self._viewer, image, axis),
            shape_of(image)[axis],
            slice_shown(self._viewer, image, axis),
            class_names(labels) | {c.value: c.name for c in report.counts},
        )
        if found is None:
            self._tell("Every slice is painted or accepted.")
            return
        index, why = found
        go_to(self._viewer, image, axis, index)
        self._tell(why)

    def accept_suggestion(self, *, chosen_class: bool = False) -> None:
        """Take what is suggested for the shown slice into the annotation.

        With `chosen_class` it is that of the class that is painted with alone.
        """
        image, labels = self._data.image_layer(), self._data.labels_layer()
        plane = None if image is None else Plane.shown(self._viewer, image)
        if image is None or labels is None or plane is None:
            self._tell("Choose an image and a Labels layer, and look at a slice.")
            return
        value = int(labels.selected_label) if chosen_class else None
        self.prompting.keep()
        try:
            within = lassoed(self._viewer, image, plane)
            _, sentence = accept(
                self._viewer, image, labels, plane, value=value, within=within
            )
        except MedsagaError as error:
            sentence = str(error)
        self._tell(sentence)
        self._data.look_again()

    def look_again(self) -> None:
        """Show the slices anew, such as after a training."""
        self._timer.start()

    def close_down(self) -> None:
        """Stop following the viewer, and give the keys back."""
        self._timer.stop()
        self._keys.release()
        self._data.reported.disconnect(self._on_reported)
        self._viewer.dims.events.point.disconnect(self._on_point_changed)
        self.prompting.disconnect_viewer()
        self.live.disconnect_viewer()

    def _actions(self) -> dict[str, Callable[[], object]]:
        return {
            "point": self.point.click,
            "fill": self.fill.button.click,
            "accept": self.accept_suggestion,
            "accept_class": lambda: self.accept_suggestion(chosen_class=True),
            "live": self.suggest.click,
            "next": self.go_on,
            "compare": self.compared.emit,
        }

    def _lay_out(self) -> None:
        buttons = QGridLayout()
        first = (self.point, self.fill.button, self.suggest)
        second = (self.accept, self.next, self.help)
        for row, part in enumerate((first, second)):
            for column, button in enumerate(part):
                buttons.addWidget(button, row, column)
        window = QFormLayout()
        window.addRow(labelled("Window", self.window_choice), self.window_choice)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.bar)
        layout.addLayout(buttons)
        layout.addWidget(self.status)
        layout.addWidget(self.fill)
        layout.addLayout(window)

    def _describe(self) -> None:
        self.status.hide()
        self.point.setObjectName("point")
        self.point.setCheckable(True)
        self.point.setToolTip(
            "Draw a box around a structure, or click on it, and the chosen class is "
            "painted there. Further clicks add, with Ctrl they take away (T turns "
            "that round). Enter keeps the mask, Escape drops it."
        )
        self.suggest.setObjectName("live")
        self.suggest.setCheckable(True)
        self.suggest.setToolTip(
            "Outline what the shown slice may be, learned anew after each stroke. "
            "It learns from strokes and from whole slices, as under Train, and is not "
            "yet a model. Accept takes it over, Suggest all gives it for all slices."
        )
        self.accept.setObjectName("accept")
        self.accept.setToolTip(
            "Take what is suggested for the shown slice into the annotation, of "
            f"the chosen class alone with {key_of('accept_class')}. What is painted "
            "there stays. With a Shapes layer active (click here then, as its keys go "
            "before), only what its selected shapes enclose is taken. On a result that "
            "you correct: say that the slice is right as it is."
        )
        self.help.setObjectName("keys")
        self.help.setToolTip("All keys of the dock, which work in the viewer.")
        self.next.setObjectName("next")
        self.next.setToolTip("Go to the slice where a look is worth most, and say why.")

    def _connect(self) -> None:
        self.point.toggled.connect(self._on_point_toggled)
        self.suggest.clicked.connect(lambda on: self.live.switch(on=on))
        self.live.said.connect(self._tell)
        self.live.switched.connect(self.suggest.setChecked)
        self.live.switched.connect(self.fill.set_learning)
        self.accept.clicked.connect(lambda: self.accept_suggestion())
        self.next.clicked.connect(self.go_on)
        self.help.clicked.connect(self._on_help_clicked)
        self.bar.picked.connect(self._on_picked)
        self.prompting.said.connect(self._tell)
        self.prompting.pointer.switched.connect(self._on_pointer_switched)
        self._data.reported.connect(self._on_reported)
        self._data.image.chosen.connect(self.window_choice.follow)
        self.window_choice.follow(self._data.image_layer())
        self._viewer.dims.events.point.connect(self._on_point_changed)
        self._timer.timeout.connect(self._show_slices)

    def _on_help_clicked(self) -> None:
        box = QMessageBox(self)
        box.setWindowTitle("Keys")
        box.setText(self._keys.describe())
        box.setModal(False)
        box.show()

    def _tell(self, sentence: str) -> None:
        self.status.setText(sentence)
        self.status.setVisible(bool(sentence))

    def _on_point_toggled(self, checked: bool) -> None:
        self.prompting.switch(on=checked)
        if checked and not self.prompting.pointer.is_on:
            self.point.setChecked(False)
            self._tell("Choose an image first.")

    def _on_pointer_switched(self, on: bool) -> None:
        if self.point.isChecked() != on:
            was_blocked = self.point.blockSignals(True)
            self.point.setChecked(on)
            self.point.blockSignals(was_blocked)

    def _on_picked(self, index: int) -> None:
        report, image = self._data.report(), self._data.image_layer()
        if report is not None and image is not None:
            go_to(self._viewer, image, report.axis, index)

    def _on_reported(self, _: AnnotationReport | None) -> None:
        self._timer.start()

    def _on_point_changed(self, _: object = None) -> None:
        self._timer.start()

    def _show_slices(self) -> None:
        report, image = self._data.report(), self._data.image_layer()
        labels = self._data.labels_layer()
        if report is None or image is None or labels is None or image.ndim != 3:
            self.bar.show_states((), -1)
            return
        axis, n_slices = report.axis, shape_of(image)[report.axis]
        advice = advice_on(self._viewer, image, axis)
        states = slice_states(known_slices(report, image, labels), advice, n_slices)
        self.bar.show_states(states, slice_shown(self._viewer, image, axis))

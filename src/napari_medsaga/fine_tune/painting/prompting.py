"""Boxes and clicks of the user, and the masks that come of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from medsaga import Box, Click, MedsagaError, Prompt
from napari_medsaga.fine_tune.painting.pointer import Pointer
from napari_medsaga.fine_tune.painting.suggestions import class_in_box
from napari_medsaga.jobs.guests import as_guest
from napari_medsaga.jobs.job import is_computing
from napari_medsaga.jobs.latest import LatestAnswer
from napari_medsaga.jobs.torch_import import import_engine
from napari_medsaga.layers.convert import array_of, class_names, volume_of
from napari_medsaga.layers.plane import Painted, Plane, limits_shown, paint

if TYPE_CHECKING:
    import numpy as np
    from napari import Viewer
    from napari.layers import Image, Labels
    from numpy.typing import NDArray

    from medsaga import PromptedMask, PromptPredictor, Volume
    from napari_medsaga.fine_tune.annotated.data_box import DataBox

_SETTLE_MS = 150


@cache
def resident_predictor() -> PromptPredictor:
    """Give the predictor of this program, which keeps what it has seen."""
    from medsaga import PromptPredictor  # torch, which the dock opens without

    return PromptPredictor()


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptQuery:
    """What is pointed at, for the thread; without a prompt a slice is seen in advance.

    `number` counts the prompts.
    """

    number: int
    volume: Volume
    plane: Plane
    limits: tuple[float, float] | None
    prompt: Prompt | None


@dataclass(frozen=True, eq=False)
class _Answer:
    query: PromptQuery
    found: PromptedMask | None
    problem: str = ""


def answer_prompt(query: PromptQuery) -> _Answer:
    """Give the mask of a prompt, between two steps of a training that runs."""
    import_engine()
    predictor, plane = resident_predictor(), query.plane
    place: Any = {"axis": plane.axis, "index": plane.index, "limits": query.limits}
    try:
        if query.prompt is None:
            if not is_computing():
                predictor.look_at(query.volume, **place)
            return _Answer(query, None)
        with as_guest(beside_job=is_computing()):
            found = predictor.predict(query.volume, query.prompt, **place)
    except MedsagaError as error:
        return _Answer(query, None, str(error))
    return _Answer(query, found)


class Prompting(QObject):
    """Paints what boxes and clicks point at, until the user keeps or drops it.

    Parameters
    ----------
    viewer
        The viewer.
    data
        Where image and labels are chosen.
    parent
        Qt parent.

    Attributes
    ----------
    pointer
        Takes the boxes and clicks.
    """

    said = Signal(str)
    """Emits a sentence: what was painted, or what is in the way."""

    def __init__(self, viewer: Viewer, data: DataBox, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._data = viewer, data
        self.pointer = Pointer(viewer, self)
        self._answers = LatestAnswer(answer_prompt, self)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._number = 0
        self._plane: Plane | None = None
        self._prompt = Prompt()
        self._painted: Painted | None = None
        self._volume: tuple[Image, Any, Volume] | None = None
        self.pointer.boxed.connect(self._on_boxed)
        self.pointer.clicked.connect(self._on_clicked)
        self.pointer.switched.connect(self._on_switched)
        self._answers.answered.connect(self._on_answered)
        self._answers.failed.connect(self._on_failed)
        self._timer.timeout.connect(self._look_ahead)
        viewer.dims.events.point.connect(self._on_point_changed)

    def switch(self, *, on: bool) -> None:
        """Take boxes and clicks on the chosen image, or no more."""
        image = self._data.image_layer()
        if not on or image is None:
            self.pointer.end()
            return
        layer = self.pointer.begin(image)
        layer.bind_key("Escape", lambda _: self.drop(), overwrite=True)
        layer.bind_key("Enter", lambda _: self.keep(), overwrite=True)
        layer.bind_key("T", lambda _: self._turn(), overwrite=True)
        layer.bind_key("Control-Z", lambda _: self.drop(), overwrite=True)

    def keep(self) -> None:
        """Keep what was painted; the next click begins another mask."""
        if self._painted is not None:
            self.said.emit("Kept.")
        self._forget()

    def drop(self) -> None:
        """Take back what the last box and its clicks painted."""
        if self._painted is not None:
            self._painted.take_back()
            self.said.emit("Taken back.")
        self._forget()

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        self._timer.stop()
        self._viewer.dims.events.point.disconnect(self._on_point_changed)
        self.pointer.disconnect_viewer()

    def _forget(self) -> None:
        self._number += 1  # an answer under way is of no more use
        self._plane, self._prompt, self._painted = None, Prompt(), None
        self.pointer.clear()

    def _turn(self) -> None:
        self.pointer.takes_away = not self.pointer.takes_away
        does = "take away" if self.pointer.takes_away else "add"
        self.said.emit(f"Clicks {does} now.")

    def _on_switched(self, on: bool) -> None:
        if on:
            self.said.emit(
                "Draw a box around a structure, or click on it; further clicks add, "
                "with Ctrl they take away. Enter keeps the mask, Escape drops it."
            )
            self._timer.start()
        else:
            self._forget()

    def _on_boxed(self, plane: Plane, box: tuple[float, ...]) -> None:
        self._painted = None  # what the last one painted is kept
        drawn = Box(*box)
        image, labels = self._data.image_layer(), self._data.labels_layer()
        if image is not None and labels is not None and not _problem(labels):
            mask = class_in_box(self._viewer, image, labels, plane, drawn)
            if mask is not None:
                self._number += 1
                self._plane, self._prompt = plane, Prompt(box=drawn)
                self._paint(image, labels, plane, mask)
                return
        self._ask(plane, Prompt(box=drawn))

    def _on_clicked(self, plane: Plane, click: tuple[float, float, bool]) -> None:
        if plane != self._plane:
            self._forget()
        if not (click[2] or self._prompt.box or self._prompt.clicks):
            self.said.emit("There is no mask yet to take anything away from.")
            return
        clicks = (*self._prompt.clicks, Click(*click))
        self._ask(plane, replace(self._prompt, clicks=clicks))

    def _ask(self, plane: Plane, prompt: Prompt) -> None:
        image, labels = self._data.image_layer(), self._data.labels_layer()
        problem = _problem(labels)
        if image is None or problem:
            self.said.emit(problem or "Choose an image first.")
            return
        self._plane, self._prompt = plane, prompt
        self._number += 1
        self._answers.ask(self._query(image, plane, prompt))

    def _query(self, image: Image, plane: Plane, prompt: Prompt | None) -> PromptQuery:
        return PromptQuery(
            number=self._number,
            volume=self._volume_of(image),
            plane=plane,
            # What is seen is what is segmented.
            limits=limits_shown(image),
            prompt=prompt,
        )

    def _volume_of(self, image: Image) -> Volume:
        """Give the image as the predictor knows it again: by its array."""
        array = array_of(image)
        known = self._volume
        if known is None or known[0] is not image or known[1] is not array:
            self._volume = known = (image, array, volume_of(image))
        return known[2]

    def _on_answered(self, answer: _Answer) -> None:
        if answer.query.number != self._number:
            return
        if answer.problem:
            self.said.emit(answer.problem)
        image, labels = self._data.image_layer(), self._data.labels_layer()
        if answer.found is None or image is None or labels is None or _problem(labels):
            return
        if self._painted is not None:
            self._painted.take_back()
            self._painted = None
        self._paint(image, labels, answer.query.plane, answer.found.mask)

    def _paint(
        self, image: Image, labels: Labels, plane: Plane, mask: NDArray[np.bool_]
    ) -> None:
        value = int(labels.selected_label)
        try:
            self._painted = paint(labels, image, plane, mask, value)
        except MedsagaError as error:
            self.said.emit(str(error))
            return
        name = class_names(labels).get(value, f"class {value}")
        self.said.emit(
            f"{int(mask.sum())} pixels of {name}. Click to add, Ctrl and click to "
            "take away; Enter keeps it, Escape drops it."
        )

    def _on_failed(self, error: Exception) -> None:
        self.said.emit(f"The mask could not be made: {error}")
        raise error  # napari shows it with its traceback

    def _on_point_changed(self, _: object = None) -> None:
        if self.pointer.is_on:
            self._timer.start()

    def _look_ahead(self) -> None:
        """Have the shown slice seen before anything is pointed at on it."""
        image = self._data.image_layer()
        plane = None if image is None else Plane.shown(self._viewer, image)
        if image is None or plane is None or not self.pointer.is_on:
            return
        if plane == self._plane:
            return  # it was seen, and an answer may be on its way
        self._forget()
        self._answers.ask(self._query(image, plane, None))


def _problem(labels: Labels | None) -> str:
    if labels is None:
        return "Choose a Labels layer to paint on first."
    if labels.selected_label == 0:
        return "Choose a class to paint: 0 is background."
    return ""

"""One training as a stream: fine-tune, keep the model, segment the whole volume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from medsaga import Stop
from medsaga.events import Notice, Relay, Saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from medsaga import FineTuneSettings, ModelCard, TrainingData, Volume
    from medsaga.events import Stream


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingRequest:
    """Everything that a training needs, taken from the layers when it is started.

    `data` is of one image, and its labels are a copy, so that the user can go on
    painting. `preview_at` is called in the thread of the training.
    """

    data: TrainingData
    settings: FineTuneSettings
    start: Path | None
    preview_at: Callable[[], tuple[int, int]]
    preview_interval: float
    model_name: str
    segments: bool

    @property
    def image(self) -> Volume:
        """The image that is learned from, and segmented."""
        return cast("Volume", self.data.images)

    @property
    def labels(self) -> Volume:
        """The labels that train."""
        return cast("Volume", self.data.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingResult:
    """What a training left: the kept model, and the mask as far as it came.

    `n_left` slices of the mask are empty, as their segmentation was stopped.
    """

    model: Path
    card: ModelCard
    mask: Volume | None
    n_left: int = 0

    def describe(self, *, is_stopped: bool) -> str:
        """Say how good the model is, what it took and where it is."""
        card = self.card
        names = card.classes.names_by_value
        dice = card.metrics["dice"]
        scores = ", ".join(f"{names[int(v)]} {score:.2f}" for v, score in dice.items())
        memory = card.measured["peak_memory"] / 1e9
        begun = "Stopped, best so far kept. " if is_stopped else ""
        return (
            f"{begun}Dice on the {card.metrics['measured_on']}: {scores or 'none'}. "
            f"{card.measured['seconds']:.0f} s, {memory:.1f} GB at most. Kept as model "
            f"{self.model.name}."
        )


def run_training(request: TrainingRequest) -> Stream[TrainingResult | None]:
    """Fine-tune, save the model to the library and segment the volume.

    Stopping keeps the best model so far, also in the library; it returns None if
    nothing was learned by then.
    """
    from medsaga import ModelLibrary, fine_tune, segment

    relay = Relay()
    model = yield from relay(
        fine_tune(
            request.data,
            request.settings,
            start=request.start,
            preview_at=request.preview_at,
            preview_interval=request.preview_interval,
        )
    )
    if model is None:
        return None
    trained = TrainingResult(
        model=ModelLibrary().add(model, request.model_name), card=model.card, mask=None
    )
    try:
        yield Saved(path=trained.model)
    except Stop:
        return trained
    if relay.is_stopped or not request.segments:
        return trained
    found = yield from relay(segment(model, request.image))
    if not found.is_complete:
        yield Notice(
            message=f"Stopped after {found.n_segmented} of {found.n_slices} slices; "
            "the others are empty."
        )
    n_left = found.n_slices - found.n_segmented
    return replace(trained, mask=found.mask, n_left=n_left)

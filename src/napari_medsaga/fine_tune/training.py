"""One training as a stream: fine-tune, keep the model, segment the whole volume."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from medsaga import MedsagaError, Stop
from medsaga.events import Notice, Relay, Saved
from napari_medsaga.layers.rounds import Round

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from medsaga import (
        Advice,
        FineTuneSettings,
        Journal,
        ModelCard,
        TrainedModel,
        TrainingData,
        Volume,
    )
    from medsaga.events import Stream
    from medsaga.frontend import ClassMeasure, Interrupted


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
        """The image that is segmented: the first of those that are learned from."""
        images = self.data.images
        return cast("Volume", images[0] if isinstance(images, list) else images)


@dataclass(frozen=True, eq=False, kw_only=True)
class Continuation:
    """Everything that an interrupted training needs to go on.

    `image` is the one that it learns from, None where that is not open.
    """

    entry: Interrupted
    image: Volume | None
    preview_at: Callable[[], tuple[int, int]]
    preview_interval: float
    segments: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingResult:
    """What a training left: the kept model, and the mask as far as it came.

    `model` is None, and `problem` says why, where the disk refused it. `n_left` slices
    of the mask are empty, as their segmentation was stopped. `advice` says where the
    mask of a volume is expected to be wrong, `measures` how much of each class it has.
    """

    model: Path | None
    card: ModelCard
    mask: Volume | None
    n_left: int = 0
    problem: str | None = None
    advice: Advice | None = None
    measures: tuple[ClassMeasure, ...] = ()

    @property
    def where(self) -> str:
        """Say where the model is."""
        if self.problem is not None or self.model is None:
            return self.problem or ""
        return f"Kept as model {self.model.name}."

    @property
    def round(self) -> Round:
        """What is to be remembered of the training."""
        dice, where = self._scores()
        names = self.card.classes.names_by_value
        return Round(
            model="" if self.model is None else self.model.name,
            names={v: names[v] for v in self.card.classes.values[1:]},
            dice=dice,
            where=where,
            measures={one.value: one for one in self.measures},
        )

    def _scores(self) -> tuple[dict[int, float], str]:
        """Give the Dice by label value, and say what it is."""
        metrics = self.card.metrics
        dice, where = metrics["dice"], f"on the {metrics['measured_on']}"
        expected = metrics.get("expected_dice")
        if expected and not self.card.held_out_slices:
            dice, where = expected, "to be expected on slices that nobody painted"
        return {int(value): score for value, score in dice.items()}, where

    def describe(self, *, is_stopped: bool) -> str:
        """Say how good the model is, what it took and where it is."""
        card = self.card
        dice, where = self._scores()
        mean = f"{sum(dice.values()) / len(dice):.2f}" if dice else "none"
        # What napari held before is not the training's.
        held = card.measured.get("memory_before", 0)
        memory = max(0, card.measured["peak_memory"] - held) / 1e9
        begun = "Stopped, best so far kept. " if is_stopped else ""
        return (
            f"{begun}Mean Dice {mean} {where}. "
            f"{card.measured['seconds']:.0f} s, {memory:.1f} GB of memory. {self.where}"
        )


def run_training(request: TrainingRequest) -> Stream[TrainingResult | None]:
    """Fine-tune, save the model to the library and segment the volume.

    Stopping keeps the best model so far, also in the library; it returns None if
    nothing was learned by then. Whatever else ends it, it can be gone on with.
    """
    from medsaga import Journal, fine_tune

    journal: Journal | None = None
    try:
        journal = Journal.begin(request.model_name)
    except MedsagaError as error:
        yield Notice(message=str(error))
    with journal or nullcontext():
        relay = Relay()
        model = yield from relay(
            fine_tune(
                request.data,
                request.settings,
                start=request.start,
                preview_at=request.preview_at,
                preview_interval=request.preview_interval,
                journal=journal,
            )
        )
        if model is None and journal is not None:
            journal.discard()
        add = _add_to_library(request.model_name)
        keeper = _Keeper(add, journal, relay)
        return (
            yield from keeper.keep(model, request.image if request.segments else None)
        )


def continue_training(continuation: Continuation) -> Stream[TrainingResult | None]:
    """Go on with an interrupted training as :func:`run_training` would have."""
    from medsaga import Journal, resume

    entry, image = continuation.entry, continuation.image
    with Journal.open(entry.folder) as journal:
        relay = Relay()
        if entry.model is not None:
            model: TrainedModel | None = journal.read_model()
        else:
            stream = resume(
                journal,
                () if image is None else (image,),
                preview_at=continuation.preview_at,
                preview_interval=continuation.preview_interval,
            )
            model = yield from relay(stream)
        add = _add_to_library(entry.name)
        save = add if entry.target is None else entry.target.save
        keeper = _Keeper(save, journal, relay)
        return (yield from keeper.keep(model, image if continuation.segments else None))


def _add_to_library(name: str) -> Callable[[TrainedModel], Path]:
    from medsaga import ModelLibrary

    return lambda model: ModelLibrary().add(model, name)


@dataclass(frozen=True, eq=False)
class _Keeper:
    """Keeps what a training gave, and segments with it."""

    save: Callable[[TrainedModel], Path]
    journal: Journal | None
    relay: Relay

    def keep(
        self, model: TrainedModel | None, image: Volume | None
    ) -> Stream[TrainingResult | None]:
        from medsaga.frontend import keep_model, measure_classes

        if model is None:
            return None
        kept = keep_model(model, self.save, self.journal)
        trained = TrainingResult(
            model=kept.path, card=model.card, mask=None, problem=kept.problem
        )
        try:
            if kept.problem is not None:
                yield Notice(message=kept.problem)
            if kept.path is not None:
                yield Saved(path=kept.path)
        except Stop:
            return trained
        if self.relay.is_stopped or image is None:
            return trained
        seen = yield from self.relay(_look_through(model, image))
        if seen.n_left:
            n_slices = seen.n_seen + seen.n_left
            yield Notice(
                message=f"Stopped after {seen.n_seen} of {n_slices} "
                "slices; the others are empty."
            )
        card = model.card
        measures: tuple[ClassMeasure, ...] = ()
        if not seen.n_left:  # else it is of a part
            measures = measure_classes(seen.mask, card.classes.values[1:], card.axis)
        return replace(
            trained,
            mask=seen.mask,
            n_left=seen.n_left,
            advice=seen.advice,
            measures=measures,
        )


@dataclass(frozen=True, eq=False)
class _Seen:
    """An image as a model has segmented it, as far as it came."""

    mask: Volume
    n_seen: int
    n_left: int
    advice: Advice | None


def _look_through(model: TrainedModel, image: Volume) -> Stream[_Seen]:
    """Segment an image; of a volume it is found out where the mask may be wrong."""
    from medsaga import advise, segment

    if image.is_2d or image.shape[model.card.axis] == 1:
        mask = yield from segment(model, image)
        n_left = mask.n_slices - mask.n_segmented
        return _Seen(mask.mask, mask.n_segmented, n_left, None)
    advice = yield from advise(model, image)
    n_seen = len(advice.errors)
    return _Seen(advice.mask, n_seen, advice.n_slices - n_seen, advice)

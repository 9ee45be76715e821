"""A training as it was asked for: the data, read, checked and completed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsaga.data.annotation import annotated_slices
from medsaga.data.classes import class_table
from medsaga.data.inputs import as_volume_pairs
from medsaga.data.intensity import choose_intensity, image_doubts
from medsaga.data.label_doubts import label_doubts
from medsaga.data.pairs import WantedSlices
from medsaga.data.survey import label_check
from medsaga.models.card import load_card
from medsaga.models.folder import TrainedModel
from medsaga.models.kept_slices import EarlierSlices, kept_labels
from medsaga.models.run_record import RunRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from medsaga.data.annotation import Annotation
    from medsaga.data.canvas import Canvas
    from medsaga.data.classes import ClassTable
    from medsaga.data.identity import SliceId
    from medsaga.data.inputs import TrainingData
    from medsaga.data.intensity import IntensityRule
    from medsaga.data.samples import Sample
    from medsaga.data.volume import Volume
    from medsaga.models.card import ModelCard
    from medsaga.settings.fine_tune import FineTuneSettings


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """What `fine_tune` was asked for, read and checked.

    Attributes
    ----------
    volumes, labels
        Pairs of the same shape.
    annotation, table, rule
        The slices that train, their classes, and the intensities.
    settings
        As asked for.
    start, card
        The model to go on from, and its card; None of a backbone.
    earlier
        Its slices that train on.
    record
        What it is given, for the card.
    notices
        What there is to say of all this.
    """

    volumes: Sequence[Volume]
    labels: Sequence[Volume]
    annotation: Annotation
    table: ClassTable
    rule: IntensityRule
    settings: FineTuneSettings
    start: TrainedModel | Path | str | None
    card: ModelCard | None
    earlier: EarlierSlices
    record: RunRecord
    notices: Sequence[str]

    @classmethod
    def read(
        cls,
        data: TrainingData,
        settings: FineTuneSettings,
        start: TrainedModel | Path | str | None,
    ) -> Request:
        """Read the data, find what is annotated, and choose the intensities.

        Names and colours that are not given are those of the model that goes on.

        Raises
        ------
        MedsagaError
            If there is nothing to learn from, or the parts do not fit together.
        """
        card = _card_of(start)
        wanted = _wanted_slices(data, settings, card)
        volumes, labels, warnings = as_volume_pairs(data.images, data.labels, wanted)
        earlier = EarlierSlices(
            None if isinstance(start, TrainedModel) else start,
            card,
            tuple(data.earlier),
        )
        annotation = annotated_slices(
            labels,
            data.axis,
            data.slices,
            empty_slices=data.empty_slices,
            background_value=settings.painted_background,
            may_be_empty=bool(earlier.wanted),
        )
        names, colours = data.class_names, data.class_colours
        if card is not None:
            names = card.classes.names_by_value | dict(names or {})
            colours = card.classes.colours_by_value | dict(colours or {})
        elsewhere = earlier.classes()
        table = class_table(labels, annotation, names, colours, besides=elsewhere)
        rule, why = _choose_rule(card, settings, volumes, labels, data.window)
        checked = label_check(labels, annotation, table, elsewhere)
        checked += label_doubts(labels, annotation)
        doubts = [doubt for v in volumes for doubt in image_doubts(v, rule)]
        return cls(
            volumes=volumes,
            labels=labels,
            annotation=annotation,
            table=table,
            rule=rule,
            settings=settings,
            start=start,
            card=card,
            earlier=earlier,
            record=RunRecord.of(data, volumes, labels, annotation, _name_of(start)),
            notices=[*warnings, annotation.sentence, *checked, why, *doubts],
        )

    def known_slices(
        self, samples: Sequence[Sample]
    ) -> tuple[set[SliceId], set[SliceId]]:
        """Name the slices that the model was held out from, and those that trained it.

        Of the former only those that the user has not corrected since, which belong to
        the latter.
        """
        if self.card is None:
            return set(), set()
        held_out, trained = (
            {one.among(self.volumes) for one in slices}
            for slices in (self.card.held_out_slices, self.card.training_slices)
        )
        # None is corrected where nothing was held out: what has trained never is.
        corrected = self._corrected(samples) if held_out else set()
        return held_out - corrected, trained | corrected

    def earlier_samples(self, canvas: Canvas) -> list[Sample]:
        """Read the earlier slices, which are kept at the working size of `canvas`.

        Raises
        ------
        MedsagaError
            If they are not kept, or not at that size or by these intensities.
        """
        samples = self.earlier.load(self.table, canvas, self.rule)
        return [replace(s, id=s.id.among(self.volumes)) for s in samples]

    def _corrected(self, samples: Sequence[Sample]) -> set[SliceId]:
        """Name the slices that the model knows with other labels."""
        known: Mapping[SliceId, NDArray[Any]] = {}
        if isinstance(self.start, TrainedModel):
            known = {sample.id: sample.truth for sample in self.start.samples}
        elif self.start is not None:
            known = kept_labels(self.start)
        known = {one.among(self.volumes): labels for one, labels in known.items()}
        return {
            sample.id
            for sample in samples
            if sample.id in known and not np.array_equal(known[sample.id], sample.truth)
        }


def _wanted_slices(
    data: TrainingData, settings: FineTuneSettings, card: ModelCard | None
) -> WantedSlices:
    """Tell what to keep of many files."""
    empty = (one[1] if isinstance(one, tuple) else one for one in data.empty_slices)
    return WantedSlices(
        axis=data.axis,
        indices=data.slices,
        besides=tuple(empty),
        with_neighbours=settings.neighbours if card is None else card.canvas.neighbours,
    )


def _name_of(start: TrainedModel | Path | str | None) -> str | None:
    """Name the model that a training starts from, if it starts from one."""
    if start is None or isinstance(start, TrainedModel):
        return None if start is None else "a trained model"
    return Path(start).absolute().name


def _card_of(start: TrainedModel | Path | str | None) -> ModelCard | None:
    """Give the card of the model that a training starts from, if it starts from one."""
    if start is None or isinstance(start, TrainedModel):
        return None if start is None else start.card
    return load_card(start)


def _choose_rule(
    card: ModelCard | None,
    settings: FineTuneSettings,
    volumes: Sequence[Volume],
    labels: Sequence[Volume],
    window: tuple[float, float] | None,
) -> tuple[IntensityRule, str]:
    """Choose the intensities: as asked for, as before, or from the images."""
    if card is not None and window is None and settings.intensity == "auto":
        return card.intensity, "Intensities are scaled as the model was trained with."
    return choose_intensity(
        settings.intensity, volumes, labels, window, settings.painted_background
    )

"""`finetune --from-card`: a training as one that was before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsaga import FineTuneSettings, MedsagaError

if TYPE_CHECKING:
    from medsaga import ModelCard

_CARD = "card.json"


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What of the images and labels trains, as `medsaga.TrainingData` takes it."""

    axis: int | None = None
    slices: Sequence[int] | None = None
    empty_slices: Sequence[int | tuple[int, int]] = field(default_factory=list)
    window: tuple[float, float] | None = None
    class_names: Mapping[int, str] = field(default_factory=dict)
    class_colours: Mapping[int, str] = field(default_factory=dict)

    def over(self, before: "DataOptions") -> "DataOptions":
        """Give these, and where nothing is given what was before."""
        return DataOptions(
            axis=before.axis if self.axis is None else self.axis,
            slices=before.slices if self.slices is None else self.slices,
            empty_slices=self.empty_slices or before.empty_slices,
            window=self.window or before.window,
            class_names={**before.class_names, **self.class_names},
            class_colours=before.class_colours,
        )


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """What a training was given, as far as the command does not say otherwise."""

    card: "ModelCard"
    settings: FineTuneSettings
    options: DataOptions

    @classmethod
    def read(cls, path: Path, given: Mapping[str, Any]) -> "Repetition":
        """Read the card of a model, by its path or that of its folder.

        `given` are settings that the command says otherwise.

        Raises
        ------
        MedsagaError
            If it is no card, or does not say all that it takes to repeat the training.
        """
        from medsaga import load_card

        card = load_card(path.parent if path.name == _CARD else path)
        run = card.run
        if run is None:
            raise MedsagaError(
                f"{path} does not say which slices trained, as its model was made "
                "before that was recorded: give --slices and the other options by hand."
            )
        if run.start is not None:
            raise MedsagaError(
                f"{path} is of a training that went on from the model {run.start}: "
                "only one that began with pretrained weights can be repeated from its "
                "images and labels."
            )
        return cls(
            card=card,
            settings=replace(FineTuneSettings(**card.settings), **given),
            options=DataOptions(
                axis=card.axis,
                slices=run.slices,
                # An index alone is one of every image.
                empty_slices=[
                    index if image < 0 else (image, index)
                    for image, index in run.empty_slices
                ],
                window=run.window,
                class_names=card.classes.names_by_value,
                class_colours=card.classes.colours_by_value,
            ),
        )

    def describe(self, card: "ModelCard") -> str:
        """Say how a training was another than the one that it was to repeat."""
        from medsaga.frontend import run_differences

        differences = run_differences(self.card, card)
        if not differences:
            return "The training was repeated with all as it was."
        return (
            f"The training was not the same in: {', '.join(differences)}. So its "
            "weights may be others."
        )

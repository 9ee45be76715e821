"""Sentences about what was chosen for a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medsaga.data.canvas import Canvas
    from medsaga.models.card import ModelCard
    from medsaga.settings.fine_tune import FineTuneSettings
    from medsaga.training.setup import Setup


def explain_canvas(
    settings: FineTuneSettings, canvas: Canvas, card: ModelCard | None
) -> Iterator[str]:
    """Say what of the settings was not followed, and why.

    Parameters
    ----------
    settings
        As they were asked for.
    canvas
        What was chosen.
    card
        Of the model that trains on; None without one.
    """
    if settings.neighbours and not canvas.neighbours:
        yield _why_no_neighbours(card)
    if canvas.tile and not settings.tiles:
        yield (
            "The model was trained on tiles, and trains on with them: give long_side "
            "to see each image as a whole."
        )


def _why_no_neighbours(card: ModelCard | None) -> str:
    """Say why the slices below and above are not looked at, though asked for."""
    if card is not None:
        return "The model was trained without neighbours, and trains on without them."
    return (
        "There are no neighbours to look at: they need grey images of several slices, "
        "and neighbours is off."
    )


def describe_setup(setup: Setup) -> str:
    """Say in a sentence what trains, and in which size, format and time."""
    settings = setup.settings
    if setup.held_out:
        held_out = f"{len(setup.held_out)} held out to measure on"
    elif len(setup.training) < settings.hold_out_from:
        held_out = f"none held out, as there are fewer than {settings.hold_out_from}"
    else:
        held_out = "none held out, as each is needed or has trained the model already"
    neighbours = (
        "seen with the slices below and above, " if setup.canvas.neighbours else ""
    )
    tiles = f", in tiles of {setup.canvas.tile}" if setup.canvas.tile else ""
    return (
        f"{len(setup.training)} slices train, {held_out}; {neighbours}long side "
        f"{setup.canvas.long_side} pixels{tiles}, {setup.precision} on {setup.device}, "
        f"{_describe_length(settings)}."
    )


def _describe_length(settings: FineTuneSettings) -> str:
    if settings.stages != "head":
        return (
            f"{settings.steps} steps"
            if settings.steps
            else f"{settings.minutes:g} minutes"
        )
    if settings.steps:
        return (
            f"the head alone, without the {settings.steps} steps, which are the GaLore "
            "stage's: set stages to both for them"
        )
    return f"the head alone, {settings.minutes:g} minutes"

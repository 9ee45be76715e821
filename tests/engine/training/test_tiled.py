"""Trainings on large images with fine structures, seen in tiles."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.phantom import TINY, train

from medsaga import (
    Journal,
    SegmentSettings,
    TrainingData,
    Volume,
    advise,
    drain,
    fine_tune,
    interrupted_trainings,
    load_model,
    resume,
    save_model,
    score,
    segment,
    volume_from_array,
)
from medsaga.events import Preview, Progress

TILED = replace(TINY, long_side=0, max_long_side=64, head_views=24, head_steps=60)


def lines(seed: int, side: int = 256) -> tuple[Volume, Volume]:
    """Thin dark lines of two kinds, under noise, in an image of many tiles."""
    random = np.random.default_rng(seed)
    mask = np.zeros((1, side, side), np.uint8)
    for value, width in ((1, 3), (2, 5)):
        for start in random.integers(8, side - 8, 4):
            mask[0, start : start + width] = value
    image = np.array([120.0, 40.0, 200.0])[mask] + random.normal(0, 8, mask.shape)
    return (
        Volume(array=image.astype(np.float32), name=f"lines {seed}"),
        Volume(array=mask),
    )


@pytest.fixture(scope="module")
def tiled():
    images, labels = zip(*(lines(seed) for seed in (1, 2)), strict=True)
    return train(images, labels, TILED)


def dice(model, image, truth, **options):
    mask = drain(segment(model, image, SegmentSettings(**options))).mask
    return score(mask.array, truth.array).mean_dice


def test_fine_structures_are_found_that_are_lost_at_the_usual_size(tiled):
    model, events = tiled
    assert (model.card.canvas.tile, model.card.canvas.scale) == (64, 1)
    assert any("in tiles of 64" in getattr(e, "message", "") for e in events)
    images, labels = zip(*(lines(seed) for seed in (1, 2)), strict=True)
    whole, _ = train(images, labels, replace(TILED, tiles=False))
    assert whole.card.canvas.tile == 0
    image, truth = lines(9)
    assert dice(model, image, truth) > dice(whole, image, truth) + 0.05


def test_scores_and_forecasts_are_there(tiled):
    model, _ = tiled
    assert set(model.card.metrics["dice"]) == {"1", "2"}
    assert set(model.card.metrics["expected_dice"]) == {"1", "2"}


def test_a_tiled_model_comes_back_from_its_folder_and_goes_on(tiled, tmp_path):
    model, _ = tiled
    folder = save_model(model, tmp_path / "model")
    again = load_model(folder)
    assert again.card.canvas == model.card.canvas
    image, truth = lines(9)
    # Weights are written in half precision.
    assert dice(again, image, truth) == pytest.approx(
        dice(model, image, truth), abs=0.01
    )
    images, labels = zip(*(lines(seed) for seed in (3, 4)), strict=True)
    asked = replace(TILED, tiles=False)
    further, events = train(images, labels, asked, start=folder)
    assert further.card.canvas == model.card.canvas
    assert any("trained on tiles" in getattr(e, "message", "") for e in events)


def test_the_paint_of_a_volume_is_joined_with_its_tiles():
    image, truth = lines(5)
    volume = Volume(array=np.repeat(image.array, 5, 0))
    painted = np.repeat(truth.array, 5, 0)
    painted[[1, 2, 4]] = 0
    model, _ = train(volume, Volume(array=painted), TILED)
    assert model.card.canvas.tile == 64
    assert model.card.paint_trust.n_pairs == 2
    mask = drain(segment(model, volume)).mask.array
    assert score(mask, np.repeat(truth.array, 5, 0)).mean_dice > 0.95


@pytest.mark.usefixtures("on_cpu")
def test_one_that_is_interrupted_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSAGA_STATE", str(tmp_path))
    data = TrainingData(*lines(1))
    unbroken = drain(fine_tune(data, TILED))
    with Journal.begin("lines") as journal:
        journal.interval = 0.0
        stream = fine_tune(data, TILED, journal=journal)
        with closing(stream):
            for event in stream:
                if isinstance(event, Progress) and event.stage == "galore":
                    break
    (entry,) = interrupted_trainings()
    with Journal.open(entry.folder) as journal:
        model = drain(resume(journal))
        assert model.card.canvas == unbroken.card.canvas
        for name, tensor in unbroken.network.state_dict().items():
            assert torch.equal(tensor, model.network.state_dict()[name]), name


def test_a_preview_of_a_large_colour_image_shows_its_middle():
    image, truth = lines(6, side=400)
    grey, labels = image.array[0], truth.array[0]
    colours = np.stack([grey, grey, 250 - grey], axis=-1)
    coloured = volume_from_array(colours.clip(0, 255).astype(np.uint8), rgb=True)
    settings = replace(TILED, stages="head")
    model, events = train(coloured, labels, settings, preview={"preview_at": (0, 0)})
    shown = [e.mask for e in events if isinstance(e, Preview)][-1]
    assert shown.shape == (400, 400)
    rows, cols = np.nonzero(shown)
    assert rows.min() > 100
    assert cols.max() < 300
    mask = drain(segment(model, coloured)).mask.array
    assert mask[0, :, :50].any()


def test_slices_across_another_axis_are_held_out_and_seen_in_tiles():
    image, truth = lines(7)
    volume = Volume(
        array=np.repeat(np.moveaxis(image.array, 0, 1), 6, 1), spacing=(1.0, 5.0, 1.0)
    )
    labels = np.repeat(np.moveaxis(truth.array, 0, 1), 6, 1)
    settings = replace(TILED, hold_out_from=5)
    model, _ = train(volume, Volume(array=labels), settings, axis=1)
    assert model.card.axis == 1
    assert len(model.card.held_out_slices) == 2
    assert model.card.metrics["measured_on"] == "held-out slices"
    found = drain(advise(model, volume))
    assert found.errors == (0.0,) * 6  # all of it is painted
    alone = drain(segment(model, volume, SegmentSettings(paint=False))).mask.array
    assert score(alone, labels).mean_dice > 0.9

"""How fine the painted structures are, and the working size that follows from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medsaga import TrainingData, Volume, drain, fine_tune
from medsaga.data.canvas import choose_long_side
from medsaga.data.survey import finest_width
from medsaga.frontend import annotated_slices
from medsaga.settings.fine_tune import FineTuneSettings


def measure(*masks, spacing=None, background=None):
    labels = [Volume(array=m[None].astype(np.uint16), spacing=spacing) for m in masks]
    annotation = annotated_slices(labels, background_value=background)
    return finest_width(labels, labels, annotation)


def discs(rows, cols, radius, *, value=1, every=40, aspect=1.0):
    """Discs on a grid; `aspect` is how high a pixel is, in widths."""
    y, x = np.mgrid[:rows, :cols]
    y = y * aspect
    near = np.hypot(y % every - every / 2, x % every - every / 2)
    return np.where(near < radius, value, 0)


@pytest.mark.parametrize("radius", [5, 8, 15])
def test_of_discs_it_is_the_diameter(radius):
    width = measure(discs(160, 200, radius))
    assert width * 200 == pytest.approx(2 * radius, rel=0.08)


def test_of_lines_it_is_twice_the_thickness():
    y, x = np.mgrid[:400, :400]
    diagonal = np.abs(x - 2 * y) < 3 * np.sqrt(5)
    assert measure(diagonal) * 400 == pytest.approx(12, rel=0.1)


def test_it_does_not_depend_on_the_resolution():
    mask = discs(120, 120, 9)
    fine = np.repeat(np.repeat(mask, 4, 0), 4, 1)
    assert measure(fine) == pytest.approx(measure(mask))


def test_pixels_count_by_their_size():
    spacing = (1.0, 2.0, 1.0)
    width = measure(discs(80, 160, 10, aspect=2.0), spacing=spacing)
    assert width * 160 == pytest.approx(20, rel=0.08)


def test_the_finest_class_counts_over_all_slices():
    coarse, fine = discs(160, 160, 16), discs(160, 160, 5, value=300)
    both = np.where(np.arange(160)[:, None] < 80, coarse, fine)
    assert measure(both) * 160 == pytest.approx(10, rel=0.1)
    assert measure(coarse, fine) == pytest.approx(measure(fine))
    # One speck does not make a class fine.
    speck = coarse.copy()
    speck[0, 0] = 1
    assert measure(speck) == pytest.approx(measure(coarse), rel=0.01)


def test_strokes_and_what_has_no_edge_tell_nothing():
    strokes = discs(160, 160, 2)
    strokes[:3] = 9
    assert measure(strokes, background=9) is None
    assert measure(np.ones((64, 64))) is None


@pytest.mark.parametrize(
    ("side", "settings", "stride", "expected"),
    [
        (1000, {}, 4, 256),  # 8 pixels need 400
        (1000, {"max_long_side": 512}, 4, 512),
        (1000, {"max_long_side": 256}, 4, 384),  # no more than that, rounded down
        (200, {}, 4, 224),  # never more than its own
        (1000, {"long_side": 64}, 4, 64),
        (1000, {}, 16, 512),  # SAM's have four times the limits already
    ],
)
def test_fine_structures_are_worked_at_up_to_twice_the_size(
    side, settings, stride, expected
):
    sizes = [((side, side), None)]
    settings = FineTuneSettings(**settings)
    assert choose_long_side(sizes, settings, 32, stride, finest=0.02) == expected
    coarse = choose_long_side(sizes, settings, 32, stride, finest=0.2)
    assert coarse == choose_long_side(sizes, settings, 32, stride)


def test_a_training_chooses_it_by_what_is_painted(quick):
    def side_for(radius):
        mask = discs(160, 160, radius).astype(np.uint8)
        image = Volume(array=mask[None] * 100.0)
        settings = replace(quick, long_side=0, max_long_side=64, stages="head")
        model = drain(
            fine_tune(TrainingData(image, Volume(array=mask[None])), settings)
        )
        return model.card.canvas.long_side

    assert side_for(16) == 64
    assert side_for(5) == 128

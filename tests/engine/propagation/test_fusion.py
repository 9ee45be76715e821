"""What a model and the paint say, as one."""

from __future__ import annotations

import numpy as np
import torch
from tests.tubes import carrier_of, logits_of

from medsaga.propagation.fusion import fuse, fuse_slices
from medsaga.propagation.trust import PaintTrust

MODEL_ALONE, PAINT_ALONE = PaintTrust(growth=1000.0), PaintTrust(growth=0.0)


def values_of(logits: torch.Tensor) -> np.ndarray:
    return np.array([0, 3, 7])[logits.argmax(0).numpy()]


def test_without_trust_the_model_decides(tubes, carrier):
    shifted = np.roll(tubes[1][5], 6, axis=1)
    fused = fuse(logits_of(shifted), carrier.at(5), carrier, MODEL_ALONE)
    np.testing.assert_array_equal(values_of(fused), shifted)


def test_with_all_trust_the_paint_decides(tubes, carrier):
    maps = carrier.at(5)
    unsure = logits_of(np.roll(tubes[1][5], 30, axis=0), sure=1.0)
    found = values_of(fuse(unsure, maps, carrier, PAINT_ALONE))
    assert (found == tubes[1][5]).mean() > 0.97


def test_a_painted_slice_is_as_it_was_painted(tubes, carrier):
    wrong = logits_of(np.zeros_like(tubes[1][9]), sure=50.0)
    fused = fuse(wrong, carrier.at(9), carrier, MODEL_ALONE)
    np.testing.assert_array_equal(values_of(fused), tubes[1][9])


def test_the_paint_weighs_less_further_away(tubes, carrier):
    nothing = logits_of(np.zeros_like(tubes[1][0]), sure=3.0)
    trust = PaintTrust(growth=0.3)
    odds = [
        float(
            (fuse(nothing, maps, carrier, trust) - nothing.log_softmax(0)).abs().mean()
        )
        for maps in map(carrier.at, (3, 5))
    ]
    assert odds[0] > odds[1]


def test_a_stream_is_slice_by_slice(tubes, carrier):
    logits = [logits_of(labels) for labels in tubes[1]]
    fused = list(fuse_slices(logits, carrier, PaintTrust()))
    assert len(fused) == len(logits)
    alone = fuse(logits[5], carrier.at(5), carrier, PaintTrust())
    torch.testing.assert_close(fused[5], alone, atol=0.2, rtol=0)


def test_where_the_paint_does_not_reach_the_model_decides(tubes):
    image = np.concatenate([tubes[0]] * 4)
    painted = np.zeros(image.shape, np.uint8)
    painted[2] = tubes[1][2]
    carrier = carrier_of(image, painted)
    carrier.reach = 40
    logits = logits_of(tubes[1][5])
    maps = carrier.at(60)
    assert not maps.is_reached
    assert torch.equal(fuse(logits, maps, carrier, PAINT_ALONE), logits)

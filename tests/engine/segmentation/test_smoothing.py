from __future__ import annotations

import dask.array
import numpy as np
import pytest
import torch
from tests.phantom import make_phantom

from medsaga.data.volume import Volume
from medsaga.network.inference import SliceLogits
from medsaga.segmentation.smoothing import neighbours_resemble, smooth_slices


def logits_of(planes: torch.Tensor) -> SliceLogits:
    size = tuple(planes.shape[1:])
    return SliceLogits(planes=planes, padded=size, content=size, size=size)


def smooth(stack: torch.Tensor) -> list[torch.Tensor]:
    return [one.planes for one in smooth_slices(map(logits_of, stack))]


def test_a_slice_is_averaged_with_its_neighbours():
    stack = torch.randn(6, 2, 4, 5)
    smoothed = torch.stack(smooth(stack))
    torch.testing.assert_close(
        smoothed[2], (stack[1] + 2 * stack[2] + stack[3]) / 4, atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(smoothed[0], (3 * stack[0] + stack[1]) / 4)
    torch.testing.assert_close(smoothed[5], (stack[4] + 3 * stack[5]) / 4)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_short_stacks_come_back_whole(length):
    stack = torch.ones(length, 2, 4, 5)
    smoothed = smooth(stack)
    assert len(smoothed) == length
    assert all(torch.equal(here, stack[0]) for here in smoothed)


def test_no_more_than_one_slice_is_asked_for_ahead():
    asked = []

    def stack():
        for index in range(5):
            asked.append(index)
            yield logits_of(torch.zeros(1, 1, 1))

    for given, _ in enumerate(smooth_slices(stack())):
        assert len(asked) == min(5, given + 2)


def test_a_scan_is_told_from_a_stack_of_single_images():
    scan = make_phantom(24)[0]
    for axis in range(3):
        assert neighbours_resemble(Volume(array=scan), axis)
    mixed = scan[np.random.default_rng(0).permutation(len(scan))]
    assert not neighbours_resemble(Volume(array=mixed), 0)
    assert not neighbours_resemble(Volume(array=scan[:1], is_2d=True), 0)


def test_of_a_lazy_scan_only_a_few_slices_are_computed():
    computed = []

    def look(block, block_info):
        computed.append(block_info[0]["chunk-location"][0])
        return block

    scan = dask.array.from_array(make_phantom(60)[0], chunks=(1, -1, -1))
    lazy = scan.map_blocks(look, dtype=scan.dtype, meta=np.empty((0, 0, 0), scan.dtype))
    neighbours_resemble(Volume(array=lazy), 0)
    assert len(set(computed)) <= 18

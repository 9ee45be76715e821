"""Bands of rows are what the whole slice would give."""

from __future__ import annotations

import pytest
import torch

from medsaga.network import bands
from medsaga.network.bands import join_bands, resize, restore_in_bands, rows_of_tiles


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    """So small that every slice here has several."""
    monkeypatch.setattr(bands, "MOST_VALUES", 3 * 90 * 5)


@pytest.mark.parametrize(
    ("content", "size"),
    [
        ((32, 48), (90, 90)),
        ((90, 60), (90, 90)),  # rows as they are
        ((60, 120), (90, 90)),  # more rows, fewer columns
        ((120, 48), (90, 90)),  # fewer rows
        ((1, 5), (90, 90)),
        ((89, 90), (90, 90)),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 200])
def test_bands_are_the_whole_however_the_rows_come(content, size, step):
    planes = torch.randn(3, *content, generator=torch.Generator().manual_seed(0))
    pieces = (planes[:, first : first + step] for first in range(0, content[0], step))
    found = list(restore_in_bands(pieces, content, size))
    rows = [row for span, _ in found for row in range(span.start, span.stop)]
    assert rows == list(range(size[0]))
    if content[0] <= size[0]:
        assert len(found) >= size[0] // 5
    torch.testing.assert_close(
        join_bands(found), resize(planes, size), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("content", [(150, 200), (96, 96), (70, 208), (97, 33)])
def test_rows_of_tiles_fade_into_the_whole(content):
    padded = (160, 208)
    planes = torch.randn(2, *padded, generator=torch.Generator().manual_seed(0))
    looked = []

    def look(window):
        looked.append(window)
        return planes[:, window[0], window[1]]

    pieces = list(rows_of_tiles(look, content, padded, 96))
    found = torch.cat(pieces, dim=1)
    torch.testing.assert_close(found, planes[:, : content[0], : content[1]])
    assert max(piece.shape[1] for piece in pieces) <= 16
    assert len(looked) == len(set(map(str, looked)))

"""From carried distances to label values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medsaga.data.classes import ClassTable
    from medsaga.propagation.carrying import Carrier
    from medsaga.propagation.maps import CarriedMaps


def carried_mask(
    carrier: Carrier, maps: CarriedMaps, table: ClassTable
) -> NDArray[np.integer]:
    """Give the (rows, columns) label values of a slice, as painted on a painted one."""
    indices = np.zeros(carrier.shape, np.int64)
    if maps.index in carrier.paint.slices:
        indices = table.index_of(carrier.paint.slices[maps.index])
    else:
        inside = carrier.frame.cut(indices)
        best = np.zeros(inside.shape, np.float32)
        for number, one in enumerate(maps.distances, 1):
            distance = carrier.frame.from_grid(one)
            wins = distance > best
            inside[wins], best[wins] = number, distance[wins]
    return table.to_values(indices)

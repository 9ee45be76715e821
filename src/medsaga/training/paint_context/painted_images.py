"""The images of a training whose paint can be carried, and what carries it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsaga.propagation.carrying import Carrier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medsaga.data.intensity import IntensityRule
    from medsaga.data.volume import Volume
    from medsaga.propagation.paint import Paint


class PaintedImages:
    """Makes the carrier of an image when it is first asked for.

    Parameters
    ----------
    images
        All images, in their order.
    paints
        By the number of the image; one without paint, and a 2-D image, is not carried.
    rule
        The intensities of the training.
    """

    def __init__(
        self,
        images: Sequence[Volume],
        paints: Mapping[int, Paint],
        rule: IntensityRule,
    ) -> None:
        self._images, self._rule = images, rule
        self._paints = {
            number: paint
            for number, paint in paints.items()
            if paint.slices and not images[number].is_2d
        }
        self._carriers: dict[int, Carrier] = {}

    def painted(self, number: int) -> list[int]:
        """Give the whole slices of image `number` that are painted, in order."""
        paint = self._paints.get(number)
        return [] if paint is None else sorted(paint.slices)

    def carrier(self, number: int) -> Carrier | None:
        """Give what carries the paint of image `number`; None without whole slices."""
        if number not in self._paints:
            return None
        if number not in self._carriers:
            image = self._images[number]
            limits = self._rule.limits(image)
            self._carriers[number] = Carrier(image, self._paints[number], limits)
        return self._carriers[number]

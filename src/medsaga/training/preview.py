"""What a training shows of itself: one slice, as the network predicts it now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

from medsaga.computing import evaluating
from medsaga.data.samples import working_image
from medsaga.errors import MedsagaError, memory_explained
from medsaga.events import Notice, Preview
from medsaga.network.inference import predict_image
from medsaga.propagation.fusion import fuse
from medsaga.propagation.trust import PaintTrust
from medsaga.windows import WorkingImage, content_of, middle_window, scaled_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from medsaga.data.volume import Volume
    from medsaga.events import Stage
    from medsaga.propagation.maps import CarriedMaps
    from medsaga.training.setup import Setup
    from medsaga.training.state import TrainingState

PreviewTarget: TypeAlias = tuple[int, int]
"""Image and slice of a preview."""

_NOT_ENOUGH_MEMORY = "The memory is not enough to show one."
# The slice that the user turns to is previewed sooner than the interval says.
_SOONEST_PREVIEW = 0.5
# After one of many tiles, so many times as long nothing is previewed.
_REST = 10


class Previewer:
    """Predicts the slice that is wanted, now and then; changes nothing.

    Parameters
    ----------
    setup, state
        The training.
    wanted
        Gives the slice to show, whenever one is due; None shows nothing.
    interval
        Seconds between two previews of the same slice.
    """

    def __init__(
        self,
        setup: Setup,
        state: TrainingState,
        wanted: Callable[[], PreviewTarget | None],
        interval: float,
    ) -> None:
        self._setup, self._state = setup, state
        self._wanted, self._interval = wanted, interval
        self._last, self._seconds = 0.0, 0.0
        self._last_target: PreviewTarget | None = None
        self._limits: dict[int, tuple[float, float]] = {}
        self._carried: dict[PreviewTarget, CarriedMaps] = {}
        self._gone: set[int] = set()  # images that cannot be shown any more

    @property
    def is_due(self) -> bool:
        """Whether the last one is old, or shows another slice than is wanted."""
        has_moved = self._wanted() != self._last_target
        interval = _SOONEST_PREVIEW if has_moved else self._interval
        interval = min(interval, self._interval)
        if self._setup.canvas.tile:
            interval = max(interval, _REST * self._seconds)
        return time.monotonic() - self._last >= interval

    def show(self, stage: Stage) -> Iterator[Preview | Notice]:
        """Predict the wanted slice, if one is, as the network stands."""
        self._last, self._last_target = time.monotonic(), self._wanted()
        if self._last_target is None or self._last_target[0] in self._gone:
            return
        try:
            with memory_explained(_NOT_ENOUGH_MEMORY):
                preview = self._preview(*self._last_target, stage)
        except MedsagaError as error:  # a preview is not worth the training
            self._gone.add(self._last_target[0])
            yield Notice(message=f"No more slices of this image are shown: {error}")
            return
        yield preview

    def _preview(self, image: int, index: int, stage: Stage) -> Preview:
        setup = self._setup
        volume = setup.images[image]
        limits = self._limits_of(image, volume)
        logits = self._logits(
            working_image(volume, setup.axis, index, limits, setup.canvas)
        )
        logits = self._with_paint(image, index, logits)
        self._seconds = time.monotonic() - self._last
        self._last += self._seconds
        return Preview(
            stage=stage,
            image_name=volume.name,
            axis=setup.axis,
            slice_index=index,
            mask=setup.table.to_values(logits.argmax(0).cpu().numpy()),
            seconds=self._state.time.seconds,
        )

    def _logits(self, seen: WorkingImage) -> Tensor:
        """Give the logits of a slice; of one of many tiles in its middle alone."""
        setup, network = self._setup, self._state.network
        tile, content = setup.canvas.tile, seen.content
        shown = middle_window(content, seen.padded, tile)
        rows, cols = scaled_window(shown, content, seen.size)
        part = WorkingImage(
            image=seen.image[:, shown[0], shown[1]],
            content=content_of(shown, content),
            size=(rows.stop - rows.start, cols.stop - cols.start),
        )
        with evaluating(network):
            middle = predict_image(network, part, setup.precision, tile)
        if part.size == seen.size:
            return middle
        logits = middle.new_zeros((len(middle), *seen.size))
        logits[:, rows, cols] = middle
        return logits

    def show_if_due(self, stage: Stage) -> Iterator[Preview | Notice]:
        """Show it if it is time to."""
        if self.is_due:
            yield from self.show(stage)

    def _with_paint(self, image: int, index: int, logits: Tensor) -> Tensor:
        """Join the logits with what is painted on other slices, if anything is."""
        carrier = self._setup.painted.carrier(image)
        if carrier is None:
            return logits
        if (image, index) not in self._carried:  # of the slice in sight alone
            self._carried = {(image, index): carrier.at(index)}
        maps = self._carried[image, index]
        return fuse(logits, maps, carrier, self._state.trust or PaintTrust())

    def _limits_of(self, image: int, volume: Volume) -> tuple[float, float]:
        """Take the percentiles of a volume once, not for each of its slices."""
        if image not in self._limits:
            self._limits[image] = self._setup.rule.limits(volume)
        return self._limits[image]

"""Slices beside painted ones, known where model and carried paint agree.

Each makes errors of its own kind, so that where they agree they are mostly right. What
they disagree on is unknown, and trains nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medsaga.computing import evaluating
from medsaga.data.identity import SliceId
from medsaga.data.samples import Sample, scale_labels, working_image
from medsaga.data.sizing import IGNORE
from medsaga.network.inference import predict_image
from medsaga.propagation.fusion import on_slice
from medsaga.windows import WorkingImage

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from medsaga.data.classes import ClassTable
    from medsaga.events import Event
    from medsaga.network.medsaga import MedSAGa
    from medsaga.propagation.carrying import Carrier
    from medsaga.training.setup import Setup

# Looking at one takes as long as a fifth of a step.
_MOST = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class Neighbour:
    """A slice beside a painted one, with the paint that is carried to it.

    Attributes
    ----------
    id
        Which it is.
    seen
        What a model sees of it.
    of_paint
        (rows, columns) int16 class indices at the slice's own resolution, -1 where
        classes overlap.
    spacing
        Pixel size in mm along rows and columns; None where unknown.
    """

    id: SliceId
    seen: WorkingImage
    of_paint: NDArray[np.int16]
    spacing: tuple[float, float] | None

    def sample(self, agreed: NDArray[np.int16], table: ClassTable) -> Sample:
        """Give it as what trains, by the class indices that are agreed on."""
        target, labels = scale_labels(agreed, self.seen, None)
        return Sample(
            image=self.seen.image,
            target=target,
            labels=labels,
            id=self.id,
            truth=np.array(table.to_values(np.maximum(agreed, 0))),
            spacing=self.spacing,
            content=self.seen.content,
            known=agreed != IGNORE,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Give what :meth:`read` takes, beside the notes."""
        image = self.seen.image
        is_grey = image.stride(0) == 0  # one plane, seen three times
        return {
            "image": image[: 1 if is_grey else 3].contiguous(),
            "of_paint": torch.from_numpy(self.of_paint),
        }

    def notes(self) -> dict[str, Any]:
        """Give what :meth:`read` takes, beside the tensors, for JSON."""
        return {
            "id": asdict(self.id),
            "content": self.seen.content,
            "spacing": self.spacing,
        }

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> Neighbour:
        """Make the same again."""
        height, width = notes["content"]
        spacing, of_paint = notes["spacing"], tensors["of_paint"].numpy()
        return cls(
            id=SliceId(**notes["id"]),
            seen=WorkingImage(
                image=tensors["image"].expand(3, -1, -1),
                content=(height, width),
                size=(of_paint.shape[0], of_paint.shape[1]),
            ),
            of_paint=of_paint,
            spacing=None if spacing is None else (spacing[0], spacing[1]),
        )


def find_neighbours(setup: Setup) -> list[Neighbour]:
    """Carry the paint to slices next to those that train.

    Paint of slices that are held out is not carried, nor is it to them. Images without
    carried paint have no such slices, nor have those that are seen in tiles.
    """
    if setup.canvas.tile:
        return []
    found: list[Neighbour] = []
    limits: dict[int, tuple[float, float]] = {}
    for number, index in _nearby(setup):
        carrier, image = setup.painted.carrier(number), setup.images[number]
        assert carrier is not None
        held_out = {
            s.id.index for s in setup.held_out if s.id.image == image.fingerprint
        }
        of_paint = _carried(carrier, index, held_out)
        if of_paint is None:
            continue
        if number not in limits:
            limits[number] = setup.rule.limits(image)
        seen = working_image(image, setup.axis, index, limits[number], setup.canvas)
        found.append(
            Neighbour(
                id=image.slice_id(setup.axis, index),
                seen=seen,
                of_paint=of_paint,
                spacing=image.slice_spacing(setup.axis),
            )
        )
    return found


def _nearby(setup: Setup) -> list[tuple[int, int]]:
    """Give (image, slice) of the unpainted slices next to those that train, in order.

    Of many those nearest to paint.
    """
    trained = {(s.id.image, s.id.index) for s in setup.training if s.known is None}
    most = setup.settings.agreed_slices
    gaps: dict[tuple[int, int], int] = {}
    for number, image in enumerate(setup.images):
        painted = setup.painted.painted(number)
        known = [i for i in painted if (image.fingerprint, i) in trained]
        unpainted = set(range(image.shape[setup.axis])).difference(painted)
        for index in unpainted if known else ():
            gap = min(abs(index - near) for near in known)
            if gap <= most:
                gaps[number, index] = gap
    return sorted(sorted(gaps, key=lambda place: (gaps[place], place))[:_MOST])


def _carried(
    carrier: Carrier, index: int, held_out: set[int]
) -> NDArray[np.int16] | None:
    """Give the class indices of carried paint; None where none comes."""
    if not set(carrier.painted) - held_out:
        return None
    maps = carrier.at(index, without=held_out)
    if not maps.is_reached:
        return None
    distances = on_slice(maps, carrier).numpy()
    of_paint = np.zeros(carrier.shape, np.int16)
    within = carrier.frame.cut(of_paint)
    n_classes = (distances > 0).sum(0)
    within[...] = np.where(n_classes > 0, distances.argmax(0) + 1, 0)
    within[n_classes > 1] = IGNORE  # classes are carried one by one, and may overlap
    return of_paint


def find_agreed(
    setup: Setup, network: MedSAGa
) -> Generator[Event, None, list[NDArray[np.int16]]]:
    """Look where the model says what carried paint says.

    Gives (rows, columns) class indices of each neighbour of the setup, -1 elsewhere.

    Yields
    ------
    Progress
        One for each slice.
    """
    found: list[NDArray[np.int16]] = []
    total = len(setup.neighbours)
    for done, one in enumerate(setup.neighbours, 1):
        with evaluating(network):
            logits = predict_image(network, one.seen, setup.precision)
        of_model = logits.argmax(0).cpu().numpy()
        agreed = np.where(of_model == one.of_paint, one.of_paint, IGNORE)
        found.append(agreed.astype(np.int16))
        yield setup.head_progress("agreed", (done, total), float("nan"), 0.0)
    return found


def with_agreed(setup: Setup, agreed: Sequence[NDArray[np.int16]]) -> list[Sample]:
    """Give the samples of a step's views: half of them painted, half agreed on."""
    samples = list(setup.training)
    if not agreed:
        return samples
    times = max(1, round(len(agreed) / len(samples)))
    pairs = zip(setup.neighbours, agreed, strict=True)
    return [*samples * times, *(one.sample(known, setup.table) for one, known in pairs)]

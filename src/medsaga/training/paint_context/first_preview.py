"""The first preview: carried paint, before any model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsaga.errors import MedsagaError, memory_explained
from medsaga.events import Notice, Preview
from medsaga.propagation.masks import carried_mask
from medsaga.propagation.paint import Paint
from medsaga.training.paint_context.painted_images import PaintedImages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medsaga.training.plan.running_time import RunningTime
    from medsaga.training.preview import PreviewTarget
    from medsaga.training.request import Request


_NOT_ENOUGH_MEMORY = "The memory is not enough to show the carried paint."


def preview_paint(
    request: Request, target: PreviewTarget, time: RunningTime
) -> Iterator[Preview | Notice]:
    """Show the wanted slice as it is carried from the painted ones, if any are whole.

    Parameters
    ----------
    request
        The training.
    target
        Image and slice.
    time
        Of the training, for the event.
    """
    image, index = target
    paint = Paint.of_labels(
        request.labels[image], request.annotation, image, request.table.values[1:]
    )
    painted = PaintedImages(request.volumes, {image: paint}, request.rule)
    try:
        with memory_explained(_NOT_ENOUGH_MEMORY):
            carrier = painted.carrier(image)
            if carrier is None:
                return
            mask = carried_mask(carrier, carrier.at(index), request.table)
    except MedsagaError as error:  # a preview is not worth the training
        yield Notice(message=str(error))
        return
    yield Preview(
        stage="paint",
        image_name=request.volumes[image].name,
        axis=paint.axis,
        slice_index=index,
        mask=mask,
        seconds=time.seconds,
    )

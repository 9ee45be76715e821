"""What a click on Segment puts into the queue, and what became of it in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medsaga import MedsagaError
from medsaga.frontend import count
from napari_medsaga.layers.convert import volume_of
from napari_medsaga.segment.results import ImageResult
from napari_medsaga.segment.rows import Row
from napari_medsaga.segment.sources import NO_IMAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari import Viewer
    from napari.layers import Layer

    from medsaga.frontend import LibraryEntry

_NOTHING_TICKED = (
    "No image is ticked: tick those to segment. Images that are done are unticked; "
    "tick one again to segment it once more."
)
_COUNTED = {
    "done": "segmented",
    "kept": "there already",
    "stopped": "ended before the last slice",
    "failed": "failed",
    "waiting": "left to do",
}


def layer_rows(
    viewer: Viewer, layers: Sequence[Layer], before: Sequence[Row], model: LibraryEntry
) -> list[Row]:
    """Make a row for each layer, under the rows of those that are done already.

    Parameters
    ----------
    viewer
        Where the results are added.
    layers
        The ticked image layers.
    before
        The rows so far. One that did not come to its end goes on in its result layer,
        if image and model are the same.
    model
        What segments them.

    Raises
    ------
    MedsagaError
        If no layer is ticked.
    """
    from medsaga.frontend import BatchItem

    if not layers:
        raise MedsagaError(_NOTHING_TICKED if viewer.layers else NO_IMAGE)
    rows = [
        row
        for row in before
        if row.state == "done"
        and row.source in viewer.layers
        and row.source not in layers
    ]
    unfinished = {row.source: row.result for row in before if row.result is not None}
    for layer in layers:
        row = Row(name=layer.name, source=layer)
        try:
            volume = volume_of(layer)
        except MedsagaError as error:
            row.state, row.message = "failed", str(error)
        else:
            row.item = BatchItem(image=volume)
            result = unfinished.get(layer)
            row.result = (
                result
                if result is not None and result.fits(layer, model)
                else ImageResult(viewer, layer, model)
            )
        rows.append(row)
    return rows


def file_rows(paths: Sequence[Path]) -> list[Row]:
    """Make a row for each file, and each image file in the folders.

    Raises
    ------
    MedsagaError
        If one is not there, or no image in a folder.
    """
    from medsaga.frontend import batch_items

    return [
        Row(name=item.image.name, source=item.image, item=item)
        for item in batch_items(paths)
        if isinstance(item.image, Path)
    ]


def summary(rows: Sequence[Row], *, is_stopped: bool, replaces: bool) -> str:
    """Say in a sentence or two what became of the queue.

    One that `replaces` files would begin anew.
    """
    if len(rows) == 1 and rows[0].state == "failed":
        return f"{rows[0].name}: {rows[0].message}"
    counts = {state: sum(row.state == state for row in rows) for state in _COUNTED}
    parts = [f"{n} {_COUNTED[state]}" for state, n in counts.items() if n]
    text = f"Of {count(len(rows), 'image')}: {', '.join(parts)}."
    if counts["failed"]:
        text += " The notes in the list say why."
    if not is_stopped:
        return text
    advice = "Untick Replace results and click" if replaces else "Click"
    return f"Stopped. {text} {advice} Segment to go on."

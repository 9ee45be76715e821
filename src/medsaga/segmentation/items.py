"""The items of a batch: which images it is about. Importing it imports no torch."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsaga.data.folders import image_files, listed, other_files
from medsaga.data.formats.catalogue import stem
from medsaga.data.inputs import as_volume
from medsaga.data.volume import Volume
from medsaga.errors import MedsagaError
from medsaga.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medsaga.data.inputs import ImageLike


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchItem:
    """One image of a batch.

    Attributes
    ----------
    image
        An open volume, whose result comes with the events, or a file, whose result is
        written to files.
    labels
        Painted slices of the image, to be carried to its others; None takes what the
        model knows of it.
    skip
        Set it from any thread to end this item alone.
    """

    image: Volume | Path
    labels: Volume | Path | None = None
    skip: threading.Event = field(default_factory=threading.Event)

    def with_absolute_paths(self) -> BatchItem:
        """Give the same item with names of its files that hold in any folder."""
        image, labels = (
            given.absolute() if isinstance(given, Path) else given
            for given in (self.image, self.labels)
        )
        assert image is not None
        return replace(self, image=image, labels=labels)


def left_out(
    images: ImageLike | BatchItem | Sequence[ImageLike | BatchItem],
    out: Path | str | None = None,
) -> Iterator[str]:
    """Name what folders hold that is no image, in a sentence a folder.

    None of it are the folders themselves, one in another, and that of the results,
    `out`.
    """
    given = [one for one in _as_sequence(images) if isinstance(one, (str, Path))]
    places = (Path(one).expanduser() for one in (*given, out) if one is not None)
    expected = {one.resolve() for one in places}
    for folder in given:
        others = [f for f in other_files(folder) if f.resolve() not in expected]
        if others:
            yield f"Not looked at in {folder}, as it is no image: {listed(others)}."


def left_without_partner(items: Sequence[BatchItem], labels: Path) -> Iterator[str]:
    """Name the labels of a folder that none of the items has, and items without any."""
    used = {item.labels for item in items}
    unused = [file for file in image_files(labels) if file not in used]
    if unused:
        yield f"Labels without an image of their name are not used: {listed(unused)}."
    images = [item.image for item in items if item.labels is None]
    alone = [image for image in images if isinstance(image, Path)]
    if alone:
        yield (
            f"Images without labels in {labels}, of which what the model knows is "
            f"carried: {listed(alone)}."
        )


def batch_items(
    images: ImageLike | BatchItem | Sequence[ImageLike | BatchItem],
    labels: Path | str | None = None,
) -> list[BatchItem]:
    """Give the items of a batch: each file once, of folders the images in them.

    Parameters
    ----------
    images
        What there is of them.
    labels
        Painted slices: a file for a single image, or a folder of files that are called
        as the images are.

    Raises
    ------
    MedsagaError
        If there is no such file or folder, or no image in a folder; if labels are given
        and none of them is of one of the images.
    """
    items: list[BatchItem] = []
    seen: set[Path] = set()
    for image in _as_sequence(images):
        if isinstance(image, BatchItem):
            items.append(image)
        elif isinstance(image, (str, Path)):
            files = [f for f in image_files(image) if f.resolve() not in seen]
            seen.update(file.resolve() for file in files)
            items += [BatchItem(image=file) for file in files]
        else:
            items.append(BatchItem(image=as_volume(image)))
    return items if labels is None else _with_labels(items, Path(labels))


def _with_labels(items: Sequence[BatchItem], labels: Path) -> list[BatchItem]:
    """Give each item the labels of its name."""
    files = image_files(labels)
    if not labels.is_dir() and len(items) == 1:
        return [replace(items[0], labels=labels)]
    by_name = {stem(file): file for file in files} if labels.is_dir() else {}
    names = [stem(item.image) for item in items if isinstance(item.image, Path)]
    if len(by_name) < len(files) * labels.is_dir() or len(set(names)) < len(names):
        raise MedsagaError(
            f"Several files have one name, so that it is not clear which of {labels} "
            "belong to which image: segment them one by one."
        )
    found = [
        replace(item, labels=by_name.get(stem(item.image), item.labels))
        if isinstance(item.image, Path)
        else item
        for item in items
    ]
    if not any(item.labels for item in found):
        raise MedsagaError(
            f"{labels} has no labels for any of {count(len(items), 'image')}: give a "
            "file for a single image, or a folder of files called as the images are."
        )
    return found


def _as_sequence(
    images: ImageLike | BatchItem | Sequence[ImageLike | BatchItem],
) -> Sequence[ImageLike | BatchItem]:
    if isinstance(images, (BatchItem, Volume, str, Path, np.ndarray)):
        return [images]
    return images

"""What a training was given, so that it can be repeated. Imports no torch."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from medsaga.data.annotation import Annotation
    from medsaga.data.identity import SliceId
    from medsaga.data.inputs import TrainingData
    from medsaga.data.volume import Volume
    from medsaga.models.card import ModelCard


@dataclass(frozen=True, kw_only=True)
class PairRecord:
    """An image that trained, and its labels.

    Attributes
    ----------
    name
        What the image was called.
    image_sha256
        Of its voxels (:func:`~medsaga.data.identity.fingerprint`).
    labels_sha256
        Of the labels on its annotated slices.
    """

    name: str
    image_sha256: str
    labels_sha256: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a training was given beside its settings.

    Attributes
    ----------
    command
        What the program was started with; of paths only the last part, and of napari
        only the name, as a model may be handed on.
    pairs
        The images and their labels.
    slices, empty_slices, window
        As :class:`~medsaga.TrainingData` has them; empty slices as pairs (image,
        index), -1 for every image.
    start
        The trained model that it started from; None of a backbone.
    accepted_slices
        Those whose labels were suggested and accepted, rather than painted.
    """

    command: tuple[str, ...]
    pairs: tuple[PairRecord, ...]
    slices: tuple[int, ...] | None
    empty_slices: tuple[tuple[int, int], ...]
    window: tuple[float, float] | None
    start: str | None
    accepted_slices: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, note: Mapping[str, Any]) -> RunRecord:
        """Read what JSON made of a record."""
        window = note["window"]
        return cls(
            command=tuple(note["command"]),
            pairs=tuple(PairRecord(**pair) for pair in note["pairs"]),
            slices=None if note["slices"] is None else tuple(note["slices"]),
            empty_slices=tuple((image, index) for image, index in note["empty_slices"]),
            window=None if window is None else (window[0], window[1]),
            start=note["start"],
            accepted_slices=tuple(note.get("accepted_slices", ())),
        )

    @classmethod
    def of(
        cls,
        data: TrainingData,
        volumes: Sequence[Volume],
        labels: Sequence[Volume],
        annotation: Annotation,
        start: str | None,
    ) -> RunRecord:
        """Record a training that is about to begin."""
        pairs = (
            PairRecord(
                name=volume.name,
                image_sha256=volume.fingerprint,
                labels_sha256=_labels_sha256(mask, annotation, number),
            )
            for number, (volume, mask) in enumerate(zip(volumes, labels, strict=True))
        )
        return cls(
            command=_command(),
            pairs=tuple(pairs),
            slices=None if data.slices is None else tuple(map(int, data.slices)),
            empty_slices=tuple(
                (-1, int(one))
                if isinstance(one, (int, np.integer))
                else (int(one[0]), int(one[1]))
                for one in data.empty_slices
            ),
            window=None
            if data.window is None
            else (float(data.window[0]), float(data.window[1])),
            start=start,
            accepted_slices=tuple(map(int, data.accepted_slices)),
        )


def run_differences(before: ModelCard, after: ModelCard) -> list[str]:
    """Name what was not the same in the repetition of a training.

    Nothing is named where the weights of both must be equal, on a GPU but for rounding.
    """
    return [
        *_of_data(before, after),
        *_of_choices(before, after),
        *_of_computer(before, after),
    ]


def _of_data(before: ModelCard, after: ModelCard) -> Iterator[str]:
    if before.data_fingerprint == after.data_fingerprint:
        return
    was = before.run.pairs if before.run is not None else ()
    now = after.run.pairs if after.run is not None else ()
    if len(was) != len(now):
        yield f"{len(now)} images in place of {len(was)}"
        return
    yield "what the slices show that train"
    for old, new in zip(was, now, strict=True):
        if old.image_sha256 != new.image_sha256:
            yield f"the image {new.name}"
        if old.labels_sha256 != new.labels_sha256:
            yield f"the labels of {new.name}"


def _of_choices(before: ModelCard, after: ModelCard) -> Iterator[str]:
    parts: dict[str, Callable[[ModelCard], object]] = {
        "which slices train": lambda c: sorted(s.index for s in c.training_slices),
        "which slices are held out": lambda c: sorted(
            s.index for s in c.held_out_slices
        ),
        "the label values": lambda c: c.classes.values,
        "the intensities": lambda c: c.intensity,
        "the working size": lambda c: c.canvas,
    }
    yield from (name for name, part in parts.items() if part(before) != part(after))
    for name, now in after.settings.items():
        was = before.settings.get(name, now)
        if was != now and name != "threads":
            yield f"{name} {now} in place of {was}"


def _indices(slices: Iterable[SliceId]) -> list[int]:
    return sorted(one.index for one in slices)


def _of_computer(before: ModelCard, after: ModelCard) -> Iterator[str]:
    if before.base_sha256 != after.base_sha256:
        yield "the weights that it started from"
    for name, now in after.software.items():
        was = before.software.get(name, "none")
        if was != now:
            yield f"{name} {now} in place of {was}"
    for name in ("device", "threads"):
        had, has = before.measured.get(name), after.measured.get(name)
        if had != has:
            yield f"{name} {has} in place of {had}"


def _labels_sha256(mask: Volume, annotation: Annotation, number: int) -> str:
    digest = hashlib.sha256(str((annotation.axis, mask.shape)).encode())
    for volume, index in annotation.slices:
        if volume == number:
            plane = np.asarray(mask.slice(annotation.axis, index))
            digest.update(f"{index}:".encode())
            digest.update(np.ascontiguousarray(plane, dtype="<i8").tobytes())
    return digest.hexdigest()


def _command() -> tuple[str, ...]:
    """Give what the program was started with, but of napari no file that it opened."""
    program, *words = sys.argv or [""]
    # Of `python -m` it is a file of the program's folder.
    names = [name for name in Path(program).parts[-2:] if name != "__main__.py"]
    is_viewer = any(name.startswith("napari") for name in names)
    kept = () if is_viewer else words
    return (names[-1] if names else "", *map(_without_folder, kept))


def _without_folder(word: str) -> str:
    """Leave out the folders of a path, also of one behind an option's equals sign."""
    option, equals, value = word.partition("=")
    if not word.startswith("-"):
        option, equals, value = "", "", word
    name = Path(value.replace("\\", "/")).name
    return f"{option}{equals}{name or value}"

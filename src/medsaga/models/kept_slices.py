"""The slices that trained a model, kept beside it so that it can train on with them.

They are at the model's working size, and only in the user's own library: a model that
is saved, exported or handed on elsewhere does not carry its images.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from medsaga.data.identity import SliceId
from medsaga.data.integers import smallest_integers
from medsaga.errors import MedsagaError
from medsaga.models.card import load_card

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from medsaga.data.canvas import Canvas
    from medsaga.data.classes import ClassTable
    from medsaga.data.intensity import IntensityRule
    from medsaga.data.samples import Sample
    from medsaga.models.card import ModelCard

KEPT_SLICES = "slices.safetensors"

# What a file of slices brings about that is damaged, or has other notes in it.
_UNREADABLE = (
    *(OSError, SafetensorError, ValueError, LookupError, TypeError),
    *(AttributeError, RuntimeError),
)
_IMAGE, _TRUTH, _KNOWN = "image", "truth", "known"


def save_slices(
    samples: Iterable[Sample], folder: Path, *, is_exact: bool = False
) -> None:
    """Write training samples into a model folder.

    A grey image is kept as one plane, and but for `is_exact` in fp16.
    """
    from safetensors.torch import save_file

    tensors, notes = {}, []
    for number, sample in enumerate(samples):
        is_grey = bool((sample.image == sample.image[:1]).all())
        planes = sample.image[:1] if is_grey else sample.image
        planes = planes if is_exact else planes.half()
        tensors[f"{number}.{_IMAGE}"] = planes.contiguous()
        tensors[f"{number}.{_TRUTH}"] = _as_tensor(sample.truth)
        if sample.known is not None:
            tensors[f"{number}.{_KNOWN}"] = _as_tensor(sample.known)
        notes.append(
            {
                "slice": asdict(sample.id),
                # JSON takes no numbers of NumPy's.
                "spacing": sample.spacing and [float(side) for side in sample.spacing],
                "content": sample.content,
            }
        )
    save_file(tensors, folder / KEPT_SLICES, {"slices": json.dumps(notes)})


def _as_tensor(array: NDArray[Any]) -> Tensor:
    """Give labels, or a mask of them, with memory of its own, as it has to be."""
    from torch import from_numpy

    return from_numpy(smallest_integers(array))


def kept_labels(
    folder: Path | str, *, are_whole: bool = False
) -> dict[SliceId, NDArray[Any]]:
    """Give the labels of the slices that are kept with a model; imports no torch.

    With `are_whole` only of those of which every pixel is known.

    Returns
    -------
    dict
        (rows, columns) label values at the slices' own resolution, 0 where background
        or unknown, by slice; empty if none are kept, or they cannot be read.
    """
    try:
        with safe_open(Path(folder) / KEPT_SLICES, framework="numpy") as file:
            partial = {n for n in file.keys() if n.endswith(f".{_KNOWN}")}  # noqa: SIM118
            return {
                one: file.get_tensor(f"{number}.{_TRUTH}")
                for number, one in enumerate(_ids(_notes(file), Path(folder)))
                if not (are_whole and f"{number}.{_KNOWN}" in partial)
            }
    except (*_UNREADABLE, MedsagaError):
        return {}


def load_slices(
    folder: Path, wanted: Sequence[SliceId], table: ClassTable
) -> list[Sample]:
    """Read slices that are kept with a model, as samples.

    Parameters
    ----------
    folder
        The model folder.
    wanted
        Which ones.
    table
        The classes that the samples are to count in; has all that are on these slices.

    Raises
    ------
    MedsagaError
        If one is not there or cannot be read.
    """
    samples = []
    try:
        with safe_open(folder / KEPT_SLICES, framework="pt") as file:
            notes = _notes(file)
            ids = _ids(notes, folder)
            for one in wanted:
                number = ids.index(one)
                samples.append(_load_slice(file, number, notes[number], one, table))
    except _UNREADABLE as error:
        raise MedsagaError(
            f"The slices that trained {folder.name} are not kept with it any more: "
            "untick them, or train on the original labels."
        ) from error
    return samples


def _load_slice(
    file: Any, number: int, note: Mapping[str, Any], one: SliceId, table: ClassTable
) -> Sample:
    from medsaga.data.samples import Sample, scale_labels
    from medsaga.windows import WorkingImage

    # Copies: a tensor as it comes keeps the file open, which could not be removed.
    image = file.get_tensor(f"{number}.{_IMAGE}").float().clone().expand(3, -1, -1)
    truth = file.get_tensor(f"{number}.{_TRUTH}").clone().numpy()
    is_sparse = f"{number}.{_KNOWN}" in file.keys()  # noqa: SIM118 - no dict
    known = None
    if is_sparse:
        known = file.get_tensor(f"{number}.{_KNOWN}").clone().numpy()
    height, width = note["content"]
    indices = table.index_of(truth, known)
    seen = WorkingImage(image=image, content=(height, width), size=truth.shape)
    target, labels = scale_labels(indices, seen, known)
    spacing = note["spacing"]
    return Sample(
        image=image,
        target=target,
        labels=labels,
        id=one,
        truth=truth,
        spacing=None if spacing is None else (spacing[0], spacing[1]),
        content=(height, width),
        known=known,
    )


@dataclass(frozen=True)
class EarlierSlices:
    """Slices that trained a model and train on beside others.

    Attributes
    ----------
    folder
        Of the model; None where it has none.
    card
        The model's.
    wanted
        Which slices.
    """

    folder: Path | str | None
    card: ModelCard | None
    wanted: tuple[SliceId, ...]

    def classes(self) -> tuple[int, ...]:
        """Give the label values on these slices."""
        labels = kept_labels(self.folder) if self.folder and self.wanted else {}
        found = [np.unique(labels[one]) for one in self.wanted if one in labels]
        return tuple(int(value) for values in found for value in values)

    def load(
        self, table: ClassTable, canvas: Canvas, rule: IntensityRule
    ) -> list[Sample]:
        """Read them as samples whose classes are those of `table`.

        Raises
        ------
        MedsagaError
            If they are not kept, or at another working size than `canvas`, or scaled
            by another rule than `rule`.
        """
        if not self.wanted:
            return []
        if self.card is None or self.folder is None:
            raise MedsagaError(
                "Earlier slices are kept with a model of the library: give its folder "
                "as start."
            )
        if canvas != self.card.canvas:
            raise MedsagaError(
                "The earlier slices are kept at a long side of "
                f"{self.card.canvas.long_side} pixels: leave long_side at 0."
            )
        if rule != self.card.intensity:
            raise MedsagaError(
                "The earlier slices are kept with the intensities that the model was "
                "trained with: leave intensity on auto and give no window."
            )
        return load_slices(Path(self.folder), self.wanted, table)


def _ids(notes: Iterable[Mapping[str, Any]], folder: Path) -> list[SliceId]:
    """Say which slices are kept, which is a name and an index in older files."""
    return [
        SliceId(**note["slice"])
        if "slice" in note
        else SliceId.from_name(
            note["name"], load_card(folder).axis, note["slice_index"]
        )
        for note in notes
    ]


def _notes(file: Any) -> list[dict[str, Any]]:
    notes: list[dict[str, Any]] = json.loads(file.metadata()["slices"])
    return notes

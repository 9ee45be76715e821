"""Whatever the caller has of images and labels, as volumes that belong together."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medsaga.data.files import check_label_values, read_labels, read_volume
from medsaga.data.folders import PairedFiles, listed, other_files, pair_files
from medsaga.data.formats.catalogue import stem
from medsaga.data.pairs import ALL_SLICES, PairReader
from medsaga.data.volume import Volume, volume_from_array
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medsaga.data.annotation import EmptySlice
    from medsaga.data.identity import SliceId
    from medsaga.data.pairs import WantedSlices

ImageLike: TypeAlias = Volume | NDArray[Any] | Path | str


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a model is to learn from.

    Attributes
    ----------
    images, labels
        A file, a folder, an array (z, y, x) or (y, x), a `Volume`, or a sequence of
        these; images and labels pair up by name (files) or by order (the rest). Files
        are matched in space, or as they are stored where one does not say how it is
        oriented (:func:`~medsaga.data.matching.match_labels`). On an
        annotated slice label 0 is background; with `FineTuneSettings.sparse` it is
        unknown, and `background_value` is background.
    axis
        Array axis to slice along: 0 axial, 1 coronal, 2 sagittal for files with an
        affine. None takes the one along which the fewest slices carry a label.
    slices
        Only these slices along the axis train; one without a label counts as empty.
    empty_slices
        Slices beside those that show nothing of any class: an index along the axis, in
        every volume that carries a label and is long enough, or a pair (image, index).
    accepted_slices
        Those of the slices whose labels were suggested and accepted rather than
        painted: the card tells them apart. They train as the others do.
    earlier
        Slices that trained the model from which the training starts, and train on
        beside the new ones, as its card names them. The model is then a folder of a
        :class:`~medsaga.ModelLibrary`, which keeps them.
    window
        Intensities that become black and white; overrides the settings' `intensity`.
    class_names, class_colours
        Names and hex colours by label value, kept in the model card.
    """

    images: ImageLike | Sequence[ImageLike]
    labels: ImageLike | Sequence[ImageLike]
    _: KW_ONLY
    axis: int | None = None
    slices: Sequence[int] | None = None
    empty_slices: Sequence[EmptySlice] = ()
    accepted_slices: Sequence[int] = ()
    earlier: Sequence[SliceId] = ()
    window: tuple[float, float] | None = None
    class_names: Mapping[int, str] | None = None
    class_colours: Mapping[int, str] | None = None


def as_volume(image: ImageLike) -> Volume:
    """Give a file, an array or a volume as a volume."""
    if isinstance(image, Volume):
        return image
    if isinstance(image, (str, Path)):
        return read_volume(Path(image))
    return volume_from_array(np.asarray(image))


def as_volume_pairs(
    images: ImageLike | Sequence[ImageLike],
    labels: ImageLike | Sequence[ImageLike],
    wanted: WantedSlices = ALL_SLICES,
) -> tuple[list[Volume], list[Volume], list[str]]:
    """Give images and labels as volumes, pair by pair, and what to warn of.

    Files and folders pair up by name; of a folder only the pairs that carry a label
    are read. Arrays, volumes and sequences pair up by order. Of several files no more
    than the `wanted` slices are kept: the arrays are read when they are asked for.

    Raises
    ------
    MedsagaError
        If nothing pairs up, or the two of a pair differ in shape.
    """
    if isinstance(images, (str, Path)) and isinstance(labels, (str, Path)):
        return _read_pairs(Path(images), Path(labels), wanted)
    pictures, masks = _as_list(images), _as_list(labels)
    if len(pictures) != len(masks):
        raise MedsagaError(
            f"There are {len(pictures)} images and {len(masks)} label images: "
            "give one label image for each image."
        )
    found = PairReader(len(pictures), wanted)
    for one, mask in zip(pictures, masks, strict=True):
        image = Path(one) if isinstance(one, (str, Path)) else as_volume(one)
        found.take(image, _as_labels(mask, image), packs=isinstance(mask, (str, Path)))
    return found.images, found.labels, found.doubts


def _read_pairs(
    images: Path, labels: Path, wanted: WantedSlices
) -> tuple[list[Volume], list[Volume], list[str]]:
    files = pair_files(images, labels)
    found = PairReader(len(files.pairs), wanted)
    unpainted: list[Path] = []
    for image_path, label_path in files.pairs:
        mask = read_labels(label_path)
        if len(files.pairs) > 1 and not np.any(mask.array):
            unpainted.append(label_path)
        else:
            found.take(image_path, mask, packs=True)
    if not found.images:
        raise MedsagaError(
            f"No label image in {labels} carries a label: "
            "paint at least one slice, then start again."
        )
    others = [*other_files(images), *other_files(labels)]
    warnings = [*_left_out(files, unpainted, others), *found.doubts]
    return found.images, found.labels, warnings


def _left_out(
    found: PairedFiles, unpainted: Sequence[Path], others: Sequence[Path]
) -> list[str]:
    """Name all that is not used, once."""
    reasons = (
        ("What is no image is not used", others),
        ("Labels without an image of their name are not used", found.labels_alone),
        ("Images without labels are not used", found.images_alone),
        ("Label files without any label are not used", unpainted),
    )
    return [f"{reason}: {listed(files)}." for reason, files in reasons if files]


def _as_list(items: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    if isinstance(items, (Volume, str, Path, np.ndarray)):
        return [items]
    return list(items)


def _as_labels(mask: ImageLike, image: Volume | Path) -> Volume:
    if isinstance(mask, (str, Path)):
        return read_labels(Path(mask))
    if not isinstance(mask, Volume):
        name = stem(image) if isinstance(image, Path) else image.name
        mask = volume_from_array(np.asarray(mask), name=name, rgb=False)
    check_label_values(mask)
    return mask

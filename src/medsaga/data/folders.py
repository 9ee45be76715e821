"""Folders of image files: list, pair and name them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medsaga.data.formats.catalogue import (
    FALLBACK,
    ending,
    format_names,
    format_of,
    stem,
)
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Sequence

_OF_SYSTEMS = ("Thumbs.db", "desktop.ini")
_MOST_LISTED = 10


def image_files(path: Path | str) -> list[Path]:
    """List the image files of a folder, sorted by name; a file gives itself.

    Hidden files, folders and files that are no images are left out. An image in two
    files (``.hdr`` and ``.img``, ``.HEAD`` and ``.BRIK``) is listed once, and a link to
    a file that is not there too: it must not be missing in silence.

    Raises
    ------
    MedsagaError
        If there is no such file or folder, or no image in the folder.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MedsagaError(f"There is no file or folder {path}: check the name.")
    found = [f for f in sorted(path.iterdir()) if _is_image_name(f) and not f.is_dir()]
    files = [f for f in found if not _has_partner(f, found)]
    if not files:
        raise MedsagaError(
            f"There is no image in the folder {path}: put {format_names()} files there."
        )
    return files


def other_files(path: Path | str) -> list[Path]:
    """List what a folder holds beside images, but for what is hidden; a file nothing.

    An image's second file, and what systems put into folders, is left out.
    """
    path = Path(path)
    if not path.is_dir():
        return []
    visible = [f for f in sorted(path.iterdir()) if not f.name.startswith(".")]
    return [
        f
        for f in visible
        if f.is_dir() or not _is_image_name(f)
        if f.name not in _OF_SYSTEMS
    ]


@dataclass(frozen=True, kw_only=True)
class PairedFiles:
    """Images with their labels, and what is left over.

    Attributes
    ----------
    pairs
        (image, labels), sorted by the images' names.
    images_alone, labels_alone
        Those without the other.
    """

    pairs: tuple[tuple[Path, Path], ...]
    images_alone: tuple[Path, ...] = ()
    labels_alone: tuple[Path, ...] = ()


def pair_files(images: Path | str, labels: Path | str) -> PairedFiles:
    """Pair images with their labels.

    Parameters
    ----------
    images, labels
        Two files, or two folders whose files are paired by name, whatever their
        endings.

    Raises
    ------
    MedsagaError
        If a file meets a folder, both folders are the same, several files of one of
        them have one name, or no names match.
    """
    images, labels = Path(images), Path(labels)
    image_list, label_list = image_files(images), image_files(labels)
    if images.is_dir() != labels.is_dir():
        raise MedsagaError(
            f"{images} and {labels} are a file and a folder: give two files or two "
            "folders."
        )
    if not images.is_dir():
        return PairedFiles(pairs=((images, labels),))
    if images.samefile(labels):
        raise MedsagaError(
            f"{images} is given for the images and for the labels: put the labels into "
            "a folder of their own, under the images' names."
        )
    by_name = {stem(label): label for label in label_list}
    labelled = [image for image in image_list if stem(image) in by_name]
    _refuse_twins(labels, label_list)
    _refuse_twins(images, labelled)
    pairs = tuple((image, by_name[stem(image)]) for image in labelled)
    if not pairs:
        raise MedsagaError(
            f"No labels in {labels} have the name of an image in {images}: call the "
            f"labels of {image_list[0].name} {stem(image_list[0])} too, with any "
            f"ending (there is {label_list[0].name})."
        )
    used = {file for pair in pairs for file in pair}
    return PairedFiles(
        pairs=pairs,
        images_alone=tuple(i for i in image_list if i not in used),
        labels_alone=tuple(m for m in label_list if m not in used),
    )


def listed(files: Sequence[Path]) -> str:
    """Name files in a sentence, the first ten of many."""
    names = ", ".join(file.name for file in files[:_MOST_LISTED])
    more = len(files) - _MOST_LISTED
    return f"{names} and {more} more" if more > 0 else names


def _refuse_twins(folder: Path, files: Sequence[Path]) -> None:
    for name, times in Counter(map(stem, files)).most_common(1):
        if times > 1:
            raise MedsagaError(
                f"{folder} has {times} files for {name}: keep one of them there."
            )


def output_path(image_path: Path, folder: Path, suffix: str = "") -> Path:
    """Give the path for the mask of an image: its name, in `folder`.

    Parameters
    ----------
    image_path
        Volumes give NIfTI, TIFF gives TIFF, ``.npy`` itself, other images PNG.
    folder
        Where the outputs go.
    suffix
        Comes after the name, such as ``_entropy``.

    Raises
    ------
    MedsagaError
        If the output would lie beside the images under the same name, where it might
        replace an image or its labels.
    """
    if not suffix and folder.resolve() == image_path.resolve().parent:
        raise MedsagaError(
            f"{folder} is the folder of the images: choose another one for the masks, "
            "which get the images' names."
        )
    kind = format_of(image_path) or FALLBACK
    mask_ending = kind.mask_ending or ending(image_path)
    return folder / f"{stem(image_path)}{suffix}{mask_ending}"


def _is_image_name(path: Path) -> bool:
    return format_of(path) is not None and not path.name.startswith(".")


def _has_partner(path: Path, files: list[Path]) -> bool:
    """Whether another file has the voxels of an image in two files."""
    kind = format_of(path)
    partner = None if kind is None else kind.partner
    return partner is not None and any(
        stem(f) == stem(path) and ending(f).startswith(partner) for f in files
    )

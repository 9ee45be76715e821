"""Which files a segmentation writes, and that they replace no image or one another."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medsaga import MedsagaError, SegmentSettings

if TYPE_CHECKING:
    from medsaga import ModelCard


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The files that the segmentation of one image writes.

    Attributes
    ----------
    image
        The image's file.
    mask
        Label values.
    probabilities
        A file for each class in the card's order, background first; empty if unwanted.
    entropy
        None if unwanted.
    """

    image: Path
    mask: Path
    probabilities: tuple[Path, ...]
    entropy: Path | None

    @property
    def paths(self) -> list[Path]:
        """All files; the mask comes last, so that where it is, all of them are."""
        entropy = [] if self.entropy is None else [self.entropy]
        return [*self.probabilities, *entropy, self.mask]

    @property
    def missing(self) -> list[Path]:
        """Those that are not there yet."""
        return [path for path in self.paths if not actual_path(path).exists()]


def plan_outputs(
    images: Sequence[Path], out: Path, card: "ModelCard", settings: SegmentSettings
) -> list[Outputs]:
    """Plan the outputs for files and folders of images.

    Raises
    ------
    MedsagaError
        If an image is not there, or an output would replace an image or another output.
    """
    from medsaga import image_files

    files: dict[Path, Path] = {}
    for image in images:
        for file in image_files(image):
            files.setdefault(file.resolve(), file)
    suffixes = _class_suffixes(card.classes.names) if settings.probabilities else []
    planned = [
        _plan(file, out, suffixes, entropy=settings.entropy) for file in files.values()
    ]
    _check_distinct(planned)
    _check_no_image_replaced(planned, set(files))
    return planned


def actual_path(path: Path) -> Path:
    """Give the path that an output has got: TIFF stands in for what no PNG holds.

    Where neither is there, that is the planned path.
    """
    tiff = path.with_suffix(".tif")
    stands_in = path.suffix == ".png" and not path.exists() and tiff.exists()
    return tiff if stands_in else path


def _plan(file: Path, out: Path, suffixes: Iterable[str], *, entropy: bool) -> Outputs:
    from medsaga import output_path

    return Outputs(
        image=file,
        mask=output_path(file, out),
        probabilities=tuple(output_path(file, out, suffix) for suffix in suffixes),
        entropy=output_path(file, out, "_entropy") if entropy else None,
    )


def _class_suffixes(names: Sequence[str]) -> list[str]:
    """Give ``_prob-NAME`` for each class, fit for file names and all different."""
    suffixes: list[str] = []
    for name in names:
        suffix = base = "_prob-" + re.sub(r"[^\w.-]+", "-", name).strip("-.")
        count = 1
        while suffix.casefold() in map(str.casefold, suffixes):
            count += 1
            suffix = f"{base}-{count}"
        suffixes.append(suffix)
    return suffixes


def _check_distinct(planned: Iterable[Outputs]) -> None:
    taken: dict[str, Path] = {}
    for outputs in planned:
        for path in outputs.paths:
            # Many file systems take both cases of a letter for the same.
            key = str(path.with_suffix(".tif") if path.suffix == ".png" else path)
            other = taken.setdefault(key.casefold(), outputs.image)
            if other is not outputs.image:
                raise MedsagaError(
                    f"{other} and {outputs.image} would both be written to "
                    f"{path}: segment them into different folders."
                )


def _check_no_image_replaced(planned: Iterable[Outputs], images: set[Path]) -> None:
    for outputs in planned:
        for path in outputs.paths:
            if path.resolve() in images:
                raise MedsagaError(
                    f"The output for {outputs.image} would replace the image {path}: "
                    "choose another folder for --out."
                )

"""Which files the segmentation of an image file writes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medsaga import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from medsaga import ModelCard, SegmentSettings


@dataclass(frozen=True, kw_only=True)
class FileTarget:
    """Where the results of image files go.

    Attributes
    ----------
    folder
        It is made where there is none.
    replaces
        Whether results that are there already are written again.
    """

    folder: Path
    replaces: bool = False


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The files that belong to one image; their names are those of ``medsaga segment``.

    Attributes
    ----------
    probabilities
        One for each class in the model's order, background first; empty if unwanted.
    entropy
        None if unwanted.
    mask
        Label values.
    """

    probabilities: tuple[Path, ...]
    entropy: Path | None
    mask: Path

    @property
    def paths(self) -> list[Path]:
        """All of them; the mask comes last, so that where it is, all are."""
        entropy = [] if self.entropy is None else [self.entropy]
        return [*self.probabilities, *entropy, self.mask]


@dataclass(eq=False, kw_only=True)
class OutputPlan:
    """Plans the outputs image by image, so that none replaces an image or another's.

    Attributes
    ----------
    target
        Where they go.
    images
        All the images, with their resolved paths.
    card
        Of the model: its classes name the probabilities.
    settings
        What is wanted beside the mask.
    """

    target: FileTarget
    images: Collection[Path]
    card: ModelCard
    settings: SegmentSettings
    _taken: dict[str, Path] = field(default_factory=dict)

    def outputs(self, image: Path) -> Outputs:
        """Give the outputs of an image.

        Raises
        ------
        MedsagaError
            If one of them would replace an image, or the output of another image.
        """
        from medsaga import output_path

        folder = self.target.folder
        names = self.card.classes.names if self.settings.probabilities else ()
        outputs = Outputs(
            probabilities=tuple(
                output_path(image, folder, suffix) for suffix in _suffixes(names)
            ),
            entropy=output_path(image, folder, "_entropy")
            if self.settings.entropy
            else None,
            mask=output_path(image, folder),
        )
        for path in outputs.paths:
            self._take(path, image)
        return outputs

    def wanted(self, outputs: Outputs) -> list[Path]:
        """Give those of an image's outputs that are to be written."""
        if self.target.replaces:
            return outputs.paths
        return [path for path in outputs.paths if not _exists(path)]

    def _take(self, path: Path, image: Path) -> None:
        if path.resolve() in self.images:
            raise MedsagaError(
                f"The result for {image.name} would replace the image {path}: choose "
                "another folder for the results."
            )
        # Many file systems take both cases of a letter for the same, and TIFF stands
        # in for what PNG cannot hold.
        stand_in = path.with_suffix(".tif") if path.suffix == ".png" else path
        other = self._taken.setdefault(str(stand_in).casefold(), image)
        if other != image:
            raise MedsagaError(
                f"{other} and {image} would both be written to {path}: segment them "
                "into different folders."
            )


def _exists(path: Path) -> bool:
    """Whether an output is there, be it as the TIFF that stands in for a PNG."""
    is_tiff = path.suffix == ".png" and path.with_suffix(".tif").exists()
    return is_tiff or path.exists()


def _suffixes(names: Sequence[str]) -> list[str]:
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

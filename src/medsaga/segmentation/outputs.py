"""Which files a segmentation writes, and that they replace no image or one another."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medsaga.data.folders import output_path
from medsaga.data.formats.catalogue import stand_in, stem
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from medsaga.models.card import ModelCard
    from medsaga.settings.segment import SegmentSettings

# Bytes, on all usual file systems.
_LONGEST_NAME = 255
_LONGEST_CLASS = 80


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
        """All files, in the order of :attr:`medsaga.Segmentation.volumes`.

        The mask comes last, so that where it is, all of them are.
        """
        entropy = [] if self.entropy is None else [self.entropy]
        return [*self.probabilities, *entropy, self.mask]

    @property
    def missing(self) -> list[Path]:
        """Those that are not there yet."""
        return [path for path in self.paths if not _is_written(path)]

    def actual(self) -> Outputs:
        """Give the same with the names that the files have got."""
        return replace(
            self,
            mask=actual_path(self.mask),
            probabilities=tuple(map(actual_path, self.probabilities)),
            entropy=None if self.entropy is None else actual_path(self.entropy),
        )


@dataclass(eq=False, kw_only=True)
class OutputNames:
    """Plans the outputs image by image, so that none replaces an image or another's.

    Attributes
    ----------
    folder
        Where they go. Where images of several folders have one name, as in
        ``patients/*/ct.nii.gz``, they keep the tree below the folder that all share.
    images
        All the images.
    card
        Of the model: its classes name the probabilities.
    settings
        What is wanted beside the mask.
    """

    folder: Path
    images: Collection[Path]
    card: ModelCard
    settings: SegmentSettings
    _taken: dict[str, Path] = field(default_factory=dict, init=False)

    def outputs(self, image: Path) -> Outputs:
        """Give the outputs of an image.

        Raises
        ------
        MedsagaError
            If one of them would replace an image, or the output of another image.
        """
        wanted = self.settings
        folder = self._folder_of(image)
        names = self.card.classes.names if wanted.probabilities else ()
        outputs = Outputs(
            image=image,
            mask=output_path(image, folder),
            probabilities=tuple(
                output_path(image, folder, suffix) for suffix in _class_suffixes(names)
            ),
            entropy=output_path(image, folder, "_entropy") if wanted.entropy else None,
        )
        for path in outputs.paths:
            self._take(path, image)
        return outputs

    def _folder_of(self, image: Path) -> Path:
        """Give the folder for an image's outputs: most of them lie side by side."""
        if self._shared is None:
            return self.folder
        return self.folder / _folder(image).relative_to(self._shared)

    @cached_property
    def _shared(self) -> Path | None:
        """The folder that all images share, where some have one name."""
        names = Counter(stem(image).casefold() for image in self.images)
        folders = {_folder(image) for image in self.images}
        if len(folders) < 2 or max(names.values()) < 2:
            return None
        try:
            return Path(os.path.commonpath(folders))
        except ValueError:  # two drives
            return None

    @cached_property
    def _resolved(self) -> set[Path]:
        return {image.resolve() for image in self.images}

    def _take(self, path: Path, image: Path) -> None:
        if len(os.fsencode(path.name)) > _LONGEST_NAME:
            raise MedsagaError(
                f"A result for {image} would have a name of more than {_LONGEST_NAME} "
                "bytes, which no file system takes: give the image a shorter one."
            )
        if path.resolve() in self._resolved:
            raise MedsagaError(
                f"The result for {image} would replace the image {path}: choose "
                "another folder for the results."
            )
        # Many file systems take both cases of a letter for the same.
        other = self._taken.setdefault(str(stand_in(path)).casefold(), image)
        if other != image:
            raise MedsagaError(
                f"{other} and {image} would both be written to {path}: segment them "
                "into different folders."
            )


def _folder(image: Path) -> Path:
    # Without ``..``, by which results would leave the folder for them; not resolved, as
    # a link's target has another name and place.
    return Path(os.path.abspath(image)).parent


def _is_written(path: Path) -> bool:
    """Whether an output is there; an empty file is what another program left."""
    found = actual_path(path)
    return found.exists() and found.stat().st_size > 0


def actual_path(path: Path) -> Path:
    """Give the path that an output has got: TIFF stands in for what no PNG holds.

    Where neither is there, that is the planned path.
    """
    instead = stand_in(path)
    return instead if instead.exists() and not path.exists() else path


def _class_suffixes(names: Sequence[str]) -> list[str]:
    """Give ``_prob-NAME`` for each class, fit for file names and all different."""
    suffixes: list[str] = []
    for name in names:
        safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")
        # File systems count bytes, of which a name of the image is to have some too.
        safe = safe.encode()[:_LONGEST_CLASS].decode(errors="ignore")
        suffix = base = f"_prob-{safe}"
        count = 1
        while suffix.casefold() in map(str.casefold, suffixes):
            count += 1
            suffix = f"{base}-{count}"
        suffixes.append(suffix)
    return suffixes

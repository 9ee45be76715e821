"""The formats of image files: one row each.

Another one takes a module that reads or writes it, and a row here. Importing this
imports no reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from pathlib import Path

    from medsaga.data.volume import Volume

_PACKAGE = "medsaga.data.formats"
_NIBABEL, _PICTURES = f"{_PACKAGE}.nifti", f"{_PACKAGE}.images"


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format of image files.

    Attributes
    ----------
    name
        What people call it.
    endings
        Of its files, in lower case; those of several parts come first.
    reader
        ``module:function`` from a path, and whether it is to give labels, to a volume.
        What the module imports at its top is what the `extra` brings.
    writer
        ``module:function`` of a volume, a path, and whether these are labels, which
        gives the path that was written; None where it is only read.
    blurs
        Whether its compression changes values, so that it cannot hold labels.
    mask_ending
        Of the mask of such an image; None for the image's own.
    partner
        Where an image is in two files: how the ending of the one with the voxels
        begins.
    opens_in_viewer
        Whether napari is to open it by this reader rather than by its own.
    extra
        The extra of this distribution that brings its reader; None where none is
        needed.
    """

    name: str
    endings: tuple[str, ...]
    reader: str
    writer: str | None = None
    blurs: bool = False
    mask_ending: str | None = None
    partner: str | None = None
    opens_in_viewer: bool = False
    extra: str | None = None

    def read(self, path: Path, *, as_labels: bool) -> Volume:
        """Read a file as it is stored: NaN and types too.

        Raises
        ------
        MedsagaError
            If it is broken, holds more than one image, or the package that reads it is
            not installed.
        """
        try:
            read = resolve_name(self.reader)
        except ImportError as error:
            if self.extra is None:
                raise
            raise MedsagaError(
                f"{path.name} is a {self.name} file, which takes a package that is not "
                f'installed: run pip install "napari-medsaga[{self.extra}]".'
            ) from error
        volume: Volume = read(path, as_labels=as_labels)
        return volume

    def write(self, volume: Volume, path: Path, *, is_labels: bool) -> Path:
        """Write a file atomically, and give the path that it got.

        Raises
        ------
        MedsagaError
            If the format does not hold such a volume, or the disk refuses.
        """
        assert self.writer is not None
        written: Path = resolve_name(self.writer)(volume, path, is_labels=is_labels)
        return written


def _volume(
    name: str, *endings: str, partner: str | None = None, opens: bool = False
) -> Format:
    return Format(
        name=name,
        endings=endings,
        reader=f"{_NIBABEL}:read_nifti",
        mask_ending=".nii.gz",
        partner=partner,
        opens_in_viewer=opens,
    )


def _picture(
    name: str, *endings: str, is_written: bool = False, blurs: bool = False
) -> Format:
    return Format(
        name=name,
        endings=endings,
        reader=f"{_PICTURES}:read_image",
        writer=f"{_PICTURES}:write_image" if is_written else None,
        blurs=blurs,
        mask_ending=".png",
    )


FORMATS: tuple[Format, ...] = (
    Format(
        name="NIfTI",
        endings=(".nii.gz", ".nii"),
        reader=f"{_NIBABEL}:read_nifti",
        writer=f"{_NIBABEL}:write_nifti",
        opens_in_viewer=True,
    ),
    _volume("NIfTI", ".nii.bz2"),
    _volume("MGH", ".mgz", ".mgh", opens=True),
    _volume("MINC", ".mnc.gz", ".mnc"),
    _volume("AFNI", ".brik.gz", ".brik"),
    _volume("AFNI", ".head", partner=".brik"),
    _volume("NIfTI", ".img.gz", ".img"),
    _volume("NIfTI", ".hdr.gz", partner=".img.gz"),
    _volume("NIfTI", ".hdr", partner=".img"),
    Format(
        name="TIFF",
        endings=(".ome.tiff", ".ome.tif", ".tiff", ".tif"),
        reader=f"{_PICTURES}:read_image",
        writer=f"{_PICTURES}:write_image",
        mask_ending=".tif",
    ),
    _picture("PNG", ".png", is_written=True),
    _picture("JPEG", ".jpeg", ".jpg", blurs=True),
    _picture("BMP", ".bmp"),
    _picture("GIF", ".gif"),
    _picture("WebP", ".webp"),
    _picture("PNM", ".pgm", ".ppm", ".pnm"),
    _picture("JPEG 2000", ".jp2"),
    Format(
        name="NumPy",
        endings=(".npy",),
        reader=f"{_PICTURES}:read_image",
        writer=f"{_PICTURES}:write_image",
    ),
)
"""Every format."""

FALLBACK = next(kind for kind in FORMATS if kind.name == "PNG")
"""For files of other names: a picture is known by its content."""

# Endings of several parts come first, so that `ct.nii.gz` is `ct`, not `ct.nii`.
_BY_ENDING = dict(
    sorted(
        ((ending, kind) for kind in FORMATS for ending in kind.endings),
        key=lambda row: -len(row[0]),
    )
)


def format_of(path: Path) -> Format | None:
    """Tell the format of a file by its name; None of an unknown one."""
    return _BY_ENDING.get(ending(path))


def ending(path: Path) -> str:
    """Give the ending of an image file in lower case; of others what follows a dot."""
    name = path.name.lower()
    return next((e for e in _BY_ENDING if name.endswith(e)), path.suffix.lower())


def stem(path: Path) -> str:
    """Give a file's name without its endings: ``ct`` for ``ct.nii.gz``."""
    return path.name[: len(path.name) - len(ending(path))]


def stand_in(path: Path) -> Path:
    """Give the TIFF that stands in where a PNG could not hold what is to be written."""
    return path.with_suffix(".tif") if path.suffix.lower() == ".png" else path


def format_names() -> str:
    """List what people call the formats, each once."""
    return ", ".join(dict.fromkeys(kind.name for kind in FORMATS))


def viewer_endings() -> tuple[str, ...]:
    """Give the endings of the files that napari is to open by our readers."""
    return tuple(e for kind in FORMATS if kind.opens_in_viewer for e in kind.endings)

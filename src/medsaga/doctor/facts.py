"""What there is to know of an installation and a computer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from medsaga.network.backbones.weight_files import WeightFile

PROJECT = "napari-medsaga"
QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder in which things are kept.

    Attributes
    ----------
    title
        What is kept there.
    path
        The folder, which may not be there yet.
    free_bytes
        Free on its disk.
    is_writable
        Whether it can be written to, or made.
    variable
        Of the environment, that names another folder.
    """

    title: str
    path: Path
    free_bytes: int
    is_writable: bool
    variable: str


@dataclass(frozen=True, kw_only=True)
class Need:
    """A distribution that napari-medsaga asks for.

    Attributes
    ----------
    name
        Of the distribution.
    wanted
        Which versions do, such as ``>=2.6``; may be empty.
    found
        The version that is installed, or None.
    is_met
        Whether that one does.
    """

    name: str
    wanted: str
    found: str | None
    is_met: bool


@dataclass(frozen=True, kw_only=True)
class Torch:
    """What PyTorch finds on this computer.

    Attributes
    ----------
    cpu
        The widest arithmetic of the CPU that it uses, such as AVX512.
    cuda
        Version of CUDA that it is built with; None of a build without.
    gpus
        Name, free and total bytes of each GPU that it can use.
    own_threads, threads
        What it takes of itself, and what a training has it take.
    """

    cpu: str
    cuda: str | None
    gpus: tuple[tuple[str, int, int], ...]
    own_threads: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What :func:`examine` has found out; what it could not is in `unknown`.

    Attributes
    ----------
    python, system
        The version of Python, and the operating system.
    versions
        Of the distributions that matter here; None of one that is not installed.
    needs
        What napari-medsaga asks for, by its metadata.
    torch
        None where it cannot be imported.
    sees_nvidia
        Whether the system has a GPU of NVIDIA's, whatever torch says.
    free_memory, total_memory
        Bytes; None where unknown.
    variables
        Of the environment, those that set threads.
    weights
        Read through, by their SHA-256.
    places
        Where things are kept; the models come first.
    interrupted
        The trainings that could go on, in a sentence each, without its stop.
    unknown
        Why something could not be found out, by what it is.
    """

    python: str
    system: str
    versions: Mapping[str, str | None]
    needs: tuple[Need, ...] = ()
    torch: Torch | None = None
    sees_nvidia: bool = False
    free_memory: int | None = None
    total_memory: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    weights: tuple[WeightFile, ...] = ()
    places: tuple[Place, ...] = ()
    interrupted: tuple[str, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)

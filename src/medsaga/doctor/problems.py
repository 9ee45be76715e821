"""What is wrong with an installation or its computer, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsaga.doctor.facts import PROJECT, QT_BINDINGS
from medsaga.settings.fine_tune import FineTuneSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medsaga.doctor.facts import Facts

_GB = 1e9
_MEMORY_WANTED = 2e9
_DISK_WANTED = 1e9


def problems(facts: Facts) -> list[str]:
    """Say what is wrong and what to do, in a sentence each; nothing if all is well.

    Parameters
    ----------
    facts
        What :func:`medsaga.frontend.examine` has found out.
    """
    return [
        *_of_versions(facts),
        *_of_torch(facts),
        *_of_memory_and_disk(facts),
        *_of_weights(facts),
    ]


def notes(facts: Facts) -> list[str]:
    """Say what not everybody needs and is missing, or waits, in a sentence each."""
    return [*_of_window(facts), *_of_interrupted(facts)]


def _of_window(facts: Facts) -> Iterator[str]:
    if facts.versions.get("napari") is None:
        yield (
            "napari is not installed, which the engine and the command line do "
            f'without: for the docks run pip install "{PROJECT}[all]".'
        )
    elif not any(facts.versions.get(name) for name in QT_BINDINGS):
        yield (
            "No Qt binding is installed, so napari opens no window: run pip install "
            '"napari[all]".'
        )


def _of_interrupted(facts: Facts) -> Iterator[str]:
    for sentence in facts.interrupted:
        yield (
            f"{sentence}: run medsaga finetune --resume or click Continue in the "
            "Fine-tune dock, or delete that folder."
        )


def _of_versions(facts: Facts) -> Iterator[str]:
    if facts.versions.get("PySide6") == "6.12.0" and facts.python.startswith("3.11."):
        yield (
            "PySide6 6.12.0 miscounts references to None on Python 3.11, which ends in "
            'a crash after a while: run pip install "PySide6!=6.12.0", or take another '
            "version of Python."
        )
    for need in facts.needs:
        if not need.is_met:
            found = "not installed" if need.found is None else f"at {need.found}"
            wanted = f"{need.name}{need.wanted}"
            yield (
                f"{need.name} is {found}, and {wanted} is needed: run pip install "
                f'"{wanted}".'
            )


def _of_torch(facts: Facts) -> Iterator[str]:
    torch = facts.torch
    if torch is None:
        reason = facts.unknown.get("PyTorch", "not looked at")
        yield (
            f"PyTorch cannot be imported ({reason}): run pip install --force-reinstall "
            "torch torchvision."
        )
    elif facts.sees_nvidia and torch.cuda is None:
        yield (
            "There is an NVIDIA GPU, and this PyTorch is a build without CUDA: install "
            "its CUDA build, see https://pytorch.org/get-started/locally/."
        )
    elif facts.sees_nvidia and not torch.gpus:
        yield (
            f"There is an NVIDIA GPU, which PyTorch (CUDA {torch.cuda}) cannot use: "
            "update its driver, and look at what nvidia-smi and the environment "
            "variable CUDA_VISIBLE_DEVICES say."
        )


def _of_memory_and_disk(facts: Facts) -> Iterator[str]:
    free = facts.free_memory
    if free is not None and free < _MEMORY_WANTED:
        yield (
            f"Only {free / _GB:.1f} GB of memory are free, in which a training may "
            "fail: close other programs before one."
        )
    for place in facts.places:
        if not place.is_writable:
            yield (
                f"{place.path} cannot be written to ({place.title.lower()} are kept "
                "there): ask for the permission, or name another folder in the "
                f"environment variable {place.variable}."
            )
    library = next(iter(facts.places), None)
    if library is not None and library.free_bytes < _DISK_WANTED:
        yield (
            f"Only {library.free_bytes / _GB:.1f} GB are free at {library.path}, where "
            "models are kept: make room there, or name another folder in the "
            "environment variable MEDSAGA_MODELS."
        )


def _of_weights(facts: Facts) -> Iterator[str]:
    """Those of the default have to be here, and the others whole if they are."""
    default = FineTuneSettings().backbone
    for file in facts.weights:
        is_wanted = file.name == default or file.state == "damaged"
        if is_wanted and file.problem is not None:
            yield file.problem
    for title, reason in facts.unknown.items():
        if title.startswith("Weights"):
            yield reason

"""Finds out what is installed, what computes here, and where things are kept."""

from __future__ import annotations

import os
import platform
import shutil
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from medsaga.doctor.facts import (
    PROJECT,
    QT_BINDINGS,
    Facts,
    Need,
    Place,
    Torch,
)
from medsaga.events import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from medsaga.events import Stream
    from medsaga.network.backbones.weight_files import WeightFile

T = TypeVar("T")
Memory: TypeAlias = tuple[int | None, int | None]

_LIBRARIES = (
    PROJECT,
    "torch",
    "torchvision",
    "timm",
    "monai",
    "segment-anything",
    "galore-torch",
    "nibabel",
    "numpy",
    "napari",
    *QT_BINDINGS,
)
_NO_MEMORY: Memory = (None, None)
_THREAD_VARIABLES = ("OMP_", "KMP_", "MKL_", "OPENBLAS_", "GOMP_", "TORCH_")


def examine(
    *,
    find_version: Callable[[str], str] = version,
    environment: Mapping[str, str] = os.environ,
) -> Stream[Facts]:
    """Find out what there is to know of this installation and computer.

    Takes seconds: torch is imported, and all weights are read through. Never fails.

    Parameters
    ----------
    find_version
        Gives the version of a distribution, or raises PackageNotFoundError.
    environment
        The variables of the environment.
    """
    ask = _Questions()
    torch = ask("PyTorch", _look_at_torch, None)
    memory = ask("Memory", _look_at_memory, _NO_MEMORY)
    weights = yield from _verify(ask)
    return Facts(
        python=platform.python_version(),
        system=ask("System", platform.platform, ""),
        versions={
            name: ask(name, partial(_version, name, find_version), None)
            for name in _LIBRARIES
        },
        needs=ask("Requirements", lambda: tuple(_needs(find_version)), ()),
        torch=torch,
        sees_nvidia=ask("NVIDIA", _sees_nvidia, False),
        free_memory=memory[0],
        total_memory=memory[1],
        variables={
            name: value
            for name, value in sorted(environment.items())
            if name.startswith(_THREAD_VARIABLES)
        },
        weights=weights,
        places=ask("Places", lambda: tuple(_look_at(*p) for p in _places()), ()),
        interrupted=ask("Interrupted trainings", _interrupted, ()),
        unknown=ask.unknown,
    )


class _Questions:
    """Answers that cost nothing where they fail, but a reason."""

    def __init__(self) -> None:
        self.unknown: dict[str, str] = {}

    def __call__(self, title: str, answer: Callable[[], T], otherwise: T) -> T:
        try:
            return answer()
        except Exception as error:  # noqa: BLE001 - a broken library raises anything
            self.unknown[title] = f"{type(error).__name__}: {error}"
            return otherwise


def _places() -> list[tuple[str, Path, str]]:
    """Give the folders in which things are kept, the models' first."""
    from medsaga.models.library import ModelLibrary
    from medsaga.network.backbones.checkpoints import weights_folder
    from medsaga.training.resuming.folders import state_folder

    return [
        ("Models", ModelLibrary().folder, "MEDSAGA_MODELS"),
        ("Weights", weights_folder(), "MEDSAGA_WEIGHTS"),
        ("Interrupted trainings", state_folder(), "MEDSAGA_STATE"),
    ]


def _interrupted() -> tuple[str, ...]:
    from medsaga.training.resuming.interrupted import (
        interrupted_trainings,
        unreadable_trainings,
    )

    return (
        *(f"{one.describe()} ({one.folder})" for one in interrupted_trainings()),
        *(
            f"What an interrupted training left cannot be read ({folder})"
            for folder in unreadable_trainings()
        ),
    )


def _look_at(title: str, path: Path, variable: str) -> Place:
    existing = path.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return Place(
        title=title,
        path=path,
        variable=variable,
        free_bytes=shutil.disk_usage(existing).free,
        is_writable=existing.is_dir() and os.access(existing, os.W_OK | os.X_OK),
    )


def _version(name: str, find_version: Callable[[str], str]) -> str | None:
    try:
        return find_version(name)
    except PackageNotFoundError:
        return None


def _needs(find_version: Callable[[str], str]) -> Iterator[Need]:
    """Give what applies here, of what is asked for without any extra."""
    from packaging.requirements import Requirement

    for text in requires(PROJECT) or ():
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            found = _version(wanted.name, find_version)
            yield Need(
                name=wanted.name,
                wanted=str(wanted.specifier),
                found=found,
                is_met=found is not None
                and wanted.specifier.contains(found, prereleases=True),
            )


def _look_at_torch() -> Torch:
    import torch

    from medsaga.computing import thread_count

    cuda = torch.cuda
    numbers = range(cuda.device_count() if cuda.is_available() else 0)
    return Torch(
        cpu=torch.backends.cpu.get_cpu_capability(),
        cuda=torch.version.cuda,
        gpus=tuple((cuda.get_device_name(n), *cuda.mem_get_info(n)) for n in numbers),
        own_threads=torch.get_num_threads(),
        threads=thread_count(),
    )


def _sees_nvidia() -> bool:
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def _look_at_memory() -> Memory:
    import psutil

    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)


def _verify(ask: _Questions) -> Stream[tuple[WeightFile, ...]]:
    """Read each file of weights through; one that cannot be read costs no other."""
    from medsaga.network.backbones.weight_files import verify_weights, weight_files

    verified: list[WeightFile] = []
    relay = Relay()
    files: list[WeightFile] = ask("Weights", weight_files, [])
    for file in files:
        try:
            verified += yield from relay(verify_weights([file.name]))
        except Exception as error:  # noqa: BLE001 - a disk raises anything
            ask.unknown[f"Weights of {file.name}"] = str(error)
        if relay.is_stopped:
            break
    return tuple(verified)

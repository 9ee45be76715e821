"""The files with pretrained weights: which are here, fetched, put in, checked."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medsaga.errors import MedsagaError
from medsaga.events import Relay
from medsaga.network.backbones.catalogue import offered_backbones
from medsaga.network.backbones.checkpoints import OfficialCheckpoint
from medsaga.network.backbones.fetching import fetch
from medsaga.network.backbones.file_work import (
    alone_with,
    check_room,
    disk_explained,
    hidden,
    in_thread,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from medsaga.events import Stream
    from medsaga.network.backbones.checkpoints import Checkpoint
    from medsaga.network.backbones.file_work import Report

_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """The pretrained weights of one backbone, and whether they are here.

    Attributes
    ----------
    name, title
        Of the backbone, for settings and for people.
    state
        "here", "missing", or "damaged": of other contents than they should have.
    path
        Where they are; None if they are missing.
    problem
        What is wrong and what to do, in one sentence; None if they are here.
    n_bytes, sha256
        Of the file as it should be.
    licence
        That they are given away under.
    url
        Where they are fetched from; None of those that come with the installation.
    """

    name: str
    title: str
    state: Literal["here", "missing", "damaged"]
    path: Path | None
    problem: str | None
    n_bytes: int
    sha256: str
    licence: str
    url: str | None


def weight_files() -> list[WeightFile]:
    """List the weights of all backbones, looked for by name and size only."""
    return [
        _describe(name, checkpoint, checkpoint.missing())
        for name, checkpoint in _checkpoints().items()
    ]


def verify_weights(names: Iterable[str] = ()) -> Stream[list[WeightFile]]:
    """Read weights through, and say which have the SHA-256 that they should have.

    Parameters
    ----------
    names
        Of backbones; all by default.

    Returns
    -------
    list of WeightFile
        Those that were read before it was stopped, and those that are missing.

    Raises
    ------
    MedsagaError
        If there is no backbone of a name, or a file cannot be read.
    """
    checkpoints, relay = _checkpoints(), Relay()
    verified: list[WeightFile] = []
    for name in [_known(name) for name in names] or list(checkpoints):
        checkpoint = checkpoints[name]
        problem = yield from relay(in_thread(partial(_verify, checkpoint), name))
        if problem is not None:
            verified.append(_describe(name, checkpoint, problem or None))
        if relay.is_stopped:
            break
    return verified


def fetch_weights(name: str) -> Stream[Path | None]:
    """Fetch the official weights of a backbone, unless they are here.

    They go into the folder that the environment variable MEDSAGA_WEIGHTS names, else
    into the user's cache folder.

    Parameters
    ----------
    name
        Of a backbone.

    Returns
    -------
    Path or None
        The file; None if it was stopped. What has come by then, or by an error, is
        kept, and a later call goes on from there.

    Raises
    ------
    MedsagaError
        If there is no such backbone, or they cannot be fetched.
    """
    checkpoint, relay = _checkpoints()[_known(name)], Relay()
    problem = yield from relay(in_thread(partial(_verify, checkpoint), name))
    if problem == "":
        return checkpoint.look()
    if problem is None or relay.is_stopped:
        return None
    if not isinstance(checkpoint, OfficialCheckpoint):
        raise MedsagaError(problem)
    return (yield from fetch(checkpoint))


def import_weights(file: Path | str) -> Stream[Path | None]:
    """Copy a file of official weights, by whatever name, to where it is looked for.

    Parameters
    ----------
    file
        Is left as it is.

    Returns
    -------
    Path or None
        Where it is now; None if it was stopped before.

    Raises
    ------
    MedsagaError
        If it is none of the official files, by its SHA-256, or the disk refuses.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise MedsagaError(f"There is no file {file}: check the name.")
    official = [c for c in _checkpoints().values() if isinstance(c, OfficialCheckpoint)]
    n_bytes = file.stat().st_size
    for checkpoint in official:
        if checkpoint.n_bytes == n_bytes:
            copy = partial(_copy, file, checkpoint)
            return (yield from in_thread(copy, checkpoint.name))
    for checkpoint in official:
        if checkpoint.file_name == file.name:
            raise MedsagaError(
                f"{file} is not the official file of that name, it has {n_bytes:,} "
                f"bytes and not {checkpoint.n_bytes:,}: fetch {checkpoint.url} again."
            )
    raise _not_official(file)


def _checkpoints() -> dict[str, Checkpoint]:
    kinds = offered_backbones()
    return {k.name: k.checkpoint for k in kinds if k.checkpoint is not None}


def _known(name: str) -> str:
    names = _checkpoints()
    if name not in names:
        raise MedsagaError(
            f"There is no backbone {name!r} with weights: choose {', '.join(names)}."
        )
    return name


def _describe(name: str, checkpoint: Checkpoint, problem: str | None) -> WeightFile:
    path = checkpoint.look()
    title = next(kind.title for kind in offered_backbones() if kind.name == name)
    return WeightFile(
        name=name,
        title=title,
        state="missing" if path is None else "damaged" if problem else "here",
        path=path,
        problem=problem,
        n_bytes=checkpoint.n_bytes,
        sha256=checkpoint.sha256,
        licence=checkpoint.licence,
        url=checkpoint.url if isinstance(checkpoint, OfficialCheckpoint) else None,
    )


def _verify(checkpoint: Checkpoint, report: Report) -> str:
    """Say what is wrong with a file, or nothing."""
    path = checkpoint.look()
    if path is None:
        return checkpoint.how_to_get
    report.begin("Checking", checkpoint.n_bytes)
    with _reading(path):
        is_whole = checkpoint.is_whole(path, report.add)
    return "" if is_whole else checkpoint.damaged(path)


def _copy(file: Path, checkpoint: OfficialCheckpoint, report: Report) -> Path:
    """Copy a file and check the copy, which has its name only then."""
    target = checkpoint.target
    with alone_with(target, report):
        if not (target.exists() and target.samefile(file)):
            check_room(target, checkpoint.n_bytes)
            copy = hidden(target, "import")
            try:
                _copy_pieces(file, copy, report)
                _check(checkpoint, copy, report, called=file)
                with disk_explained(target):
                    os.replace(copy, target)
            finally:
                copy.unlink(missing_ok=True)
            hidden(target, "part").unlink(missing_ok=True)
        else:
            _check(checkpoint, target, report, called=file)
    return target


def _copy_pieces(file: Path, copy: Path, report: Report) -> None:
    report.begin("Copying", file.stat().st_size)
    with (
        _reading(file),
        file.open("rb") as source,
        disk_explained(copy),
        copy.open("wb") as target,
    ):
        while piece := source.read(_PIECE):
            report.add(len(piece))
            target.write(piece)
        target.flush()
        os.fsync(target.fileno())


def _check(
    checkpoint: OfficialCheckpoint, path: Path, report: Report, *, called: Path
) -> None:
    report.begin("Checking", checkpoint.n_bytes)
    if not checkpoint.is_whole(path, report.add):
        raise _not_official(called)


def _not_official(file: Path) -> MedsagaError:
    checkpoints = _checkpoints().values()
    names = [c.file_name for c in checkpoints if isinstance(c, OfficialCheckpoint)]
    return MedsagaError(
        f"{file} is none of the official files ({', '.join(names)}) by its SHA-256, "
        "and is not imported: other weights in Segment Anything's format, such as "
        f"MedSAM's or micro-sam's, are used by their path, as --backbone {file} or "
        "under Start from in the Fine-tune dock, and their architecture is told by "
        "their tensors."
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MedsagaError(
            f"{path} cannot be read ({error.strerror or error}): ask for the "
            "permission to, or get the file again."
        ) from error

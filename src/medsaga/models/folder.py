"""A trained model as a folder: `weights.safetensors` and `card.json`."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EEXIST
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from medsaga.data.formats.atomic import check_room, flush, temporary_folder
from medsaga.data.formats.leftovers import REPLACED
from medsaga.data.samples import whole_slices
from medsaga.errors import MedsagaError
from medsaga.models.card import CARD, WEIGHTS, ModelCard
from medsaga.models.kept_slices import KEPT_SLICES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from medsaga.data.identity import SliceId
    from medsaga.data.samples import Sample
    from medsaga.network.medsaga import MedSAGa

_CARD_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network with its card. What :func:`medsaga.fine_tune` returns.

    Attributes
    ----------
    network, card
        What it is made of.
    samples
        The slices that trained it or were held out; none of a model that was read from
        a folder.
    kept_paint
        Of a model that was read from a folder: what :attr:`paint` is, of the slices
        that are kept there.
    """

    network: MedSAGa
    card: ModelCard
    samples: Sequence[Sample] = ()
    kept_paint: Mapping[SliceId, NDArray[Any]] = field(default_factory=dict)

    @property
    def paint(self) -> Mapping[SliceId, NDArray[Any]]:
        """(rows, columns) label values of its slices of which every pixel is known."""
        return whole_slices(self.samples) or self.kept_paint


def save_model(model: TrainedModel, folder: Path | str) -> Path:
    """Write a model folder, whole or not at all, and return its path.

    An existing model folder of that name is replaced.

    Raises
    ------
    MedsagaError
        If something else than a model folder is in the way, or the disk refuses.
    """
    return write_model(model, folder, lambda _: True)


def write_model(
    model: TrainedModel, folder: Path | str, may_replace: Callable[[Path], bool]
) -> Path:
    """Write a model folder as :func:`save_model` does, with a last look at what goes.

    Parameters
    ----------
    model
        What is written.
    folder
        Where to.
    may_replace
        Asked of the model folder that is there, once nobody can reach it any more;
        where it says no, that one stays.

    Raises
    ------
    MedsagaError
        If it stays, something else than a model folder is in the way, or the disk
        refuses.
    """
    folder = check_model_target(folder)
    check_room(folder.parent, stored_bytes(model.network), "The model")
    weights = {name: _compact(t) for name, t in model.network.state_dict().items()}
    card = model.card.to_json()
    _check_readable(card, weights)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder.parent) as staging:
            save_file(weights, staging / WEIGHTS)
            (staging / CARD).write_text(card, encoding="utf-8")
            # safetensors makes it private: others may read the library.
            (staging / WEIGHTS).chmod(0o666 & ~_umask())
            for name in (WEIGHTS, CARD):
                flush(staging / name)
            _move(staging, folder, may_replace)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MedsagaError(
            f"The model could not be written to {folder} ({reason}): "
            "choose a folder that can be written to."
        ) from error
    return folder


def check_model_target(folder: Path | str) -> Path:
    """Return the path to save a model to, if nothing else is in the way.

    Raises
    ------
    MedsagaError
        If a file, or a folder that is no model or holds something beside it, has that
        name.
    """
    folder = Path(folder).expanduser().absolute()
    is_free = not folder.exists() or (
        folder.is_dir() and ((folder / CARD).is_file() or not any(folder.iterdir()))
    )
    if not is_free:
        raise MedsagaError(
            f"{folder} exists and is no model folder: choose another name."
        )
    others = sorted(p.name for p in folder.glob("*") if not _is_of_model(p.name))
    if others:
        raise MedsagaError(
            f"{folder} holds {others[0]} beside the model that would be replaced: move "
            "it elsewhere, or choose another name."
        )
    return folder


def _check_readable(card: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise MedsagaError if what is to be written would not be read again."""
    ModelCard.from_json(card, subject="The card of the new model")
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise MedsagaError(
                f"The weights of the new model are not finite, in {name}: train it "
                "anew, with lower learning rates."
            )


def stored_bytes(network: MedSAGa) -> int:
    """Give the bytes that the folder of a network takes, in fp16."""
    n_numbers: int = sum(t.numel() for t in network.state_dict().values())
    return _CARD_BYTES + 2 * n_numbers


def _is_of_model(name: str) -> bool:
    """Whether a file belongs to a model, or to what shows folders to people."""
    is_hidden = name.startswith(".") or name in ("Thumbs.db", "desktop.ini")
    return is_hidden or name in (CARD, WEIGHTS, KEPT_SLICES)


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """Give a tensor in fp16 where its values survive that, else as it is."""
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if torch.isfinite(half).all() else tensor


def _move(staging: Path, folder: Path, may_replace: Callable[[Path], bool]) -> None:
    """Put `staging` in the place of `folder`; on failure the old one stays."""
    with suppress(OSError):
        folder.rmdir()  # an empty one; Windows would take it for an obstacle
    if not folder.exists():
        staging.rename(folder)
        return
    with temporary_folder(folder.parent) as holder:
        # Killed between the two, the next start puts the old one back from here.
        old = holder / REPLACED / folder.name
        old.parent.mkdir()
        os.replace(folder, old)
        try:
            if not may_replace(old):
                raise FileExistsError(EEXIST, "another model has just come there")
            os.replace(staging, folder)
        except BaseException:  # a second Ctrl-C too
            os.replace(old, folder)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""The library: one folder that holds the trained models, a folder each.

Importing it, and listing the models, imports no torch.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_data_path
from safetensors import SafetensorError

from medsaga.data.formats.atomic import temporary_folder
from medsaga.errors import MedsagaError
from medsaga.metrics import mean
from medsaga.models.archive import check_model, pack, take
from medsaga.models.card import CARD, ModelCard, load_card
from medsaga.models.names import name_key, safe_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medsaga.models.folder import TrainedModel


@dataclass(frozen=True, kw_only=True)
class LibraryEntry:
    """One model of a library.

    Attributes
    ----------
    path
        The model folder.
    name
        The folder's name.
    card
        None if it cannot be read.
    problem
        Why the card cannot be read, in one sentence; else None.
    """

    path: Path
    name: str
    card: ModelCard | None
    problem: str | None = None

    @property
    def created(self) -> datetime | None:
        """When the model was trained, with its time zone; None without a card."""
        return None if self.card is None else self.card.created_at

    @property
    def n_images(self) -> int:
        """Number of images whose slices trained the model or were held out."""
        if self.card is None:
            return 0
        slices = [*self.card.training_slices, *self.card.held_out_slices]
        return len({one.image for one in slices})

    @property
    def mean_dice(self) -> float:
        """Mean of the card's Dice over the classes; NaN without any."""
        return mean(() if self.card is None else self.card.metrics["dice"].values())


class ModelLibrary:
    """The trained models in one folder.

    Parameters
    ----------
    folder
        Where the models are. By default what the environment variable MEDSAGA_MODELS
        says, else ``models`` in the user's folder for the data of programs. It is
        made when the first model comes in.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        folder = folder or os.environ.get("MEDSAGA_MODELS") or _default_folder()
        self._folder = Path(folder).expanduser().absolute()

    @property
    def folder(self) -> Path:
        """The folder that holds the models."""
        return self._folder

    def entries(self) -> list[LibraryEntry]:
        """List the models, the newest first and those without a readable card last.

        Raises
        ------
        MedsagaError
            If the folder cannot be read.
        """
        with _explained(
            f"The models in {self.folder} cannot be listed",
            "check that the folder can be read",
        ):
            folders = [
                path
                for path in (self.folder.iterdir() if self.folder.exists() else ())
                if not path.name.startswith(".") and os.path.lexists(path / CARD)
            ]
        entries = sorted(map(_read_entry, folders), key=lambda e: e.name.casefold())
        oldest = datetime.min.replace(tzinfo=UTC)
        return sorted(entries, key=lambda e: e.created or oldest, reverse=True)

    def add(self, model: TrainedModel, name: str) -> Path:
        """Save a model under a name of its own and return its folder.

        A name that is taken gets a number; no model is ever replaced. The slices that
        trained it are kept with it, for a training that goes on from it.

        Raises
        ------
        MedsagaError
            If the disk refuses.
        """
        from medsaga.models.folder import save_model
        from medsaga.models.kept_slices import save_slices

        with self._staging("The model could not be saved") as staging:
            try:
                save_model(model, staging / "model")
                if model.samples:
                    save_slices(model.samples, staging / "model")
            except MedsagaError as error:
                # Its sentence names the staging folder, which the user never chose.
                raise error.__cause__ or error from None
            return self._move_in(staging / "model", name)

    def rename(self, entry_path: Path | str, name: str) -> Path:
        """Rename a model and return its new folder.

        Raises
        ------
        MedsagaError
            If the name is empty or taken, or it is no model of this library.
        """
        path = self._own(entry_path)
        safe = safe_name(name)
        if not safe:
            raise MedsagaError(
                "A model needs a name: give one with at least one letter or digit."
            )
        if safe == path.name:
            return path
        if name_key(safe) in self._taken() - {name_key(path.name)}:
            raise MedsagaError(f"There is a model {safe!r}: choose another name.")
        with _explained(
            f"The model {path.name!r} could not be renamed",
            "close the programs that use it and try again",
        ):
            return path.rename(self.folder / safe)

    def delete(self, path: Path | str) -> None:
        """Delete a model folder of this library.

        Raises
        ------
        MedsagaError
            If it is no model of this library, or the disk refuses.
        """
        path = self._own(path)
        if path.is_symlink():
            raise MedsagaError(
                f"{path} is a link to a folder elsewhere: remove it by hand."
            )
        with (
            _explained(
                f"The model {path.name!r} could not be deleted",
                "close the programs that use it and try again",
            ),
            temporary_folder(self.folder) as holder,
        ):
            # Windows refuses the move while a file in it is open: nothing is lost then.
            doomed = path.rename(holder / "model")
            try:
                shutil.rmtree(doomed)
            except OSError:
                doomed.rename(path)
                raise

    def export(self, path: Path | str, target_zip: Path | str) -> Path:
        """Write a model to a zip file, whole or not at all, and return its path.

        It holds the card and the weights in one folder with the model's name. They are
        not compressed, as weights hardly can be. A file of that name is replaced.

        Raises
        ------
        MedsagaError
            If it is no model of this library, is damaged, or the disk refuses.
        """
        path = self._own(path)
        check_model(path)
        target = Path(target_zip).expanduser().absolute()
        with (
            _explained(f"{target} could not be written", "choose another place"),
            temporary_folder(target.parent) as staging,
        ):
            pack(path, staging / "model.zip")
            os.replace(staging / "model.zip", target)
        return target

    def import_model(self, source: Path | str) -> Path:
        """Copy a model from a zip file or a model folder, and return its folder.

        Only the card and the weights are taken, and checked before they are moved in.
        A name that is taken gets a number; no model is ever replaced.

        Raises
        ------
        MedsagaError
            If there is not exactly one model in it, it is damaged, or the disk refuses.
        """
        source = Path(source).expanduser().absolute()
        name = source.name if source.is_dir() else source.stem
        with self._staging(f"{source.name} could not be imported") as staging:
            folder = staging / "model"
            folder.mkdir()
            take(source, folder)
            check_model(folder, called=source.name)
            return self._move_in(folder, name)

    def _own(self, path: Path | str) -> Path:
        """Return the path of a model directly inside this library."""
        # Not resolved: a model folder may itself be a link.
        path = Path(os.path.abspath(path))
        is_inside = os.path.exists(path.parent) and os.path.exists(self.folder)
        if not (
            is_inside
            and path.parent.samefile(self.folder)
            and not path.name.startswith(".")
            and os.path.lexists(path / CARD)
        ):
            raise MedsagaError(
                f"{path} is no model of the library in {self.folder}: choose one "
                "from its list."
            )
        return path

    def _taken(self) -> set[str]:
        return {name_key(name) for name in os.listdir(self.folder)}

    def _move_in(self, staged: Path, name: str) -> Path:
        """Move a finished folder into the library under a name that is free."""
        safe, number = safe_name(name) or "model", 1
        while True:
            target = self.folder / (safe if number == 1 else f"{safe} {number}")
            # Taken between the look and the move, a folder with files is not replaced.
            if name_key(target.name) not in self._taken():
                try:
                    return staged.rename(target)
                except OSError:
                    if not os.path.lexists(target):
                        raise
            number += 1

    @contextmanager
    def _staging(self, failure: str) -> Iterator[Path]:
        """Give a hidden folder in the library, which is made if missing."""
        advice = f"check that {self.folder} can be written to and the disk is not full"
        with _explained(failure, advice):
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary_folder(self.folder) as staging:
                yield staging


def _default_folder() -> Path:
    return user_data_path("medsaga", appauthor=False) / "models"


def _read_entry(path: Path) -> LibraryEntry:
    try:
        card = load_card(path)
    except MedsagaError as error:
        return LibraryEntry(path=path, name=path.name, card=None, problem=str(error))
    return LibraryEntry(path=path, name=path.name, card=card)


@contextmanager
def _explained(failure: str, advice: str) -> Iterator[None]:
    """Turn what the disk refuses into one sentence."""
    try:
        yield
    # A full disk while weights are written is a SafetensorError.
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MedsagaError(f"{failure} ({reason}): {advice}.") from error

"""A folder that a model is to be saved to, chosen before the model is there.

Importing this imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from medsaga.data.formats.leftovers import remove_leftovers
from medsaga.errors import MedsagaError
from medsaga.models.card import CARD

if TYPE_CHECKING:
    from medsaga.models.folder import TrainedModel


@dataclass(frozen=True, kw_only=True)
class ModelTarget:
    """A folder for a model, and what it held when it was chosen.

    Attributes
    ----------
    path
        The folder.
    before
        What told the model that was there from others; None where there was none.
    """

    path: Path
    before: tuple[int, int] | None

    @classmethod
    def choose(cls, folder: Path | str, *, overwrite: bool = False) -> ModelTarget:
        """Choose a folder, before time is spent on the model.

        Raises
        ------
        MedsagaError
            If something is there that is no model, or a model that is not to be
            replaced.
        """
        from medsaga.models.folder import check_model_target

        try:
            str(folder).encode()
        except UnicodeEncodeError:
            raise MedsagaError(
                f"The name of {folder} is no Unicode, which weights are not written "
                "under: choose another name."
            ) from None
        # First, as a process may have been killed while it replaced the model there.
        remove_leftovers(Path(folder).expanduser().absolute().parent)
        path = check_model_target(folder)
        target = cls(path=path, before=_identity(path))
        if target.before is not None and not overwrite:
            raise MedsagaError(
                f"{folder} is a model already: add --overwrite to replace it, or "
                "choose another name."
            )
        return target

    def save(self, model: TrainedModel) -> Path:
        """Save a model, and return where it is.

        If another model has come to the folder since it was chosen, it is saved beside
        that one, under a name with a number.

        Raises
        ------
        MedsagaError
            If something else than a model is in the way, or the disk refuses.
        """
        if _identity(self.path) == self.before and (saved := self._try(model)):
            return saved
        for number in count(2):
            path = self.path.with_name(f"{self.path.name} {number}")
            beside = ModelTarget(path=path, before=None)
            if _identity(path) is None and (saved := beside._try(model)):
                return saved
        raise AssertionError("There is always another number.")

    def _try(self, model: TrainedModel) -> Path | None:
        """Save a model; gives None if another one has come there just before."""
        from medsaga.models.folder import write_model

        try:
            return write_model(model, self.path, lambda p: _identity(p) == self.before)
        except MedsagaError:
            if _identity(self.path) == self.before:
                raise
            return None


def _identity(folder: Path) -> tuple[int, int] | None:
    """Tell the model in a folder from one that is saved there later."""
    try:
        found = (folder / CARD).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns

"""What a training starts from: a backbone, a SAM-format file, or a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QWidget

from medsaga import MedsagaError, ModelLibrary
from medsaga.frontend import missing_weights, offered_backbones, shown
from napari_medsaga.widgets.model_list import LibraryWatcher
from napari_medsaga.widgets.plain_text import tip

if TYPE_CHECKING:
    from qtpy.QtGui import QFocusEvent, QStandardItemModel

    from medsaga import ModelCard
    from medsaga.frontend import LibraryEntry

_BACKBONES = {kind.name: kind for kind in offered_backbones()}
_WEIGHTS = "Weights (*.pth *.pt *.safetensors);;All files (*)"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a training starts from: one of the two is None.

    Attributes
    ----------
    backbone
        Name of a backbone, or path of a SAM-format file.
    model
        Folder of a trained model.
    """

    backbone: str | None = None
    model: Path | None = None


_BROWSE = Origin(backbone="")


class OriginChoice(QComboBox):
    """Offers the backbones, a file, and the library's models."""

    changed = Signal()
    """Emitted when another origin is chosen."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._origins: list[Origin] = []
        self._models: dict[Path, LibraryEntry] = {}
        self._unread: str | None = None
        self._missing: dict[str, str | None] = {}
        self._chosen = Origin(backbone=next(iter(_BACKBONES)))
        self._file: str | None = None
        self._watcher = LibraryWatcher(ModelLibrary(), self)
        self.setObjectName("start")
        self.setToolTip(
            "What the training starts from: a pretrained Segment Anything model, a "
            "file with weights in its format (MedSAM's, say), or one of your models."
        )
        self.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.setMinimumContentsLength(10)
        self._offer()
        self.activated.connect(self._on_activated)
        self._watcher.changed.connect(self._on_library_changed)

    def origin(self) -> Origin:
        """Give what is chosen."""
        return self._chosen

    def choose_backbone(self, name: str) -> None:
        """Choose a backbone by name, or a file with weights by path."""
        if name not in _BACKBONES:
            self._file = name
        self.choose(Origin(backbone=name))

    def choose_model(self, folder: Path) -> None:
        """Choose a trained model."""
        self.choose(Origin(model=folder))

    def card(self) -> ModelCard | None:
        """Give the card of the chosen model; None of a backbone."""
        entry = self._models.get(self._chosen.model or Path())
        return None if entry is None else entry.card

    def problem(self) -> str | None:
        """Say why one cannot start from what is chosen, and what to do."""
        if self._chosen.model is not None:
            entry = self._models.get(self._chosen.model)
            if entry is None:
                gone = "That model is gone: choose another one to start from."
                return self._unread or gone
            return entry.problem
        return missing_weights(self._chosen.backbone or "")

    def choose(self, origin: Origin) -> None:
        """Choose what :meth:`origin` has given before."""
        is_new = origin != self._chosen
        self._chosen = origin
        self._offer()
        if is_new:
            self.changed.emit()

    def _offer(self) -> None:
        was_blocked = self.blockSignals(True)
        self.clear()
        self._origins = []
        self._missing = _missing()
        for kind in _BACKBONES.values():
            problem = self._missing[kind.name]
            if problem is not None:
                where = " (not on this computer)"
            else:
                where = " (installed)" if kind.is_bundled else ""
            self._add(Origin(backbone=kind.name), f"{kind.title}{where}", problem)
        if self._file is not None:
            self._add(Origin(backbone=self._file), Path(self._file).name, None)
        self._add(_BROWSE, "SAM-format file…", None)
        self._models = self._read_models()
        for entry in self._models.values():
            title = f"my model {entry.name}"
            self._add(Origin(model=entry.path), title, entry.problem)
        if self._chosen in self._origins:
            self.setCurrentIndex(self._origins.index(self._chosen))
        else:
            self.setCurrentIndex(-1)
        self.blockSignals(was_blocked)

    def _read_models(self) -> dict[Path, LibraryEntry]:
        try:
            self._unread = None
            return {entry.path: entry for entry in ModelLibrary().entries()}
        except MedsagaError as error:
            self._unread = str(error)
            return {}

    def look_again(self) -> None:
        """Offer what is there now, if weights have come or gone in the meantime."""
        if _missing() != self._missing:
            self._offer()
            self.changed.emit()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Look anew for who comes by the keyboard, and opens no list."""
        self.look_again()
        super().focusInEvent(event)

    def showPopup(self) -> None:
        """Look anew: weights may have been fetched in the meantime."""
        self._offer()
        super().showPopup()

    def _add(self, origin: Origin, title: str, problem: str | None) -> None:
        self._origins.append(origin)
        self.addItem(shown(title, 300))
        index = self.count() - 1
        tooltip = tip(problem) if problem else self.toolTip()
        self.setItemData(index, tooltip, Qt.ItemDataRole.ToolTipRole)
        if problem is not None:
            model: QStandardItemModel = self.model()
            model.item(index).setEnabled(False)

    def _on_library_changed(self) -> None:
        chosen = self._models.get(self._chosen.model or Path())
        self._offer()
        if chosen is not None and chosen.path not in self._models:
            self._follow(chosen)
        if self._chosen.model is not None:
            self.changed.emit()

    def _follow(self, renamed: LibraryEntry) -> None:
        """Stay with a model that has another name now."""
        for entry in self._models.values():
            if entry.created is not None and entry.created == renamed.created:
                self._chosen = Origin(model=entry.path)
                self._offer()
                return

    def _on_activated(self, index: int) -> None:
        origin = self._origins[index]
        if origin == _BROWSE:
            path, _ = QFileDialog.getOpenFileName(
                self, "Weights in Segment Anything's format", "", _WEIGHTS
            )
            if not path:
                self._offer()
                return
            self._file = path
            origin = Origin(backbone=path)
        self.choose(origin)


def _missing() -> dict[str, str | None]:
    return {name: missing_weights(name) for name in _BACKBONES}

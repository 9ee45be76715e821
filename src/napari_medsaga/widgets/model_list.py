"""The list of trained models: when it changes, and the words for what it shows."""

from __future__ import annotations

from html import escape
from math import isnan
from typing import TYPE_CHECKING

from qtpy.QtCore import QFileSystemWatcher, QObject, QTimer, Signal

from medsaga import FineTuneSettings, ModelLibrary
from medsaga.frontend import describe, duration, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from medsaga import ModelCard
    from medsaga.frontend import LibraryEntry, SliceId

_SETTLE_MS = 200
NOTHING = "–"
_LONGEST_TEXT = 2000


class LibraryWatcher(QObject):
    """Tells when the models of a library change, whoever changes them.

    Parameters
    ----------
    library
        Its folder is made if it is missing.
    parent
        Qt parent.
    """

    changed = Signal()
    """Emitted when nothing more has happened in the folder for a fifth of a second."""

    def __init__(self, library: ModelLibrary, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._library = library
        self._watcher = QFileSystemWatcher(self)
        self._settling = QTimer(self)
        self._settling.setSingleShot(True)
        self._settling.setInterval(_SETTLE_MS)
        self._watch()
        self._watcher.directoryChanged.connect(self._on_directory_changed)
        self._settling.timeout.connect(self._on_settled)

    def _watch(self) -> None:
        """Watch the folder and each model folder in it, where a card may come last."""
        folder = self._library.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            models = [
                path
                for path in folder.iterdir()
                if path.is_dir() and not path.name.startswith(".")
            ]
        except OSError:  # the list of models says so, and to watch is a comfort
            return
        wanted = {str(path) for path in (folder, *models)}
        watched = set(self._watcher.directories())
        if gone := sorted(watched - wanted):
            self._watcher.removePaths(gone)
        if new := sorted(wanted - watched):
            self._watcher.addPaths(new)

    def _on_directory_changed(self, _: str) -> None:
        # Again from the start: one signal for a whole burst.
        self._settling.start()

    def _on_settled(self) -> None:
        self._watch()
        self.changed.emit()


def local_time(entry: LibraryEntry) -> str:
    """When a model was trained, by the clock of this computer."""
    created = entry.created
    return f"{created.astimezone():%Y-%m-%d %H:%M}" if created else NOTHING


def class_names(card: ModelCard) -> list[str]:
    """Names of a model's classes without the background."""
    pairs = zip(card.classes.values, card.classes.names, strict=True)
    return [shown(name) for value, name in pairs if value != 0]


def dice_text(score: float) -> str:
    """Two digits of a Dice."""
    return NOTHING if isnan(score) else f"{score:.2f}"


def dice_by_class(card: ModelCard) -> str:
    """Dice of each class, and what it was measured on."""
    names = dict(zip(map(str, card.classes.values), card.classes.names, strict=True))
    scores = [
        f"{shown(names.get(value, value))} {dice_text(score)}"
        for value, score in card.metrics["dice"].items()
    ]
    if not scores:
        return "not measured"
    return f"{', '.join(scores)} (on {shown(card.metrics['measured_on'])})"


def details(entry: LibraryEntry) -> str:
    """Everything about a model that the list has no room for, as HTML."""
    rows = [("Folder", str(entry.path))]
    if entry.card is None:
        rows.insert(0, ("Problem", entry.problem or ""))
    else:
        trained = ("Trained on", local_time(entry))
        rows = [trained, *_card_rows(entry.card), *rows]
    # The card may come from anywhere: none of it is taken for markup.
    cells = (
        f"<tr><td><b>{name}</b>&nbsp;</td>"
        f"<td>{escape(shown(text, _LONGEST_TEXT))}</td></tr>"
        for name, text in rows
    )
    return f"<table cellspacing='2'>{''.join(cells)}</table>"


def _card_rows(card: ModelCard) -> Iterator[tuple[str, str]]:
    yield "Trained from", card.base_weights
    yield "Classes", ", ".join(class_names(card)) or "none"
    yield "Dice", dice_by_class(card)
    yield "Training slices", slices_text(card.training_slices)
    if card.held_out_slices:
        yield "Held-out slices", slices_text(card.held_out_slices)
    yield "Settings", _changed_settings(card)
    yield "Time", duration(card.measured["seconds"])
    yield "Peak memory", f"{card.measured['peak_memory'] / 1e9:.1f} GB"
    yield "Device", card.measured["device"]
    yield "Software", ", ".join(f"{n} {v}" for n, v in card.software.items())


def slices_text(slices: Iterable[SliceId]) -> str:
    """Write slices image by image, and runs of them as first-last."""
    by_image: dict[str, list[int]] = {}
    names: dict[str, str] = {}
    for one in slices:
        names[one.image] = shown(one.image_name)
        indices = by_image.setdefault(one.image, [])
        if not one.is_2d:
            indices.append(one.index)
    return "; ".join(
        f"{names[image]}: {_runs(sorted(indices))}" if indices else names[image]
        for image, indices in by_image.items()
    )


def _runs(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}–{r[-1]}" if len(r) > 2 else _join(r) for r in runs)


def _join(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _changed_settings(card: ModelCard) -> str:
    """Give the settings that are not the defaults; what was planned is among them."""
    defaults = {s.name: s.default for s in describe(FineTuneSettings)}
    changed = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in card.settings.items()
        if name not in defaults or value != defaults[name]
    ]
    return ", ".join(changed) or "all at their defaults"

"""The middle part of the Fine-tune dock: what to start from, and how to train."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QFormLayout,
    QGridLayout,
    QLabel,
    QPushButton,
    QRadioButton,
    QVBoxLayout,
    QWidget,
)

from medsaga import PRESETS, FineTuneSettings, MedsagaError, preset
from medsaga.frontend import duration, missing_weights
from napari_medsaga.fine_tune.advanced_dialog import AdvancedDialog
from napari_medsaga.fine_tune.annotated.sparse_form import SPARSE_SETTINGS
from napari_medsaga.fine_tune.origin_choice import Origin, OriginChoice
from napari_medsaga.widgets.form import SettingsForm
from napari_medsaga.widgets.preferences import preference

if TYPE_CHECKING:
    from pathlib import Path

    from qtpy.QtGui import QEnterEvent

    from medsaga.frontend import Canvas
    from napari_medsaga.layers.predictions import Prediction

_DEFAULT = "balanced"
_DEFAULT_BACKBONE = preset(_DEFAULT).backbone
_FOR = {
    "quick": "A first look: the head alone is fitted.",
    "balanced": "The default.",
    "thorough": "Larger images, more slices.",
    "paper": "MedSAGa's own values (arXiv 2407.15042): vit_b, one stage.",
}
# No two controls of the dock have the same, nor one that a menu of napari has.
_MNEMONICS = {"quick": "q", "balanced": "c", "thorough": "g", "paper": "a"}


class PlanBox(QWidget):
    """Start from, preset, and everything else in a window of its own."""

    changed = Signal()
    """Emitted when the plan is another than before."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.origin = OriginChoice()
        self._presets = {name: QRadioButton(_preset_title(name)) for name in PRESETS}
        self._group = QButtonGroup(self)
        self.form = SettingsForm(
            preset(_DEFAULT), without=("backbone", *SPARSE_SETTINGS)
        )
        self._advanced = QPushButton("Advanced…")
        self._dialog = AdvancedDialog(self.form, self)
        self._before = self._continued = self.origin.origin()
        self._followed: Path | None = None
        self._preset_backbone = _DEFAULT_BACKBONE
        self._on_gpu = False

        self._lay_out()
        self._describe()

        self.origin.changed.connect(self.changed)
        self._group.buttonClicked.connect(self._on_preset_clicked)
        self._advanced.clicked.connect(self._dialog.open_beside)
        self._dialog.reset.clicked.connect(self._on_reset_clicked)
        self.form.changed.connect(self.changed)

    def settings(self) -> FineTuneSettings:
        """Give the settings as they stand.

        Raises
        ------
        MedsagaError
            If two of them contradict each other.
        """
        settings = self.form.value()
        backbone = self.origin.origin().backbone
        return settings if not backbone else replace(settings, backbone=backbone)

    def expected_settings(self) -> FineTuneSettings:
        """Give the settings with what the model to continue from brings along.

        Raises
        ------
        MedsagaError
            If two of them contradict each other.
        """
        settings, card = self.settings(), self.origin.card()
        if card is None:
            return settings
        return replace(settings, backbone=card.backbone)

    def expected_canvas(self) -> Canvas | None:
        """Give the working size that a model to continue from brings along."""
        card = self.origin.card()
        if card is None or self.settings().long_side:
            return None
        return card.canvas

    def suit_gpu(self) -> None:
        """Offer the presets as they are on a GPU; what was changed by hand stays."""
        if self._on_gpu:
            return
        plain = self._preset()
        self._on_gpu = True
        for name, text in _FOR.items():
            of_gpu = preset(name, on_gpu=True)
            if of_gpu != preset(name):
                self._presets[name].setToolTip(
                    f"{text} On this GPU images are seen at up to "
                    f"{of_gpu.max_long_side} pixels, {of_gpu.batch_size} in a step."
                )
        with suppress(MedsagaError):
            if self.form.value() == plain:
                self.form.set_value(self._preset())

    def set_settings(self, settings: FineTuneSettings) -> None:
        """Show other settings, and start from their backbone."""
        self.form.set_value(settings)
        self.origin.choose_backbone(settings.backbone)

    def origin_model(self) -> Path | None:
        """Give the folder of the trained model to continue from, if one is chosen."""
        return self.origin.origin().model

    def follow(self, prediction: Prediction | None) -> None:
        """Continue from the model of a predicted layer, whatever it is called by now.

        Where there is no such layer any more, start as before it.
        """
        followed, self._followed = self._followed, None
        if prediction is not None:
            self._followed = prediction.find_model()
            if self._followed is not None and self._followed != followed:
                self.continue_from(self._followed)
        elif followed is not None and self.origin_model() == followed:
            self.origin.choose(self._before)

    @property
    def follows_prediction(self) -> bool:
        """Whether it continues from the model of the predicted layer."""
        return self._followed is not None and self.origin_model() == self._followed

    def continue_from(self, folder: Path) -> None:
        """Choose a trained model to continue from."""
        # It may have been chosen already, under a new name.
        if self.origin.origin() not in (self._continued, Origin(model=folder)):
            self._before = self.origin.origin()
        self.origin.choose_model(folder)
        self._continued = self.origin.origin()

    def problem(self) -> str | None:
        """Say why one cannot start from what is chosen, and what to do."""
        return self.origin.problem()

    def _lay_out(self) -> None:
        row = QFormLayout()
        label = QLabel("Sta&rt from")
        label.setBuddy(self.origin)
        label.setToolTip(self.origin.toolTip())
        row.addRow(label, self.origin)
        grid = QGridLayout()
        for i, (name, button) in enumerate(self._presets.items()):
            self._group.addButton(button)
            button.setObjectName(name)
            grid.addWidget(button, i // 2, i % 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addLayout(grid)
        layout.addWidget(self._advanced)

    def _describe(self) -> None:
        for name, button in self._presets.items():
            button.setToolTip(_FOR[name])
        self._presets[_DEFAULT].setChecked(True)
        self._offer_paper()
        preferred = self._presets[preference("general", "preset", _DEFAULT)]
        if preferred.isEnabled() and not preferred.isChecked():
            preferred.setChecked(True)
            self._on_preset_clicked(None)
        self._advanced.setToolTip("Everything else that can be set, in a window.")
        self._advanced.setObjectName("advanced")

    def _offer_paper(self) -> None:
        missing = missing_weights(preset("paper").backbone)
        self._presets["paper"].setEnabled(missing is None)
        self._presets["paper"].setToolTip(missing or _FOR["paper"])

    def enterEvent(self, event: QEnterEvent) -> None:
        """Look anew: weights may have been fetched in the meantime."""
        self._offer_paper()
        self.origin.look_again()
        super().enterEvent(event)

    def _preset(self) -> FineTuneSettings:
        return preset(self._preset_name(), on_gpu=self._on_gpu)

    def _preset_name(self) -> str:
        return next(n for n, b in self._presets.items() if b.isChecked())

    def _on_preset_clicked(self, _: object) -> None:
        settings = self._preset()
        self.form.set_value(settings)
        # What the user chose stays; only what came with the last preset goes with it.
        if self.origin.origin().backbone == self._preset_backbone:
            self.origin.choose_backbone(settings.backbone)
        self._preset_backbone = settings.backbone

    def _on_reset_clicked(self) -> None:
        self.form.set_value(self._preset())


def _preset_title(name: str) -> str:
    title = name.replace(_MNEMONICS[name], f"&{_MNEMONICS[name]}", 1)
    return f"{title} ({duration(preset(name).minutes * 60)})"

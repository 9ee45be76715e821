"""A form over any of the engine's settings dataclasses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from magicgui.widgets import create_widget
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFormLayout, QGroupBox, QLabel, QVBoxLayout, QWidget

from medsaga import FineTuneSettings, SegmentSettings
from medsaga.frontend import Setting, describe

if TYPE_CHECKING:
    from collections.abc import Collection


S = TypeVar("S", FineTuneSettings, SegmentSettings)
_BOUNDS = ("min", "max", "step")
_CONTROL_WIDTH = 90


class SettingsForm(QWidget, Generic[S]):
    """One control for each field of a settings dataclass, in groups.

    Parameters
    ----------
    settings
        What the form shows at first.
    without
        Fields that are set elsewhere and get no control; they keep their values.
    only
        The fields that get one; None: all others.
    parent
        Qt parent.
    """

    changed = Signal()
    """Emitted when the user or `set_value` has changed something."""

    def __init__(
        self,
        settings: S,
        *,
        without: Collection[str] = (),
        only: Collection[str] | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._settings: S = settings
        self._controls: dict[str, Any] = {}
        self._rows: list[tuple[QGroupBox, QLabel, QWidget, str]] = []
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        groups: dict[str, QFormLayout] = {}
        boxes: dict[str, QGroupBox] = {}
        for setting in describe(type(settings)):
            if setting.name in without or (only and setting.name not in only):
                continue
            group = setting.metadata["group"]
            if group not in groups:
                box = QGroupBox(group, self)
                groups[group] = QFormLayout(box)
                groups[group].setFieldGrowthPolicy(
                    QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow
                )
                layout.addWidget(box)
                boxes[group] = box
            self._add_row(groups[group], boxes[group], setting)
        for control in self._controls.values():
            control.changed.connect(self._on_control_changed)

    def value(self) -> S:
        """Give the settings as they stand.

        Raises
        ------
        MedsagaError
            If two of them contradict each other.
        """
        given = {name: control.value for name, control in self._controls.items()}
        return replace(self._settings, **given)

    def set_value(self, settings: S) -> None:
        """Show other settings."""
        self._settings = settings
        for name, control in self._controls.items():
            with control.changed.blocked():
                control.value = getattr(settings, name)
        self.changed.emit()

    def control(self, name: str) -> QWidget:
        """Give the control of a field."""
        widget: QWidget = self._controls[name].native
        return widget

    def show_matching(self, text: str) -> None:
        """Show only the settings whose name or help has all the words of a text."""
        words = text.lower().split()
        filled = set()
        for box, label, native, told in self._rows:
            matches = all(word in told for word in words)
            label.setVisible(matches)
            native.setVisible(matches)
            if matches:
                filled.add(box)
        for box in {box for box, *_ in self._rows}:
            box.setVisible(box in filled)

    def _add_row(self, layout: QFormLayout, box: QGroupBox, setting: Setting) -> None:
        kind: Any = setting.type
        if setting.choices:
            kind = Literal[setting.choices]
        control = create_widget(
            value=getattr(self._settings, setting.name),
            annotation=kind,
            name=setting.name,
            options=_options_of(setting),
        )
        self._controls[setting.name] = control
        if setting.type is bool:
            control.text = ""  # the label stands before it, as for the others
        native: QWidget = control.native
        native.setObjectName(setting.name)
        # A wheel over a control in a scroll area should scroll, not change a setting.
        native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        # Spin boxes ask for room for their largest value, combo boxes for the longest.
        native.setMinimumWidth(_CONTROL_WIDTH)
        native.installEventFilter(self)
        label = QLabel(setting.name.replace("_", " ").capitalize(), self)
        label.setToolTip(setting.help)
        label.setBuddy(native)
        layout.addRow(label, native)
        told = f"{label.text()} {setting.help} {box.title()}".lower()
        self._rows.append((box, label, native, told))

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Let the wheel scroll the dock unless a control has the focus."""
        if event.type() == event.Type.Wheel and not watched.hasFocus():
            event.ignore()
            return True
        return bool(super().eventFilter(watched, event))

    def _on_control_changed(self, _: object) -> None:
        self.changed.emit()


def _options_of(setting: Setting) -> dict[str, Any]:
    """Give the options of a control: bounds and help."""
    options = {b: setting.metadata[b] for b in _BOUNDS if b in setting.metadata}
    options["tooltip"] = setting.help
    return options

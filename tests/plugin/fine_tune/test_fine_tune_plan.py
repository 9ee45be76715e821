"""The plan of the Fine-tune dock: its start, presets, settings and size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from napari.utils.theme import get_theme
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QEnterEvent, QFocusEvent
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFileDialog,
    QGraphicsView,
    QLabel,
    QLineEdit,
    QListWidget,
    QRadioButton,
    QTableWidget,
    QWidget,
)
from tests.plugin.fine_tune.dock import (
    TIMEOUT,
    TINY,
    click_and_wait,
    open_dock,
    wait_until_ready,
)

from medsaga import PRESETS, FineTuneSettings, ModelLibrary, frontend, preset
from medsaga.frontend import Setting, describe, estimate_time
from medsaga.network.backbones.catalogue import BACKBONES
from napari_medsaga.fine_tune.annotated.sparse_form import SPARSE_SETTINGS
from napari_medsaga.fine_tune.run_box import describe_plan
from napari_medsaga.jobs import computer


def bounded(form) -> list[tuple[Setting, QAbstractSpinBox]]:
    settings = [s for s in describe(FineTuneSettings) if "min" in s.metadata]
    return [
        (setting, form.control(setting.name))
        for setting in settings
        if setting.name not in SPARSE_SETTINGS
    ]


def choose(start: QComboBox, text: str) -> None:
    """Choose an entry as a click does, which tells it even if it was chosen before."""
    index = start.findText(text, Qt.MatchFlag.MatchContains)
    start.setCurrentIndex(index)
    start.activated.emit(index)


def shown(control: QWidget) -> object:
    if isinstance(control, QComboBox):
        return control.currentText()
    if isinstance(control, QAbstractButton):
        return control.isChecked()
    return control.value()


def change(control: QWidget) -> None:
    if isinstance(control, QComboBox):
        control.setCurrentIndex((control.currentIndex() + 1) % control.count())
    elif isinstance(control, QAbstractButton):
        control.setChecked(not control.isChecked())
    else:
        at_top = control.value() == control.maximum()
        control.setValue(control.minimum() if at_top else control.maximum())


def _enter() -> QEnterEvent:
    return QEnterEvent(QPointF(), QPointF(), QPointF())


class TestPlan:
    def test_a_fresh_dock_trains_litemedsam_by_the_balanced_preset(
        self, viewer, layers
    ):
        _, panel = viewer.window.add_plugin_dock_widget("napari-medsaga", "Fine-tune")
        assert panel.plan.settings() == preset("balanced")
        assert panel.plan.origin_model() is None
        start = panel.findChild(QComboBox, "start")
        assert start.currentText().startswith("LiteMedSAM")
        buttons = panel.plan.findChildren(QRadioButton)
        assert [button.text().replace("&", "") for button in buttons] == [
            "quick (30 s)",
            "balanced (2 min)",
            "thorough (10 min)",
            "paper (1 h)",
        ]
        assert [button.isChecked() for button in buttons] == [False, True, False, False]

    def test_the_time_comes_from_a_measured_step(self, panel, viewer, qtbot):
        """Once the default is measured, which is done once in a process."""
        text = panel.run.plan.text
        qtbot.waitUntil(lambda: panel.computer.speed is not None, timeout=TIMEOUT)
        qtbot.waitUntil(lambda: bool(panel.computer.computer), timeout=TIMEOUT)
        wait_until_ready(panel, qtbot)
        settings = replace(PRESETS["balanced"], steps=10)
        panel.plan.set_settings(settings)
        report = panel.data.report()
        estimate = estimate_time(panel.computer.speed, settings, report.image, 0)
        assert f"(10 steps of {estimate.seconds_per_step:.2g} s)" in text()
        assert ", 12 slices segmented in" in text()
        assert "GB free: preview in 10 s" in text()
        panel.run.segments.setChecked(False)
        assert "segmented" not in text()
        panel.plan.set_settings(PRESETS["balanced"])
        assert "steps of" in text()
        panel.plan.set_settings(PRESETS["quick"])  # fits the head alone
        assert text().endswith("trained in about 30 s.")

    def test_fine_structures_take_the_time_of_their_size(self, viewer, qtbot):
        """Cells of a large image are worked at twice the size, 4 x the pixels."""
        y, x = np.mgrid[:400, :400]
        coarse = (np.hypot(y - 200, x - 200) < 90).astype(np.uint8)
        fine = (np.hypot(y % 40 - 20, x % 40 - 20) < 5).astype(np.uint8)
        viewer.add_image(coarse * 100, name="cells")
        labels = viewer.add_labels(coarse, name="painted")
        panel = open_dock(viewer, qtbot)
        qtbot.waitUntil(lambda: panel.computer.speed is not None, timeout=TIMEOUT)
        panel.plan.set_settings(replace(PRESETS["balanced"], steps=10))
        per_step = panel.computer.speed.seconds_per_step

        def says(seconds):
            return f"(10 steps of {seconds:.2g} s)" in panel.run.plan.text()

        qtbot.waitUntil(lambda: says(per_step), timeout=TIMEOUT)
        labels.data = fine
        qtbot.waitUntil(lambda: says(4 * per_step), timeout=TIMEOUT)

    def test_a_preview_that_takes_longer_is_not_promised_sooner(self, panel, qtbot):
        wait_until_ready(panel, qtbot)
        qtbot.waitUntil(lambda: panel.computer.speed is not None, timeout=TIMEOUT)
        at_128 = replace(PRESETS["balanced"], long_side=128)
        report = panel.data.report()
        fast = replace(panel.computer.speed, seconds_per_slice=0.1)
        slow = replace(fast, seconds_per_slice=1.0)

        def sentence(settings, speed):
            return describe_plan("CPU", settings, speed, report, segments=False)

        assert "CPU: preview in 10 s, trained" in sentence(at_128, fast)
        seconds = estimate_time(slow, at_128, report.image, 0).seconds_to_preview
        assert seconds > 15
        assert f"CPU: preview in {seconds:.0f} s, trained" in sentence(at_128, slow)
        assert "preview" not in sentence(replace(at_128, stages="galore"), fast)

    def test_before_the_speed_is_known_a_head_alone_is_told_in_minutes(self):
        def sentence(stages):
            settings = replace(PRESETS["quick"], stages=stages, steps=5)
            return describe_plan("CPU", settings, None, None, segments=False)

        assert sentence("head") == "CPU: trained in about 30 s."
        assert sentence("both") == "CPU: 5 steps; the first tells the time."

    def test_every_setting_has_a_control_with_its_help(self, panel):
        for setting in describe(FineTuneSettings):
            if setting.name == "backbone":
                continue
            is_sparse = setting.name in SPARSE_SETTINGS
            form = panel.data.sparse if is_sparse else panel.plan.form
            control = form.control(setting.name)
            assert control.toolTip() == setting.help, setting.name

    def test_a_number_has_the_bounds_of_its_setting(self, panel):
        numbers = bounded(panel.plan.form)
        assert len(numbers) > 15
        for setting, control in numbers:
            bounds = setting.metadata["min"], setting.metadata["max"]
            found = control.minimum(), control.maximum()
            step = setting.metadata["step"]  # a control rounds to its digits
            assert found == pytest.approx(bounds, abs=step), setting.name

    def test_reset_sets_every_control_back_to_its_default(self, panel):
        form = panel.plan.form
        form.set_value(preset("balanced"))
        controls = {
            setting.name: form.control(setting.name)
            for setting in describe(FineTuneSettings)
            if setting.name not in ("backbone", *SPARSE_SETTINGS)
        }
        defaults = {name: shown(control) for name, control in controls.items()}
        for control in controls.values():
            change(control)
        kept = [name for name in controls if shown(controls[name]) == defaults[name]]
        assert kept == []
        panel.findChild(QAbstractButton, "advanced").click()
        panel.findChild(QAbstractButton, "reset").click()
        assert {name: shown(c) for name, c in controls.items()} == defaults

    def test_the_form_gives_back_exactly_what_it_was_given(self, panel):
        for name, settings in PRESETS.items():
            panel.plan.form.set_value(settings)
            assert panel.plan.form.value() == settings, name

    def test_a_preset_sets_everything_and_reset_sets_it_back(self, panel):
        panel.findChild(QAbstractButton, "thorough").click()
        assert panel.plan.settings().max_long_side == 256
        panel.plan.form.control("rank").setValue(7)
        assert panel.plan.settings().rank == 7
        panel.findChild(QAbstractButton, "advanced").click()
        panel.findChild(QAbstractButton, "reset").click()
        # The backbone that the user chose stays.
        assert panel.plan.settings() == replace(PRESETS["thorough"], backbone="tiny")

    def test_presets_are_those_of_the_gpu_and_what_was_changed_stays(self, panel):
        plan = panel.plan
        plan.form.set_value(preset("balanced"))
        panel.computer.gpu_found.emit()
        of_gpu = preset("balanced", on_gpu=True)
        assert of_gpu.max_long_side > preset("balanced").max_long_side
        assert plan.form.value() == of_gpu
        panel.findChild(QAbstractButton, "quick").click()
        assert plan.form.value() == preset("quick", on_gpu=True)
        plan.form.control("rank").setValue(7)
        panel.computer.gpu_found.emit()
        assert plan.form.value() == replace(preset("quick", on_gpu=True), rank=7)

    def test_what_was_changed_before_the_gpu_was_found_stays(self, panel):
        changed = replace(preset("balanced"), max_long_side=96)
        panel.plan.form.set_value(changed)
        panel.computer.gpu_found.emit()
        assert panel.plan.form.value() == changed

    def test_a_model_to_continue_from_is_planned_as_what_it_is(self, panel, qtbot):
        """Not at the speed of the preset's backbone, which is not what trains."""
        qtbot.waitUntil(lambda: panel.computer.speed is not None, timeout=TIMEOUT)
        click_and_wait(panel, qtbot)
        (entry,) = ModelLibrary().entries()
        panel.plan.set_settings(PRESETS["balanced"])
        assert "preview in 10 s" in panel.run.plan.text()
        panel.plan.continue_from(entry.path)
        expected = panel.plan.expected_settings()
        assert expected.backbone == "tiny"
        assert panel.plan.expected_canvas() == entry.card.canvas
        assert "trained in about 2 min" in panel.run.plan.text()
        assert "preview in" not in panel.run.plan.text()
        assert "steps of" not in panel.run.plan.text()

    def test_a_speed_that_a_job_kept_from_being_measured_is_measured_after_it(
        self, panel, qtbot, monkeypatch
    ):
        qtbot.waitUntil(lambda: panel.computer.speed is not None, timeout=TIMEOUT)
        monkeypatch.setattr(computer, "known_speed", None)
        measure = frontend.measure_speed  # the same of another model, in no time
        monkeypatch.setattr(frontend, "measure_speed", lambda _: measure(TINY))
        click_and_wait(panel, qtbot)
        qtbot.waitUntil(lambda: panel.computer.speed is not None, timeout=TIMEOUT)

    def test_sam_is_greyed_where_its_weights_are_not(
        self, viewer, layers, qtbot, monkeypatch, tmp_path
    ):
        for name in ("MEDSAGA_WEIGHTS", "XDG_CACHE_HOME", "TORCH_HOME"):
            monkeypatch.setenv(name, str(tmp_path))
        panel = open_dock(viewer, qtbot)
        start = panel.findChild(QComboBox, "start")
        (row,) = [i for i in range(start.count()) if "vit_l" in start.itemText(i)]
        assert not start.model().item(row).isEnabled()
        assert "dl.fbaipublicfiles.com" in start.model().item(row).toolTip()
        assert not panel.findChild(QAbstractButton, "paper").isEnabled()

    def test_sam_can_be_chosen_where_its_weights_are(
        self, viewer, layers, qtbot, monkeypatch, tmp_path
    ):
        for name in ("MEDSAGA_WEIGHTS", "XDG_CACHE_HOME", "TORCH_HOME"):
            monkeypatch.setenv(name, str(tmp_path))
        known = BACKBONES["vit_b"].checkpoint
        with (tmp_path / known.file_name).open("wb") as file:
            file.truncate(known.n_bytes)  # looked for by name and size only
        panel = open_dock(viewer, qtbot)
        start = panel.findChild(QComboBox, "start")
        assert start.model().item(start.findText("SAM vit_b")).isEnabled()
        missing = start.findText("SAM vit_h (not on this computer)")
        assert not start.model().item(missing).isEnabled()
        assert panel.findChild(QAbstractButton, "paper").isEnabled()
        choose(start, "vit_b")
        assert panel.plan.settings().backbone == "vit_b"
        assert panel.plan.problem() is None

    def test_weights_that_come_while_the_dock_is_open_are_offered(
        self, viewer, layers, qtbot, monkeypatch, tmp_path
    ):
        for name in ("MEDSAGA_WEIGHTS", "XDG_CACHE_HOME", "TORCH_HOME"):
            monkeypatch.setenv(name, str(tmp_path))
        panel = open_dock(viewer, qtbot)
        panel.plan.origin.choose_backbone("vit_b")
        start = panel.findChild(QComboBox, "start")
        assert "run medsaga weights download vit_b" in panel.run.plan.text()
        assert not panel.run.start.isEnabled()
        known = BACKBONES["vit_b"].checkpoint
        with (tmp_path / known.file_name).open("wb") as file:
            file.truncate(known.n_bytes)
        QApplication.sendEvent(panel.plan, _enter())
        assert start.currentText() == "SAM vit_b"
        assert start.model().item(start.currentIndex()).isEnabled()
        assert panel.findChild(QAbstractButton, "paper").isEnabled()
        assert "medsaga weights" not in panel.run.plan.text()
        (tmp_path / known.file_name).unlink()
        QApplication.sendEvent(start, QFocusEvent(QEvent.Type.FocusIn))
        assert "run medsaga weights download vit_b" in panel.run.plan.text()

    def test_a_file_with_weights_can_be_started_from(
        self, panel, monkeypatch, tmp_path
    ):
        start = panel.findChild(QComboBox, "start")
        answers = [(str(tmp_path / "medsam.pth"), ""), ("", "")]
        monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: answers.pop(0))
        choose(start, "SAM-format file")
        assert panel.plan.settings().backbone == str(tmp_path / "medsam.pth")
        assert start.currentText() == "medsam.pth"
        choose(start, "SAM-format file")  # and change one's mind
        assert answers == []
        assert panel.plan.settings().backbone == str(tmp_path / "medsam.pth")
        assert start.currentText() == "medsam.pth"

    def test_a_trained_model_can_be_started_from(self, panel, layers, qtbot):
        click_and_wait(panel, qtbot)
        (entry,) = ModelLibrary().entries()
        start = panel.findChild(QComboBox, "start")
        qtbot.waitUntil(lambda: start.findText(f"my model {entry.name}") > 0)
        panel.data.labels.choose(layers[1])
        panel.plan.continue_from(entry.path)
        click_and_wait(panel, qtbot)
        assert {e.card.base_weights for e in ModelLibrary().entries()} == {
            "tiny",
            entry.name,
        }


class TestKeyboardAndHelp:
    def test_everything_has_a_tooltip_and_can_be_reached_by_tab(self, panel):
        controls = [
            widget
            for kind in (QAbstractButton, QComboBox, QAbstractSpinBox)
            for widget in panel.findChildren(kind)
            if not widget.objectName().startswith("qt_")
            and not isinstance(widget.parent(), QAbstractSpinBox)
        ]
        assert len(controls) > 30
        for control in controls:
            if not control.isVisibleTo(panel) and control.focusPolicy() == 0:
                continue
            assert control.toolTip() or inherited_tooltip(control), control.objectName()

    def test_tab_and_the_arrows_lead_to_every_control(self, panel, qtbot):
        wait_until_ready(panel, qtbot)
        n_wanted = 0
        for page in range(panel.tabs.count()):
            panel.tabs.setCurrentIndex(page)
            wanted = controls_in_sight(panel)
            n_wanted += len(wanted)
            assert {w.objectName() for w in wanted - reached_by_keys(panel, qtbot)} == (
                set()
            )
        assert n_wanted > 25

    def test_the_buttons_have_mnemonics_that_no_menu_of_napari_has(self, panel, viewer):
        def keys_of(texts) -> list[str]:
            return [t[t.index("&") + 1].upper() for t in texts if "&" in t]

        menus = viewer.window._qt_window.menuBar().actions()
        taken = keys_of(a.text() for a in menus)
        names = {
            *("to_labels", "to_image", "empty", *PRESETS, "reset"),
            *("segments", "start_training", "pause", "stop"),
        }
        buttons = {
            b.objectName(): b.text() for b in panel.findChildren(QAbstractButton)
        }
        assert all("&" in buttons[name] for name in names)
        texts = [*buttons.values(), *(x.text() for x in panel.findChildren(QLabel))]
        keys = keys_of(texts)
        assert len(keys) > len(names)
        assert len({*keys, *taken}) == len(keys) + len(taken)

    def test_the_other_settings_are_in_a_window_with_a_search(self, panel, qtbot):
        rank, zoom = (panel.plan.form.control(name) for name in ("rank", "zoom"))
        assert not rank.isVisible()
        panel.findChild(QAbstractButton, "advanced").click()
        qtbot.waitUntil(rank.isVisible, timeout=TIMEOUT)
        search = panel.findChild(QLineEdit, "search_settings")
        search.setText("galore rank")
        assert rank.isVisible()
        assert not zoom.isVisible()
        search.clear()
        assert zoom.isVisible()
        panel.findChild(QAbstractButton, "close_settings").click()
        assert not rank.isVisible()

    def test_the_dock_fits_a_small_screen(self, panel, viewer, qtbot):
        viewer.window.resize(1280, 800)
        click_and_wait(panel, qtbot)
        assert panel.run.plot.isVisible()
        assert panel.minimumSizeHint().height() < 700
        assert panel.minimumSizeHint().width() < 420
        # What came of it: down to the last class.
        table = panel.findChild(QWidget, "trust_table")
        bottom = table.rect().bottom()
        qtbot.waitUntil(lambda: table.visibleRegion().boundingRect().bottom() == bottom)

    def test_the_plot_has_the_colours_of_the_theme(self, panel, viewer, qtbot):
        plot = panel.run.plot
        plot.show()
        for theme in ("light", "dark"):
            viewer.theme = theme
            window = get_theme(theme).background.as_rgb_tuple()[:3]

            def has_its_colours(wanted=window) -> bool:
                shown = plot.findChild(QGraphicsView).backgroundBrush().color()
                return shown.getRgb()[:3] == wanted

            qtbot.waitUntil(has_its_colours, timeout=TIMEOUT)


def controls_in_sight(panel):
    kinds = (
        *(QAbstractButton, QComboBox, QAbstractSpinBox),
        *(QListWidget, QTableWidget),
    )
    return {
        widget
        for kind in kinds
        for widget in panel.findChildren(kind)
        if widget.isVisible() and widget.isEnabled() and widget.focusPolicy()
    }


def reached_by_keys(panel, qtbot):
    panel.tabs.tabBar().setFocus()
    reached = set()
    for _ in range(80):
        # Not the application's: without a window manager no window is active.
        widget = panel.window().focusWidget()
        is_new = widget not in reached
        reached.add(widget)
        within = isinstance(widget, QRadioButton) and is_new
        qtbot.keyClick(widget, Qt.Key.Key_Right if within else Qt.Key.Key_Tab)
    return reached


def inherited_tooltip(widget) -> str:
    parent = widget.parentWidget()
    while parent is not None and not parent.toolTip():
        parent = parent.parentWidget()
    return "" if parent is None else parent.toolTip()


def test_models_that_cannot_be_listed_leave_the_dock_as_it_is(
    viewer, layers, qtbot, tmp_path, monkeypatch
):
    file = tmp_path / "no folder"
    file.touch()
    monkeypatch.setenv("MEDSAGA_MODELS", str(file))
    panel = open_dock(viewer, qtbot)
    assert panel.plan.settings().backbone == "tiny"
    panel.plan.origin.choose_model(file / "liver")
    assert "cannot be listed" in panel.plan.problem()

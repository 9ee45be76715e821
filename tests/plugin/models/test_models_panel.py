"""The Models dock and the watcher of its list, with real models in a real library."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QApplication,
    QLabel,
    QLineEdit,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QTextBrowser,
    QWidget,
)
from tests.phantom import slice_of

from medsaga import (
    FineTuneSettings,
    MedsagaError,
    ModelLibrary,
    TrainingData,
    drain,
    fine_tune,
    save_model,
    volume_from_array,
)
from medsaga.frontend import shown
from napari_medsaga.models import panel as panel_module
from napari_medsaga.models.panel import ModelsPanel
from napari_medsaga.models.table import ModelsTable
from napari_medsaga.widgets.model_list import LibraryWatcher, slices_text


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model, trained on slices 1 to 3 of `phantom`."""
    image = np.random.default_rng(0).normal(100, 5, (6, 40, 40)).astype(np.float32)
    image[:, 8:20, 8:20] += 80
    labels = np.zeros(image.shape, np.uint8)
    labels[1:4, 8:20, 8:20] = 7
    settings = replace(
        FineTuneSettings(),
        backbone="tiny",
        steps=1,
        head_views=2,
        head_steps=20,
        long_side=64,
        rank=8,
        precision="fp32",
    )
    model = drain(
        fine_tune(
            TrainingData(
                volume_from_array(image, name="phantom"), volume_from_array(labels)
            ),
            settings,
        )
    )
    return save_model(model, tmp_path_factory.mktemp("trained") / "tiny")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelLibrary:
    monkeypatch.setenv("MEDSAGA_MODELS", str(tmp_path / "library"))
    return ModelLibrary()


@pytest.fixture
def put(library: ModelLibrary, trained: Path) -> Callable[..., Path]:
    """Return a function that puts the model into the library, its card changed."""

    def put(name: str, **changes: Any) -> Path:
        folder = library.folder / name
        shutil.copytree(trained, folder)
        card = json.loads((folder / "card.json").read_text("utf-8"))
        (folder / "card.json").write_text(json.dumps(card | changes), "utf-8")
        return folder

    return put


@pytest.fixture
def open_panel(
    make_napari_viewer: Callable[..., Any], library: ModelLibrary, qtbot: Any
) -> Callable[[], ModelsPanel]:
    """Return a function that opens the dock through the manifest."""

    def open_panel() -> ModelsPanel:
        viewer = make_napari_viewer(show=True)
        _, panel = viewer.window.add_plugin_dock_widget("napari-medsaga", "Models")
        assert isinstance(panel, ModelsPanel)
        qtbot.waitUntil(
            lambda: panel.isVisible() and names(panel) == sorted_names(library)
        )
        return panel

    return open_panel


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Return the messages of napari's notifications."""
    messages: list[str] = []

    def keep(notification: Any) -> None:
        messages.append(notification.message)

    notification_manager.notification_ready.connect(keep)
    yield messages
    notification_manager.notification_ready.disconnect(keep)


def table_of(panel: ModelsPanel) -> ModelsTable:
    return panel.findChild(ModelsTable, "models")


def sorted_names(library: ModelLibrary) -> list[str]:
    return [shown(entry.name, 255) for entry in library.entries()]


def names(panel: ModelsPanel) -> list[str]:
    table = table_of(panel)
    return [table.item(row, 0).text() for row in range(table.rowCount())]


def current(panel: ModelsPanel) -> str | None:
    entry = table_of(panel).current()
    return entry.name if entry else None


def button(panel: ModelsPanel, name: str) -> QPushButton:
    return panel.findChild(QPushButton, name)


def message(panel: ModelsPanel) -> str:
    return str(panel.findChild(QLabel, "message").text())


def editor(panel: ModelsPanel) -> QLineEdit:
    (line,) = [
        e for e in table_of(panel).viewport().findChildren(QLineEdit) if e.isVisible()
    ]
    return line


def is_ready(panel: ModelsPanel) -> bool:
    busy = panel.findChild(QProgressBar)
    return button(panel, "import").isEnabled() and not busy.isVisible()


class TestWatcher:
    def test_a_burst_of_changes_is_one_signal(
        self, library: ModelLibrary, put: Callable[..., Path], qtbot: Any
    ) -> None:
        watcher = LibraryWatcher(library)
        assert library.folder.is_dir()
        counts: list[int] = []
        watcher.changed.connect(lambda: counts.append(1))
        with qtbot.waitSignal(watcher.changed, timeout=5000):
            put("CT")
            library.rename(put("MR"), "MR 2")
        qtbot.wait(400)
        assert len(counts) == 1

    def test_changes_by_another_program_are_seen(
        self, library: ModelLibrary, trained: Path, qtbot: Any
    ) -> None:
        watcher = LibraryWatcher(library)
        code = f"import shutil; shutil.copytree({str(trained)!r}, 'CT')"
        with qtbot.waitSignal(watcher.changed, timeout=10_000):
            subprocess.run([sys.executable, "-c", code], cwd=library.folder, check=True)
        assert sorted_names(library) == ["CT"]

    def test_a_card_that_comes_late_is_seen(
        self, library: ModelLibrary, trained: Path, qtbot: Any
    ) -> None:
        watcher = LibraryWatcher(library)
        with qtbot.waitSignal(watcher.changed, timeout=5000):
            (library.folder / "CT").mkdir()
        with qtbot.waitSignal(watcher.changed, timeout=5000):
            shutil.copy(trained / "card.json", library.folder / "CT")
        assert sorted_names(library) == ["CT"]

    def test_a_library_that_was_removed_is_made_and_watched_again(
        self, library: ModelLibrary, put: Callable[..., Path], qtbot: Any
    ) -> None:
        put("CT")
        watcher = LibraryWatcher(library)
        with qtbot.waitSignal(watcher.changed, timeout=5000):
            shutil.rmtree(library.folder)
        assert library.folder.is_dir()
        with qtbot.waitSignal(watcher.changed, timeout=5000):
            put("MR")

    def test_a_library_that_cannot_be_made_does_no_harm(
        self, tmp_path: Path, qtbot: Any
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        LibraryWatcher(ModelLibrary(tmp_path / "file" / "library"))


def test_an_empty_library_says_how_a_model_gets_there(
    open_panel: Callable[[], ModelsPanel], put: Callable[..., Path], qtbot: Any
) -> None:
    panel = open_panel()
    sentence = panel.findChild(QLabel, "empty")
    assert sentence.isVisible()
    assert "Fine-tune" in sentence.text()
    assert "Import" in sentence.text()
    for name in ("rename", "delete", "export"):
        assert not button(panel, name).isEnabled()
    put("CT")
    qtbot.waitUntil(lambda: names(panel) == ["CT"], timeout=5000)
    assert not sentence.isVisible()
    for name in ("rename", "delete", "export"):
        assert button(panel, name).isEnabled()


def test_the_list_shows_what_the_cards_say(
    open_panel: Callable[[], ModelsPanel], put: Callable[..., Path]
) -> None:
    put("old", created="2020-02-03T04:05:00+00:00")
    many = [f"organ {n}" for n in range(1, 60)]
    put(
        "new",
        created="2030-01-01T00:00:00+00:00",
        classes={
            "values": list(range(60)),
            "names": ["background", *many],
            "colours": [None] * 60,
        },
        metrics={
            "measured_on": "held-out slices",
            "dice": {"1": 0.5, "2": 1.0},
            "hd95": {},
        },
    )
    panel = open_panel()
    table = table_of(panel)
    cells = [[table.item(r, c).text() for c in range(6)] for r in range(2)]
    local = datetime.fromisoformat("2020-02-03T04:05:00+00:00").astimezone()
    assert cells[1][:4] == ["old", f"{local:%Y-%m-%d}", "tiny", "class 7"]
    assert f"{local:%Y-%m-%d %H:%M}" in table.item(1, 1).toolTip()
    assert cells[1][5] == "1"
    assert cells[0][0] == "new"
    assert cells[0][4] == "0.75"
    assert "organ 59" in table.item(0, 3).toolTip()
    assert "organ 2 1.00" in table.item(0, 4).toolTip()


def test_the_details_are_those_of_the_selected_model(
    open_panel: Callable[[], ModelsPanel], put: Callable[..., Path], qtbot: Any
) -> None:
    put("CT", created="2030-01-01", base_weights="<b>bold</b> & 1")
    put("damaged", format_version=99)
    panel = open_panel()
    browser = panel.findChild(QTextBrowser, "details")
    text = browser.toPlainText()
    assert "phantom: 1–3" in text
    assert "<b>bold</b> & 1" in text
    assert "rank 8" in text
    assert "long side 64" in text
    assert "weight decay" not in text
    assert "GB" in text
    assert "torch" in text
    table_of(panel).setCurrentCell(1, 0)
    assert "update napari-medsaga" in browser.toPlainText()
    assert not button(panel, "export").isEnabled()
    assert button(panel, "delete").isEnabled()


ODD = "\x1b[31m<b>&lt;i</b>\u202e\n" + "x" * 900


def put_bad_cards(put: Callable[..., Path], library: ModelLibrary) -> None:
    """Put folders in the library whose cards are nothing that a training wrote."""
    put("axis", axis=5)
    put("dice", metrics={"dice": {"7": 10**400}})
    put("name", classes={"values": [0], "names": ["x" * 200_000], "colours": [None]})
    contents = {"brackets": b"[" * 100_000, "empty": b"", "text": b"\xff\xfe"}
    for name, content in contents.items():
        (library.folder / name).mkdir()
        (library.folder / name / "card.json").write_bytes(content)
    (library.folder / "folder" / "card.json").mkdir(parents=True)


BAD = ("axis", "brackets", "dice", "empty", "folder", "name", "text")


def test_a_bad_folder_is_one_row_that_says_what_is_wrong(
    open_panel: Callable[[], ModelsPanel],
    put: Callable[..., Path],
    library: ModelLibrary,
    qtbot: Any,
) -> None:
    put("CT")
    put_bad_cards(put, library)
    panel = open_panel()
    table, browser = table_of(panel), panel.findChild(QTextBrowser, "details")
    assert names(panel) == ["CT", *BAD]
    assert table.item(0, 3).text() == "class 7"
    wrong = {name: table.item(row, 3).text() for row, name in enumerate(BAD, start=1)}
    assert "axis is 5" in wrong["axis"]
    assert "classes.names.0" in wrong["name"]
    assert "no model folder" in wrong["folder"]
    for name in ("brackets", "dice", "empty", "text"):
        assert "no model card" in wrong[name]
    for row, name in enumerate(BAD, start=1):
        table.setCurrentCell(row, 0)
        assert wrong[name][:40] in browser.toPlainText()
        assert not button(panel, "export").isEnabled()
    table.setCurrentCell(0, 0)
    assert button(panel, "export").isEnabled()


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_names_are_plain_text_and_short(
    open_panel: Callable[[], ModelsPanel],
    put: Callable[..., Path],
    library: ModelLibrary,
    told: list[str],
    qtbot: Any,
) -> None:
    classes = {"values": [0, 7], "names": ["background", ODD], "colours": [None] * 2}
    put("<h1>\x1b[31m", created="2030-01-01", classes=classes, base_weights=ODD)
    put("other")
    panel = open_panel()
    table = table_of(panel)
    assert names(panel) == [r"<h1>\x1b[31m", "other"]
    name = table.item(0, 3).text()
    assert name.startswith(r"\x1b[31m<b>&lt;i</b>\u202e\nxxx")
    assert name.endswith("…")
    assert len(name) == 80
    details = panel.findChild(QTextBrowser, "details").toPlainText()
    assert r"\x1b[31m<b>&lt;i</b>\u202e\nxxx" in details
    assert "\x1b" not in details
    for column in range(table.columnCount()):
        tip = table.item(0, column).toolTip()
        assert tip.startswith("<qt>")
        assert not any(sign in tip for sign in ("<b>", "<h1>", "\x1b", "\u202e"))
    table.edit_current()
    editor = table.viewport().findChild(QLineEdit)
    editor.setText("other")
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: bool(told))
    assert "<h1>" not in told[0]


def test_slices_are_written_shortly() -> None:
    ct = [slice_of("ct", n) for n in (9, 1, 2, 3, 4, 7)]
    xray = slice_of("xray", 0, is_2d=True)
    assert slices_text([*ct, xray]) == "ct: 1–4, 7, 9; xray"
    assert slices_text([slice_of("a", 0), slice_of("a", 1)]) == "a: 0, 1"
    of_another_patient = replace(ct[0], image="another")
    assert slices_text([ct[0], of_another_patient]) == "ct: 9; ct: 9"


def test_the_selection_stays_when_the_list_changes(
    open_panel: Callable[[], ModelsPanel], put: Callable[..., Path], qtbot: Any
) -> None:
    put("b", created="2020-01-02")
    put("c", created="2020-01-01")
    panel = open_panel()
    assert current(panel) == "b"
    table_of(panel).setCurrentCell(1, 0)
    put("a", created="2020-01-03")
    qtbot.waitUntil(lambda: names(panel) == ["a", "b", "c"], timeout=5000)
    assert current(panel) == "c"
    assert table_of(panel).selectionModel().selectedRows()[0].row() == 2


def test_rename_edits_the_name_in_its_cell(
    open_panel: Callable[[], ModelsPanel],
    put: Callable[..., Path],
    library: ModelLibrary,
    qtbot: Any,
) -> None:
    put("CT", created="2020-01-02")
    put("MR", created="2020-01-01")
    panel = open_panel()
    table_of(panel).setCurrentCell(1, 0)
    qtbot.mouseClick(button(panel, "rename"), Qt.MouseButton.LeftButton)
    editor(panel).selectAll()
    qtbot.keyClicks(editor(panel), "Thigh")
    # What happens meanwhile does not take the editor away.
    put("new", created="2020-01-03")
    qtbot.wait(500)
    assert editor(panel).text() == "Thigh"
    qtbot.keyClick(editor(panel), Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: names(panel) == ["new", "CT", "Thigh"], timeout=5000)
    assert current(panel) == "Thigh"
    assert sorted_names(library) == ["new", "CT", "Thigh"]


@pytest.mark.parametrize(("name", "why"), [("mr", "choose another"), ("..", "letter")])
def test_a_name_that_cannot_be_is_told_once_and_the_old_one_stays(
    open_panel: Callable[[], ModelsPanel],
    put: Callable[..., Path],
    told: list[str],
    qtbot: Any,
    name: str,
    why: str,
) -> None:
    put("CT", created="2020-01-02")
    put("MR", created="2020-01-01")
    panel = open_panel()
    qtbot.mouseClick(button(panel, "rename"), Qt.MouseButton.LeftButton)
    editor(panel).setText(name)
    qtbot.keyClick(editor(panel), Qt.Key.Key_Return)
    qtbot.wait(300)
    assert names(panel) == ["CT", "MR"]
    assert why in message(panel)
    assert told == [message(panel)]


def answer(qtbot: Any, text: str) -> list[str]:
    """Click a button of the next message box, and keep what it said."""
    said: list[str] = []

    def click() -> None:
        box = QApplication.activeModalWidget()
        assert isinstance(box, QMessageBox)
        said.append(box.text())
        said.append(box.defaultButton().text())
        (wanted,) = [b for b in box.buttons() if b.text().replace("&", "") == text]
        wanted.click()

    QTimer.singleShot(300, click)
    return said


def test_delete_asks_first(
    open_panel: Callable[[], ModelsPanel],
    put: Callable[..., Path],
    library: ModelLibrary,
    qtbot: Any,
) -> None:
    put("CT <b>1", created="2020-01-02")
    put("MR", created="2020-01-01")
    panel = open_panel()
    said = answer(qtbot, "Cancel")
    button(panel, "delete").click()
    assert "CT <b>1" in said[0]
    assert said[1].replace("&", "") == "Cancel"
    assert sorted_names(library) == ["CT <b>1", "MR"]
    answer(qtbot, "Delete")
    button(panel, "delete").click()
    qtbot.waitUntil(lambda: names(panel) == ["MR"], timeout=5000)
    assert sorted_names(library) == ["MR"]
    assert current(panel) == "MR"


def test_a_model_that_went_meanwhile_is_told(
    open_panel: Callable[[], ModelsPanel],
    put: Callable[..., Path],
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    path = put("CT")
    panel = open_panel()

    def ask(parent: object, entry: object) -> bool:
        shutil.rmtree(path)
        return True

    monkeypatch.setattr(panel_module, "ask_to_delete", ask)
    button(panel, "delete").click()
    assert "no model of the library" in message(panel)
    assert told == [message(panel)]
    qtbot.waitUntil(lambda: names(panel) == [], timeout=5000)


def test_export_and_import_bring_the_model_back(
    open_panel: Callable[[], ModelsPanel],
    put: Callable[..., Path],
    library: ModelLibrary,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    qtbot: Any,
) -> None:
    path = put("CT")
    panel = open_panel()
    target = tmp_path / "CT.zip"
    monkeypatch.setattr(panel_module, "ask_export_target", lambda *_: target)
    monkeypatch.setattr(panel_module, "ask_zip_file", lambda *_: target)
    monkeypatch.setattr(panel_module, "ask_model_folder", lambda *_: path)
    button(panel, "export").click()
    assert not button(panel, "export").isEnabled()
    qtbot.waitUntil(lambda: is_ready(panel), timeout=5000)
    assert zipfile.is_zipfile(target)
    assert str(target) in message(panel)
    zip_file, folder = button(panel, "import").menu().actions()
    zip_file.trigger()
    qtbot.waitUntil(lambda: current(panel) == "CT 2", timeout=5000)
    assert "CT 2" in message(panel)
    folder.trigger()
    qtbot.waitUntil(lambda: current(panel) == "CT 3", timeout=5000)
    cards = [entry.card for entry in library.entries()]
    assert cards[0] == cards[1] == cards[2]


def test_nothing_happens_when_the_user_thinks_better_of_it(
    open_panel: Callable[[], ModelsPanel],
    put: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put("CT")
    panel = open_panel()
    for ask in ("ask_zip_file", "ask_model_folder"):
        monkeypatch.setattr(panel_module, ask, lambda *_: None)
    monkeypatch.setattr(panel_module, "ask_export_target", lambda *_: None)
    button(panel, "export").click()
    for action in button(panel, "import").menu().actions():
        action.trigger()
    assert is_ready(panel)
    assert names(panel) == ["CT"]


def test_a_failed_import_is_told_once_and_the_dock_is_ready_again(
    open_panel: Callable[[], ModelsPanel],
    library: ModelLibrary,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    qtbot: Any,
) -> None:
    panel = open_panel()
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    monkeypatch.setattr(panel_module, "ask_zip_file", lambda *_: tmp_path / "bad.zip")
    button(panel, "import").menu().actions()[0].trigger()
    qtbot.waitUntil(lambda: bool(message(panel)), timeout=5000)
    assert "bad.zip is no zip file" in message(panel)
    assert told == [message(panel)]
    assert is_ready(panel)
    assert list(library.folder.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("surprise"), KeyError("surprise")])
def test_an_unexpected_error_reaches_napari_and_the_dock_is_ready_again(
    open_panel: Callable[[], ModelsPanel],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    qtbot: Any,
    error: Exception,
) -> None:
    def fail(self: ModelLibrary, source: Path) -> Path:
        raise error

    monkeypatch.setattr(ModelLibrary, "import_model", fail)
    panel = open_panel()
    monkeypatch.setattr(panel_module, "ask_zip_file", lambda *_: tmp_path)
    with qtbot.capture_exceptions() as raised:
        button(panel, "import").menu().actions()[0].trigger()
        qtbot.waitUntil(lambda: bool(raised), timeout=5000)
    assert [kind for kind, _, _ in raised] == [type(error)]
    assert is_ready(panel)


class Gate:
    """An import that waits until it is let go on, and tells its thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.thread: threading.Thread | None = None
        import_model = ModelLibrary.import_model

        def wait(library: ModelLibrary, source: Path) -> Path:
            self.thread = threading.current_thread()
            assert self.open.wait(30)
            return import_model(library, source)

        monkeypatch.setattr(ModelLibrary, "import_model", wait)


def test_copying_leaves_the_viewer_free(
    open_panel: Callable[[], ModelsPanel],
    put: Callable[..., Path],
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    put("CT")
    gate = Gate(monkeypatch)
    panel = open_panel()
    monkeypatch.setattr(panel_module, "ask_model_folder", lambda *_: trained)
    button(panel, "import").menu().actions()[1].trigger()
    qtbot.waitUntil(lambda: gate.thread is not None, timeout=5000)
    assert gate.thread is not threading.main_thread()
    assert panel.findChild(QProgressBar).isVisible()
    for name in ("rename", "delete", "export", "import"):
        assert not button(panel, name).isEnabled()
    assert button(panel, "open_folder").isEnabled()
    panel.refresh()
    qtbot.wait(50)
    assert not button(panel, "delete").isEnabled()
    gate.open.set()
    qtbot.waitUntil(lambda: current(panel) == "tiny", timeout=5000)
    assert is_ready(panel)


def test_a_dock_that_is_closed_while_copying_does_no_harm(
    make_napari_viewer: Callable[..., Any],
    library: ModelLibrary,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    gate = Gate(monkeypatch)
    viewer = make_napari_viewer(show=True)
    dock, panel = viewer.window.add_plugin_dock_widget("napari-medsaga", "Models")
    monkeypatch.setattr(panel_module, "ask_model_folder", lambda *_: trained)
    button(panel, "import").menu().actions()[1].trigger()
    qtbot.waitUntil(lambda: gate.thread is not None, timeout=5000)
    viewer.window.remove_dock_widget(dock)
    panel.deleteLater()
    qtbot.wait(50)
    gate.open.set()
    qtbot.waitUntil(lambda: sorted_names(library) == ["tiny"], timeout=5000)
    qtbot.wait(100)


def test_open_folder_shows_the_library(
    open_panel: Callable[[], ModelsPanel],
    library: ModelLibrary,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel = open_panel()
    opened: list[str] = []

    def open_url(url: Any) -> bool:
        opened.append(url.toLocalFile())
        return len(opened) == 1

    monkeypatch.setattr(QDesktopServices, "openUrl", open_url)
    button(panel, "open_folder").click()
    assert [Path(path) for path in opened] == [library.folder]
    assert message(panel) == ""
    button(panel, "open_folder").click()
    assert str(library.folder) in message(panel)
    assert told == [message(panel)]


def test_everything_can_be_reached_by_the_keyboard_and_says_what_it_does(
    open_panel: Callable[[], ModelsPanel], put: Callable[..., Path], qtbot: Any
) -> None:
    put("CT")
    panel = open_panel()
    wanted: list[QWidget] = [table_of(panel), panel.findChild(QTextBrowser, "details")]
    wanted += [b for b in panel.findChildren(QPushButton) if b.isVisible()]
    assert len(wanted) == 8
    table_of(panel).setFocus()
    reached = set()
    for _ in range(len(wanted) + 20):
        # Not the application's: without a window manager no window is active.
        widget = panel.window().focusWidget()
        reached.add(widget)
        qtbot.keyClick(widget, Qt.Key.Key_Tab)
    assert reached >= set(wanted)
    assert all(w.toolTip() for w in wanted[1:])
    header = table_of(panel).horizontalHeader().model()
    role = Qt.ItemDataRole.ToolTipRole
    for column in range(6):
        assert header.headerData(column, Qt.Orientation.Horizontal, role)
    letters = [b.text()[b.text().index("&") + 1] for b in wanted[2:]]
    assert len({letter.lower() for letter in letters}) == 6


def test_a_library_that_cannot_be_listed_is_told(
    open_panel: Callable[[], ModelsPanel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel = open_panel()

    def fail(self: ModelLibrary) -> list[Any]:
        raise MedsagaError("The models cannot be listed: check the folder.")

    monkeypatch.setattr(ModelLibrary, "entries", fail)
    panel.refresh()
    assert "cannot be listed" in message(panel)

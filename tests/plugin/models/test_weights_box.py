"""The weights in the Models dock, with a server on this computer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFileDialog,
    QLabel,
    QProgressBar,
    QPushButton,
    QTableWidget,
)
from tests.weights_server import (
    CONTENT,
    NAME,
    Server,
    hold,
    offer_fake,
    serving,
    status,
)

from medsaga.frontend import missing_weights, weights_folder
from napari_medsaga.jobs import job
from napari_medsaga.models.panel import ModelsPanel

pytestmark = pytest.mark.usefixtures("told")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as server:
        offer_fake(monkeypatch, server.url, tmp_path / "home")
        yield server


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The messages of napari's notifications."""
    messages: list[str] = []

    def keep(notification: Any) -> None:
        messages.append(notification.message)

    notification_manager.notification_ready.connect(keep)
    yield messages
    notification_manager.notification_ready.disconnect(keep)


@pytest.fixture
def panel(
    make_napari_viewer: Callable[..., Any], server: Server, qtbot: Any
) -> ModelsPanel:
    """The dock with its weights shown and `vit_b` selected."""
    viewer = make_napari_viewer(show=True)
    _, panel = viewer.window.add_plugin_dock_widget("napari-medsaga", "Models")
    assert isinstance(panel, ModelsPanel)
    qtbot.waitUntil(lambda: panel.isVisible())
    assert not table(panel).isVisible()
    button(panel, "weights").click()
    assert table(panel).isVisible()
    table(panel).setCurrentCell(1, 0)
    return panel


def table(panel: ModelsPanel) -> QTableWidget:
    return panel.findChild(QTableWidget, "weights")


def button(panel: ModelsPanel, name: str) -> QPushButton:
    return panel.findChild(QPushButton, name)


def message(panel: ModelsPanel) -> str:
    return str(panel.findChild(QLabel, "weights_message").text())


def states(panel: ModelsPanel) -> list[str]:
    rows = range(table(panel).rowCount())
    return [table(panel).item(row, 2).text() for row in rows]


def bar(panel: ModelsPanel) -> QProgressBar:
    return panel.findChild(QProgressBar, "weights_progress")


def wait_for_end(panel: ModelsPanel, qtbot: Any) -> None:
    check = button(panel, "weights_check")
    qtbot.waitUntil(lambda: check.isEnabled(), timeout=10_000)
    assert not bar(panel).isVisible()


def test_weights_are_downloaded_while_another_job_computes(
    panel: ModelsPanel, qtbot: Any
) -> None:
    assert states(panel) == ["here", *["not here"] * 3]
    assert message(panel) == missing_weights("vit_b")
    with job._computer:
        button(panel, "weights_download").click()
        assert bar(panel).isVisible()
        assert not button(panel, "weights_download").isEnabled()
        wait_for_end(panel, qtbot)
    assert states(panel)[1] == "here"
    assert message(panel) == "SAM vit_b is here now."
    assert (weights_folder() / NAME).read_bytes() == CONTENT
    assert not button(panel, "weights_download").isEnabled()
    table(panel).setCurrentCell(2, 0)
    assert button(panel, "weights_download").isEnabled()
    table(panel).setCurrentCell(0, 0)
    assert not button(panel, "weights_download").isEnabled()


def test_a_download_can_be_stopped_and_gone_on_with(
    panel: ModelsPanel, server: Server, qtbot: Any
) -> None:
    server.answers += [hold(2 << 20)]
    button(panel, "weights_download").click()
    qtbot.waitUntil(
        lambda: bar(panel).text() == "Fetching vit_b: 2 of 3 MB", timeout=10_000
    )
    button(panel, "weights_stop").click()
    wait_for_end(panel, qtbot)
    assert message(panel).startswith("Stopped.")
    assert states(panel)[1] == "not here"
    server.go_on.set()
    button(panel, "weights_download").click()
    wait_for_end(panel, qtbot)
    assert states(panel)[1] == "here"
    assert server.asked[-1].startswith("bytes=")


def test_a_download_ends_with_its_dock(
    panel: ModelsPanel, server: Server, qtbot: Any
) -> None:
    server.answers += [hold(1 << 20)]
    button(panel, "weights_download").click()
    qtbot.waitUntil(lambda: bool(server.asked), timeout=10_000)
    viewer = panel._viewer
    viewer.window.remove_dock_widget(panel)
    qtbot.waitUntil(lambda: not job._started, timeout=10_000)
    assert not (weights_folder() / NAME).exists()


def test_what_cannot_be_fetched_is_the_sentence_of_the_shell(
    panel: ModelsPanel, server: Server, told: list[str], qtbot: Any
) -> None:
    server.answers += [status(404)]
    button(panel, "weights_download").click()
    wait_for_end(panel, qtbot)
    assert server.url in message(panel)
    assert told == [message(panel)]
    assert button(panel, "weights_download").isEnabled()


def test_a_file_is_imported_and_checked(
    panel: ModelsPanel,
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    file = tmp_path / "fetched elsewhere"
    answers = ["", str(tmp_path / "absent"), str(file)]
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (answers.pop(0), ""))
    button(panel, "weights_import_file").click()  # and change one's mind
    assert button(panel, "weights_import_file").isEnabled()
    button(panel, "weights_import_file").click()
    wait_for_end(panel, qtbot)
    assert "There is no file" in message(panel)
    file.write_bytes(CONTENT)
    button(panel, "weights_import_file").click()
    wait_for_end(panel, qtbot)
    assert message(panel) == "fetched elsewhere is imported."
    assert states(panel)[1] == "here"
    button(panel, "weights_check").click()
    wait_for_end(panel, qtbot)
    assert message(panel).startswith("The weights that are here have the SHA-256")
    (weights_folder() / NAME).write_bytes(CONTENT[1:] + b"x")
    button(panel, "weights_check").click()
    wait_for_end(panel, qtbot)
    assert states(panel)[1] == "damaged"
    assert "run medsaga weights download vit_b" in message(panel)
    assert button(panel, "weights_download").isEnabled()
    button(panel, "weights_download").click()
    wait_for_end(panel, qtbot)
    assert states(panel)[1] == "here"


def test_weights_from_the_shell_are_seen(panel: ModelsPanel) -> None:
    button(panel, "weights").click()
    weights_folder().mkdir(parents=True)
    (weights_folder() / NAME).write_bytes(CONTENT)
    button(panel, "weights").click()
    assert states(panel)[1] == "here"


def test_everything_says_what_it_does(panel: ModelsPanel) -> None:
    buttons = [b for b in panel.findChildren(QPushButton) if b.text()]
    assert len(buttons) == 10
    assert all(b.toolTip() for b in buttons)
    letters = [b.text()[b.text().index("&") + 1].lower() for b in buttons]
    assert len(set(letters)) == 10
    header = table(panel).horizontalHeader().model()
    role = Qt.ItemDataRole.ToolTipRole
    for column in range(3):
        assert header.headerData(column, Qt.Orientation.Horizontal, role)

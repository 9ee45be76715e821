"""What of a dock stays in sight when it gets less room."""

from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_medsaga.widgets.dock_scroll import DockScroll

ABOVE, KEPT, BELOW = 400, 100, 400


@pytest.fixture
def scroll(qtbot: Any) -> DockScroll:
    content = QWidget()
    layout = QVBoxLayout(content)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(0)
    for height in (ABOVE, KEPT, BELOW):
        part = QWidget()
        part.setFixedHeight(height)
        layout.addWidget(part)
    scroll = DockScroll(content)
    qtbot.addWidget(scroll)
    scroll.resize(200, 600)
    scroll.show()
    scroll.keep_in_sight(layout.itemAt(1).widget())
    return scroll


def test_what_is_kept_in_sight_stays_in_less_room(scroll: DockScroll) -> None:
    for height in (450, 200):
        scroll.resize(200, height)
        top = scroll.verticalScrollBar().value()
        assert top <= ABOVE
        assert top + height >= ABOVE + KEPT


def test_what_the_user_scrolled_to_stays(scroll: DockScroll) -> None:
    bar = scroll.verticalScrollBar()
    for place in (0, ABOVE + KEPT + 1):
        scroll.resize(200, 300)
        bar.setValue(place)
        scroll.resize(200, 250)
        assert bar.value() == place

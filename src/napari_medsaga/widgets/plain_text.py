"""Texts of layers and files where Qt would take them for rich text, as plain text.

What it shows in a table, a list or a form is plain; a tooltip and a label guess.
"""

from __future__ import annotations

import re
from html import escape

from napari.utils import notifications
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from medsaga.frontend import shown

_LONGEST_LINE = 2000
_MOST_LINES = 40
# What makes Qt's labels guess that a text is rich: a tag, or an escaped one.
_OPENS_TAG = re.compile(r"<(?=[A-Za-z/!?])|&(?=lt;)")
_NOTHING = "\u200b"  # a space of no width


def tip(text: str) -> str:
    """Give a tooltip that shows `text`, line by line, and takes none of it for markup.

    Marked as rich text it is broken into lines that fit the screen.
    """
    lines = text.split("\n")
    safe = [escape(shown(line, _LONGEST_LINE)) for line in lines[:_MOST_LINES]]
    if len(lines) > _MOST_LINES:
        safe.append("…")
    return f"<qt>{'<br>'.join(safe)}</qt>" if text else ""


def make_plain_label(name: str, text: str = "") -> QLabel:
    """Make a label of several lines that takes no text for markup.

    Parameters
    ----------
    name
        Its object name.
    text
        What it shows at first.
    """
    label = QLabel()
    label.setObjectName(name)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setText(text)
    return label


def show_error(sentence: str) -> None:
    """Have napari show a sentence as an error."""
    notifications.show_error(plain(sentence))


def show_info(sentence: str) -> None:
    """Have napari show a sentence."""
    notifications.show_info(plain(sentence))


def plain(text: str) -> str:
    """Give a text that a label of napari's does not take for rich text."""
    return _OPENS_TAG.sub(lambda found: found[0] + _NOTHING, shown(text, _LONGEST_LINE))

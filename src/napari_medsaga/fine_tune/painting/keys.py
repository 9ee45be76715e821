"""The keys of the loop: one list, for the viewer, the dock and the command palette."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from app_model.types import KeyBinding

from napari_medsaga.widgets.plain_text import show_info
from napari_medsaga.widgets.preferences import preference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari import Viewer

KEYS: dict[str, tuple[str, str]] = {
    "point": ("Q", "Draw a box or click to paint the chosen class"),
    "fill": ("G", "Fill between the painted slices"),
    "accept": ("A", "Accept what is suggested for this slice"),
    "accept_class": ("Shift-A", "Accept the chosen class of it alone"),
    "live": ("U", "Suggest the shown slice anew after each stroke, or no more"),
    "next": ("N", "Go to the slice where a look is worth most"),
    "compare": ("K", "Show the result of the round before, and back"),
}
"""Usual key and sentence by action; none is a key of napari's Labels layers."""

WHILE_POINTING: dict[str, str] = {
    "Ctrl and click": "Take away what is clicked on",
    "T": "Let clicks take away, or add again",
    "Enter": "Keep the mask",
    "Escape": "Drop the mask",
}
"""What else there is while boxes and clicks are taken."""

_open: list[ref[Keys]] = []


def key_of(name: str) -> str:
    """Give the key of an action, as the user prefers it."""
    usual, _ = KEYS[name]
    chosen = str(preference("keys", name, usual)).strip()
    known = str(KeyBinding.from_str(chosen))
    # Of what is no key nothing is left.
    return chosen if known and not known.endswith("+") else usual


class Keys:
    """Binds the keys to the viewer while a dock is open.

    Parameters
    ----------
    viewer
        The viewer.
    actions
        What each key of `KEYS` does, by its name.
    """

    def __init__(
        self, viewer: Viewer, actions: Mapping[str, Callable[[], object]]
    ) -> None:
        self._viewer, self._actions = viewer, actions
        self._bound = {name: key_of(name) for name in KEYS}
        for name, key in self._bound.items():
            viewer.bind_key(key, lambda _, n=name: self.run(n), overwrite=True)
        _open.append(ref(self))

    def run(self, name: str) -> None:
        """Do what one of the keys does."""
        self._actions[name]()

    def describe(self) -> str:
        """Give the list of all keys, a line each."""
        lines = [f"{self._bound[name]}: {told}" for name, (_, told) in KEYS.items()]
        lines += ["", "While Box or click is on:"]
        lines += [f"{key}: {told}" for key, told in WHILE_POINTING.items()]
        return "\n".join(lines)

    def release(self) -> None:
        """Give the keys back."""
        for key in self._bound.values():
            self._viewer.bind_key(key, None, overwrite=True)
        _open[:] = [one for one in _open if one() not in (None, self)]


def run_command(name: str) -> None:
    """Do what a key does, in the dock that was opened last."""
    alive = [keys for one in _open if (keys := one()) is not None]
    if alive:
        alive[-1].run(name)
    else:
        show_info("Open Plugins > MedSAGa > Fine-tune first.")


def point() -> None:
    """Draw a box or click to paint the chosen class."""
    run_command("point")


def fill() -> None:
    """Fill between the painted slices."""
    run_command("fill")


def accept() -> None:
    """Accept what is suggested for the shown slice."""
    run_command("accept")


def live() -> None:
    """Suggest the shown slice anew after each stroke, or no more."""
    run_command("live")


def go_on() -> None:
    """Go to the slice where a look is worth most."""
    run_command("next")


def compare() -> None:
    """Show the result of the round before, and back."""
    run_command("compare")

"""What a user prefers is taken, and what cannot be meant is not."""

from __future__ import annotations

import os

import pytest
from qtpy.QtWidgets import QPushButton

from napari_medsaga.fine_tune.painting.keys import KEYS, key_of
from napari_medsaga.widgets import preferences as preferences_module
from napari_medsaga.widgets.preferences import apply_preferences, preference

settings_of_napari = pytest.importorskip("napari.settings")


@pytest.fixture
def preferences(plugins, tmp_path, monkeypatch):
    """The plugin's page of the Preferences, in a folder of its own."""
    if not hasattr(settings_of_napari, "get_plugin_settings"):
        pytest.skip("this napari has no preferences for plugins")
    monkeypatch.setattr(settings_of_napari, "_PLUGIN_SETTINGS", {})
    monkeypatch.setattr(settings_of_napari, "_CFG_PATH", str(tmp_path / "s.yaml"))
    return settings_of_napari.get_plugin_settings("napari-medsaga")


def test_without_a_choice_the_manifest_decides(preferences):
    assert preference("general", "preset", "other") == "balanced"
    assert preference("general", "nothing", "other") == "other"
    assert [key_of(name) for name in KEYS] == [key for key, _ in KEYS.values()]


def test_keys_can_be_chosen_and_no_key_is_not_taken(preferences):
    preferences.keys.fill = "F7"
    preferences.keys.next = "nothing"
    assert (key_of("fill"), key_of("next")) == ("F7", "N")


def test_the_engine_is_told_unless_the_user_has(preferences, monkeypatch):
    monkeypatch.setattr(preferences_module, "_set_here", {})
    preferences.general.models_folder = "/some/where"
    preferences.general.use_gpu = False
    before = os.environ["MEDSAGA_MODELS"]
    apply_preferences()
    assert os.environ["MEDSAGA_MODELS"] == before
    assert os.environ["MEDSAGA_DEVICE"] == "cpu"
    preferences.general.use_gpu = True
    monkeypatch.delenv("MEDSAGA_MODELS")
    for folder in ("/some/where", "/else/where"):
        preferences.general.models_folder = folder
        apply_preferences()
        assert os.environ["MEDSAGA_MODELS"] == folder
    preferences.general.models_folder = ""
    apply_preferences()
    assert "MEDSAGA_MODELS" not in os.environ
    assert "MEDSAGA_DEVICE" not in os.environ


def test_the_dock_opens_as_preferred(viewer, layers, qtbot, preferences):
    preferences.general.preset = "quick"
    preferences.keys.live = "J"
    _, panel = viewer.window.add_plugin_dock_widget("napari-medsaga", "Fine-tune")
    assert panel.plan.settings().minutes == 0.5
    assert panel.findChild(QPushButton, "live").text() == "Live (J)"
    assert "J" in {str(key) for key in viewer.keymap}

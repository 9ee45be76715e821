"""What a user prefers: the plugin's page of napari's Preferences."""

from __future__ import annotations

import os
from typing import Any

_PLUGIN = "napari-medsaga"
_set_here: dict[str, str] = {}


def preference(group: str, name: str, default: Any) -> Any:
    """Give a preference; the default where napari has no page for plugins.

    Parameters
    ----------
    group, name
        As in `configurations` of the manifest.
    default
        What the manifest says.
    """
    try:
        from napari.settings import get_plugin_settings

        return getattr(getattr(get_plugin_settings(_PLUGIN), group), name)
    except Exception:  # noqa: BLE001 - it reads what all plugins prefer, of any of them
        return default


def apply_preferences() -> None:
    """Tell the engine where models are kept, and whether to use a GPU.

    What an environment variable says that the user has set goes before.
    """
    uses_gpu = preference("general", "use_gpu", default=True)
    _tell("MEDSAGA_MODELS", preference("general", "models_folder", "").strip())
    _tell("MEDSAGA_DEVICE", "" if uses_gpu else "cpu")


def _tell(variable: str, value: str) -> None:
    if os.environ.get(variable) != _set_here.get(variable):
        return  # set by the user
    if value:
        os.environ[variable] = _set_here[variable] = value
    else:
        os.environ.pop(variable, None)
        _set_here.pop(variable, None)

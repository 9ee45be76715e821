"""Build hook that puts the manifest and the sample data inside the plugin package.

Both live at the top of the repository, where people look for them; npe2 and the
installed package look for them beside `napari_medsaga/__init__.py`. A wheel gets
copies; an editable install gets links in the source tree (copies on systems that
refuse links), which git ignores.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "napari_medsaga"
TOP_LEVEL = ("napari.yaml", "sample_data")


class TopLevelFilesHook(BuildHookInterface[BuilderConfig]):
    """Brings `TOP_LEVEL` into `PACKAGE`, for wheels and for editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to the wheel, or link them when `version` is "editable"."""
        root = Path(self.root)
        for name in TOP_LEVEL:
            if version == "editable":
                _link(root / name, root / "src" / PACKAGE / name)
            else:
                build_data["force_include"][name] = f"{PACKAGE}/{name}"


def _link(source: Path, target: Path) -> None:
    """Make `target` a relative link to `source`, or a copy where links are refused."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    try:
        relative = os.path.relpath(source, target.parent)
        target.symlink_to(relative, target_is_directory=source.is_dir())
    except OSError:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)

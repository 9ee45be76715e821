"""What is imported: no viewer and no Qt ever, and heavy libraries only when needed."""

from __future__ import annotations

import json
import subprocess
import sys

# Imports every module of the engine but `__main__`, and prints what is loaded then.
IMPORT_ALL = """
import importlib, json, pkgutil, sys
import medsaga

names = [m.name for m in pkgutil.walk_packages(medsaga.__path__, "medsaga.")]
names = [name for name in names if not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted(sys.modules)]))
"""
IMPORT_PACKAGE = """
import json, sys
import medsaga

print(json.dumps([["medsaga"], sorted(sys.modules)]))
"""
GUI = {"napari", "napari_medsaga", "qtpy", "magicgui", "superqt"}
QT_BINDINGS = {"PySide2", "PySide6", "PyQt5", "PyQt6"}
HEAVY = {"torch", "torchvision", "monai", "galore_torch", "segment_anything", "timm"}


def loaded_by(code: str) -> tuple[set[str], set[str]]:
    """Names that `code` imported, and the top-level names of all modules loaded."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    names, modules = json.loads(done.stdout.splitlines()[-1])
    return set(names), {module.partition(".")[0] for module in modules}


def test_no_module_of_the_engine_loads_a_gui() -> None:
    names, loaded = loaded_by(IMPORT_ALL)
    # Proof that the walk got into the packages and that the modules really ran.
    assert {
        "medsaga.settings.fine_tune",
        "medsaga.data.volume",
        "medsaga.network.backbones.base",
    } <= names
    assert "torch" in loaded
    assert not loaded & (GUI | QT_BINDINGS)


def test_the_package_alone_loads_nothing_heavy() -> None:
    _, loaded = loaded_by(IMPORT_PACKAGE)
    assert "medsaga" in loaded
    assert not loaded & HEAVY


def test_a_training_waits_for_what_a_network_is_built_of_until_it_builds_one() -> None:
    code = (
        "import sys, medsaga.training.fine_tune, medsaga.segmentation.segment\n"
        "of_networks = {'segment_anything', 'timm', 'torch._dynamo', 'torchvision'}\n"
        "print(*of_networks & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr

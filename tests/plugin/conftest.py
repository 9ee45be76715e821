"""Keep tests out of the user's settings and models, and give them small files."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from npe2 import PluginManager
from tests.phantom import keep_slices, make_phantom
from tests.plugin.fine_tune.dock import ANNOTATED, COLOURS, NAMES, open_dock
from tests.real_images import DATA

# Before anything imports napari, which reads its settings' place only then.
os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")
os.environ.setdefault("LIBGL_ALWAYS_SOFTWARE", "1")

SaveVolume = Callable[..., np.ndarray]


@pytest.fixture(autouse=True)
def models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty library of trained models."""
    folder = tmp_path / "models"
    monkeypatch.setenv("MEDSAGA_MODELS", str(folder))
    return folder


@pytest.fixture(scope="session")
def engine() -> None:
    """Torch and the rest, imported at once: in a thread it takes far longer.

    So does the speed of the computer: a dock begins anew to measure it where a job
    comes in between. All this is frozen, as whenever a viewer is closed everything is
    searched for garbage.
    """
    from medsaga import drain, frontend, preset
    from napari_medsaga.jobs import computer

    frontend.warm_up("galore")
    computer.known_speed = drain(frontend.measure_speed(preset("balanced")))
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """The phantom's image and labels."""
    return make_phantom()


@pytest.fixture
def viewer(engine: None, make_napari_viewer: Callable[..., Any]) -> Any:
    """A window of napari, and an engine that is ready."""
    return make_napari_viewer(show=True)


@pytest.fixture
def layers(viewer: Any, arrays: tuple[np.ndarray, np.ndarray]) -> tuple[Any, Any]:
    """The phantom, and a few painted slices of it, turned and sheared in the world."""
    place = {
        "scale": (2, 0.5, 0.7),
        "translate": (10, -4, 3),
        "rotate": (5, 10, 15),
        "shear": (0.1, 0.0, 0.05),
        "units": ("mm", "mm", "mm"),
        "axis_labels": ("z", "y", "x"),
    }
    image = viewer.add_image(arrays[0], name="blobs", **place)
    labels = viewer.add_labels(
        keep_slices(arrays[1], ANNOTATED),
        name="painted",
        features={"index": list(NAMES), "name": list(NAMES.values())},
        colormap=COLOURS,
        **place,
    )
    return image, labels


@pytest.fixture
def panel(viewer: Any, layers: tuple[Any, Any], qtbot: Any) -> Any:
    """The Fine-tune dock, ready to train on the phantom in a second."""
    return open_dock(viewer, qtbot)


@pytest.fixture
def plugins() -> None:
    """The installed plugins, for tests that need no window, which would find them."""
    PluginManager.instance().discover()


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images; the test is skipped where there is none."""
    if not (DATA / "odd-files").is_dir():
        pytest.skip("the shared images are not here")
    return DATA


@pytest.fixture
def save_volume() -> SaveVolume:
    """A function that writes a small NIfTI in any axis order; see `_save_volume`."""
    return _save_volume


def _save_volume(
    path: Path,
    codes: str = "RAS",
    *,
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0),
    dtype: str = "int16",
    intent: str | None = None,
) -> np.ndarray:
    """Write 9 x 8 x 7 voxels of 1.5 x 2 x 3 mm (x, y, z), turned by `angles`.

    Gives the canonical (z, y, x) array: no two voxels agree, if `dtype` can count them.
    """
    import nibabel as nib
    from nibabel.orientations import (
        apply_orientation,
        axcodes2ornt,
        inv_ornt_aff,
        ornt_transform,
    )

    data = np.arange(9 * 8 * 7).reshape(9, 8, 7).astype(dtype)
    turn = nib.eulerangles.euler2mat(*angles)
    affine = nib.affines.from_matvec(turn @ np.diag([1.5, 2.0, 3.0]), [-20, 11, 7])
    to_file = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    image = nib.Nifti1Image(
        apply_orientation(data, to_file), affine @ inv_ornt_aff(to_file, data.shape)
    )
    image.header.set_xyzt_units("mm")
    if intent is not None:
        image.header.set_intent(intent)
    image.to_filename(path)
    return data.transpose(2, 1, 0)

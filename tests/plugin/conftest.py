"""Keep tests out of the user's settings and models, and give them small files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from npe2 import PluginManager

# Before anything imports napari, which reads its settings' place only then.
os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")
os.environ.setdefault("LIBGL_ALWAYS_SOFTWARE", "1")

DATA = Path(
    os.environ.get("MEDSAGA_TEST_DATA", Path(__file__).parents[2] / "../shared/data")
)
SaveVolume = Callable[..., np.ndarray]


@pytest.fixture(autouse=True)
def models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty library of trained models."""
    folder = tmp_path / "models"
    monkeypatch.setenv("MEDSAGA_MODELS", str(folder))
    return folder


@pytest.fixture(scope="session")
def engine() -> None:
    """Torch and the rest, imported at once: in a thread it takes far longer."""
    import medsaga

    medsaga.warm_up("galore")


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

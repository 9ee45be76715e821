"""The manifest is valid, and what it offers without a viewer works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from npe2 import PluginManifest

from napari_medsaga._sample_data import open_phantom

LayerDataTuple = tuple[np.ndarray, dict[str, Any], str]


@pytest.fixture(scope="module")
def manifest(repository: Path) -> PluginManifest:
    return PluginManifest.from_file(repository / "napari.yaml")


@pytest.fixture(scope="module")
def layers() -> list[LayerDataTuple]:
    return open_phantom()


def test_the_manifest_says_what_the_hub_shows(manifest: PluginManifest) -> None:
    assert manifest.name == "napari-medsaga"
    assert manifest.display_name == "MedSAGa"
    assert manifest.is_visible
    assert manifest.categories == ["Annotation", "Segmentation", "IO"]


def test_every_command_of_the_manifest_can_be_imported(
    manifest: PluginManifest,
) -> None:
    assert manifest.contributions.commands
    manifest.validate_imports()


def test_every_sample_is_opened_by_a_command_of_the_manifest(
    manifest: PluginManifest,
) -> None:
    commands = {command.id for command in manifest.contributions.commands or []}
    samples = manifest.contributions.sample_data or []
    assert [sample.display_name for sample in samples] == ["MedSAGa phantom"]
    assert {sample.command for sample in samples} <= commands


def test_the_sample_is_an_image_with_labels_of_the_same_place(
    layers: list[LayerDataTuple],
) -> None:
    (image, image_options, image_type), (labels, labels_options, labels_type) = layers
    assert (image_type, labels_type) == ("image", "labels")
    assert image.ndim == 3
    assert image.shape == labels.shape
    assert np.issubdtype(labels.dtype, np.integer)
    for key in ("scale", "units", "axis_labels"):
        assert image_options[key] == labels_options[key]
    assert image_options["units"] == ("mm", "mm", "mm")
    assert np.array_equal(image_options["affine"], labels_options["affine"])
    assert image_options["name"] != labels_options["name"]


def test_the_sample_has_the_spacing_of_its_file(
    layers: list[LayerDataTuple], repository: Path
) -> None:
    import nibabel

    file = nibabel.load(repository / "sample_data" / "phantom_ct.nii.gz")
    image, options, _ = layers[0]
    # (x, y, z) in the file, (z, y, x) in the layer.
    assert image.shape == file.shape[::-1]
    assert options["scale"] == pytest.approx(file.header.get_zooms()[::-1])


def test_some_slices_are_annotated_and_most_are_left_to_do(
    layers: list[LayerDataTuple],
) -> None:
    labels = layers[1][0]
    annotated = labels.any(axis=(1, 2))
    assert 0 < annotated.sum() < annotated.size / 2


def test_every_painted_class_has_a_name_and_a_colour(
    layers: list[LayerDataTuple], repository: Path
) -> None:
    labels, options, _ = layers[1]
    text = (repository / "sample_data" / "phantom_classes.json").read_text("utf-8")
    names = {int(value): entry["name"] for value, entry in json.loads(text).items()}
    index, name = options["features"]["index"], options["features"]["name"]
    painted = set(np.unique(labels).tolist()) - {0}
    assert painted == set(names)
    assert dict(zip(index, name, strict=True)) == {0: "background", **names}
    assert painted <= set(options["colormap"])
    colours = [options["colormap"][value] for value in painted]
    assert len(set(colours)) == len(painted)


def test_the_sample_shows_the_patient_as_radiologists_do(
    layers: list[LayerDataTuple],
) -> None:
    labels, options, _ = layers[1]
    names = dict(
        zip(options["features"]["index"], options["features"]["name"], strict=True)
    )
    value = {name: index for index, name in names.items()}

    def on_screen(organ: str) -> np.ndarray:
        """Centre in the world, in which napari draws y downwards and x to the right."""
        centre = np.argwhere(labels == value[organ]).mean(axis=0)
        point = np.append(centre * options["scale"], 1)
        return (np.asarray(options["affine"]) @ point)[:3]

    assert on_screen("liver")[2] < on_screen("spleen")[2]
    assert on_screen("stomach")[1] < on_screen("left kidney")[1]


def test_opening_the_sample_loads_neither_torch_nor_a_viewer() -> None:
    code = (
        "import sys\n"
        "from napari_medsaga._sample_data import open_phantom\n"
        "assert 'nibabel' not in sys.modules, 'nibabel is loaded with the menu'\n"
        "open_phantom()\n"
        "found = {'torch', 'napari', 'qtpy', 'PySide6', 'PyQt6'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr

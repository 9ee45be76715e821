"""The manifest is valid, and what it offers without a viewer works."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari._app_model import get_app_model
from napari.layers import Layer
from npe2 import PluginManager, PluginManifest

from medsaga import PRESETS
from medsaga.frontend import viewer_endings
from napari_medsaga.files.sample_data import open_phantom, open_phantom_truth
from napari_medsaga.fine_tune.painting.keys import KEYS

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


def test_the_patterns_are_the_endings_of_the_engines_table(
    manifest: PluginManifest,
) -> None:
    (reader,) = manifest.contributions.readers
    assert set(reader.filename_patterns) == {f"*{e}" for e in viewer_endings()}


def test_every_command_of_the_manifest_can_be_imported(
    manifest: PluginManifest,
) -> None:
    assert manifest.contributions.commands
    manifest.validate_imports()


def test_npe2_finds_nothing_wrong(repository: Path) -> None:
    command = [sys.executable, "-m", "npe2", "validate", "napari.yaml"]
    done = subprocess.run(
        command, cwd=repository, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_contribution_runs_a_command_of_the_manifest(
    manifest: PluginManifest,
) -> None:
    offered = manifest.contributions
    commands = {command.id for command in offered.commands or []}
    samples = offered.sample_data or []
    assert [sample.display_name for sample in samples] == [
        "MedSAGa phantom",
        "MedSAGa phantom with full truth",
    ]
    for contributions in (samples, offered.readers, offered.writers, offered.widgets):
        assert contributions
        assert {contribution.command for contribution in contributions} <= commands


def test_the_menus_offer_the_docks(make_napari_viewer: Callable[[], Any]) -> None:
    make_napari_viewer()
    menus = get_app_model().menus

    def offered(menu: str) -> list[str]:
        items = menus.get_menu(menu)
        names = [item.command.id for item in items if hasattr(item, "command")]
        return [name for name in names if name.startswith("napari-medsaga.")]

    make = "napari-medsaga.make_{}_panel".format
    assert sorted(offered("napari/layers/segment")) == [
        make("fine_tune"),
        make("segment"),
    ]
    assert offered("napari/plugins/napari-medsaga") == [
        make("fine_tune"),
        make("segment"),
        make("models"),
    ]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.gz", "a.mgz", "a.mgh"])
def test_volumes_are_offered_to_the_reader(plugins: None, name: str) -> None:
    readers = PluginManager.instance().iter_compatible_readers([name])
    assert "napari-medsaga" in {reader.plugin_name for reader in readers}


@pytest.mark.parametrize("kind", ["labels", "image"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_layer_can_be_saved_as_nifti(plugins: None, kind: str, name: str) -> None:
    writer, path = PluginManager.instance().get_writer(name, [kind], "napari-medsaga")
    assert writer is not None
    assert writer.command == f"napari-medsaga.write_{kind}"
    assert path == name


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
    entries = {int(value): entry for value, entry in json.loads(text).items()}
    names = {value: entry["name"] for value, entry in entries.items()}
    index, name = options["features"]["index"], options["features"]["name"]
    assert set(np.unique(labels).tolist()) - {0} == set(names)
    assert dict(zip(index, name, strict=True)) == {0: "background", **names}
    layer = Layer.create(labels, options, "labels")
    for value, entry in entries.items():
        drawn = np.round(255 * np.ravel(layer.get_color(value))).astype(int)
        assert entry["colour"] == "#{:02x}{:02x}{:02x}".format(*drawn[:3])


def test_a_value_that_the_user_adds_to_the_sample_can_be_seen(
    layers: list[LayerDataTuple],
) -> None:
    labels = Layer.create(*layers[1])
    colours = [np.ravel(labels.get_color(value)) for value in (4, 7, 53, 1000)]
    assert all(colour[3] == 1 for colour in colours)


def test_the_truth_is_what_the_annotations_were_taken_from(
    layers: list[LayerDataTuple],
) -> None:
    (image, image_options, _), (truth, options, kind) = open_phantom_truth()
    np.testing.assert_array_equal(image, layers[0][0])
    assert kind == "labels"
    labels = layers[1][0]
    annotated = labels.any(axis=(1, 2))
    np.testing.assert_array_equal(truth[annotated], labels[annotated])
    assert truth[~annotated].any(axis=(1, 2)).mean() > 0.5
    assert options["scale"] == image_options["scale"]
    assert options["features"] == layers[1][1]["features"]
    assert options["name"] == "phantom truth"


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
        point = np.append(centre * options["scale"] + options["translate"], 1)
        return (np.asarray(options["affine"]) @ point)[:3]

    assert on_screen("liver")[2] < on_screen("spleen")[2]
    assert on_screen("stomach")[1] < on_screen("left kidney")[1]


def test_the_sample_lies_where_its_affine_says(
    layers: list[LayerDataTuple], repository: Path
) -> None:
    import nibabel

    file = nibabel.load(repository / "sample_data" / "phantom_ct.nii.gz")
    x, y, z = (file.affine @ [7, 8, 9, 1])[:3]
    for data in layers:
        layer = Layer.create(*data)
        np.testing.assert_allclose(layer.data_to_world((9, 8, 7)), (z, -y, -x))


def test_the_menus_load_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from napari_medsaga.files.sample_data import open_phantom\n"
        "assert 'napari' not in sys.modules, 'the menu loads more than it needs'\n"
        "from napari_medsaga.files.readers import get_reader\n"
        "from napari_medsaga.files.writers import write_labels\n"
        "get_reader('a.nii')\n"
        "assert 'nibabel' not in sys.modules, 'nibabel is loaded with the menu'\n"
        "open_phantom()\n"
        "found = {'torch', 'monai'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_preferences_offer_what_there_is(manifest: PluginManifest) -> None:
    configurations = manifest.contributions.configurations
    general, chosen = configurations["general"].properties, configurations["keys"]
    assert set(general["preset"].enum) == set(PRESETS)
    assert general["preset"].default == "balanced"
    usual = {name: key for name, (key, _) in KEYS.items()}
    assert {name: one.default for name, one in chosen.properties.items()} == usual

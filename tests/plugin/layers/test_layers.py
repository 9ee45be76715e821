"""Layers become volumes and back: values, place in space, names and colours."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import DirectLabelColormap

from medsaga import MedsagaError, Volume, read_volume
from medsaga.frontend import ClassTable
from napari_medsaga.layers.convert import (
    as_image,
    as_labels,
    class_colours,
    class_names,
    geometry_of,
    index_on,
    labels_on,
    labels_options,
    lies_on,
    place_of,
    place_options,
    rename_classes,
    seen_at,
    slice_shown,
    unused_name,
    volume_of,
    world_affine,
)

SaveVolume = Callable[..., np.ndarray]

GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"scale": (5, 0.8, 0.7), "translate": (-412.5, 3, 9)},
    {"scale": (5, 0.8, 0.7), "rotate": 30},
    {"scale": (5, 0.8, 0.7), "rotate": (10, 20, 30), "translate": (1, 2, 3)},
    {"scale": (5, -0.8, 0.7), "shear": (0.1, 0.2, 0.3), "rotate": (10, 20, 30)},
    {"affine": np.array([[0, 2, 0, 5], [0, 0, -3, 1], [1, 0, 0.5, 2], [0, 0, 0, 1]])},
    {
        "scale": (2, 1, 1),
        "affine": np.diag([1, -1, -1, 1]),
        "units": ("mm", "um", "m"),
        "axis_labels": ("depth", "row", "column"),
    },
]


def corners_in_world(layer: Layer) -> np.ndarray:
    shape = np.array(layer.data.shape[: layer.ndim])
    ends = product(*((-0.5, n - 0.5) for n in shape))
    return np.array([layer.data_to_world(corner) for corner in ends])


def opened(volume: Volume) -> Image:
    return Image(volume.array, **place_options(volume))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_geometry_of_a_layer_puts_another_exactly_onto_it(
    geometry: dict[str, Any],
) -> None:
    image = Image(np.zeros((4, 5, 6)), **geometry)
    labels = Labels(np.zeros((4, 5, 6), int), **geometry_of(image))
    np.testing.assert_allclose(
        corners_in_world(labels), corners_in_world(image), atol=1e-9
    )
    assert labels.units == image.units
    assert labels.axis_labels == image.axis_labels
    assert lies_on(labels, image)


def test_the_geometry_is_a_copy() -> None:
    image = Image(np.zeros((4, 5, 6)), affine=np.diag([2.0, 2, 2, 1]))
    labels = Labels(np.zeros((4, 5, 6), int), **geometry_of(image))
    labels.affine = np.eye(4)
    assert image.affine.affine_matrix[0, 0] == 2


def test_the_place_in_the_file_goes_with_the_geometry(
    save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "ct.nii.gz", "ILP", angles=(0.2, 0.1, -0.1))
    image = opened(read_volume(tmp_path / "ct.nii.gz"))
    labels = Labels(np.zeros(image.data.shape, int), **geometry_of(image))
    assert place_of(labels) is place_of(image) is not None
    volume = volume_of(labels)
    np.testing.assert_array_equal(volume.affine, image.metadata["affine"])
    assert volume.source is volume_of(image).source


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_world_affine_agrees_with_the_layer(geometry: dict[str, Any]) -> None:
    layer = Image(np.zeros((4, 5, 6)), **geometry)
    point = np.array([1.5, 4, 2])
    np.testing.assert_allclose(
        (world_affine(layer) @ [*point, 1])[:3], layer.data_to_world(point)
    )


def test_a_straight_file_lies_where_its_affine_says(
    save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "ct.nii", "PIR")
    volume = read_volume(tmp_path / "ct.nii")
    layer = opened(volume)
    for index in ((0, 0, 0), (3, 2, 1), (6, 7, 8)):
        x, y, z = (volume.affine @ [*index[::-1], 1])[:3]
        # To the head, the back and the left.
        np.testing.assert_allclose(layer.data_to_world(index), (z, -y, -x), atol=1e-4)


def test_of_an_oblique_file_the_centre_and_the_voxels_are_kept(
    save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "ct.nii", angles=(0.4, 0.3, 0.2))
    volume = read_volume(tmp_path / "ct.nii")
    layer = opened(volume)
    x, y, z = (volume.affine @ [4, 3.5, 3, 1])[:3]
    np.testing.assert_allclose(layer.data_to_world((3, 3.5, 4)), (z, -y, -x))
    np.testing.assert_allclose(world_affine(layer)[:3, :3], np.diag([3, -2, -1.5]))


@pytest.mark.parametrize(
    ("layer", "shape", "spacing", "rgb", "is_2d"),
    [
        (Image(np.zeros((5, 6))), (1, 5, 6), None, False, True),
        (Image(np.zeros((5, 6, 3)), rgb=False), (5, 6, 3), None, False, False),
        (Image(np.zeros((5, 6, 3)), rgb=True), (1, 5, 6), None, True, True),
        (Image(np.zeros((4, 5, 6, 4)), rgb=True), (4, 5, 6), None, True, False),
        (Image(np.zeros((4, 5, 6))), (4, 5, 6), None, False, False),
        (
            Image(np.zeros((4, 5, 6)), scale=(5, 1, 2)),
            *((4, 5, 6), (5, 1, 2), False, False),
        ),
        (
            Image(np.zeros((4, 5, 6)), scale=(5, 1, 1), units="um"),
            *((4, 5, 6), (0.005, 0.001, 0.001), False, False),
        ),
        (
            Image(np.zeros((4, 5, 6)), scale=(5, 1, 2), rotate=(10, 20, 30)),
            *((4, 5, 6), (5, 1, 2), False, False),
        ),
        (
            Image(np.zeros((5, 6)), scale=(2, 3), units="mm"),
            *((1, 5, 6), (1, 2, 3), False, True),
        ),
    ],
)
def test_a_layer_is_a_volume_of_its_shape_and_spacing(
    layer: Image,
    shape: tuple[int, ...],
    spacing: tuple[float, ...] | None,
    rgb: bool,
    is_2d: bool,
) -> None:
    volume = volume_of(layer)
    assert volume.shape == shape
    assert volume.is_rgb == rgb
    assert volume.is_2d == is_2d
    assert volume.name == layer.name
    if spacing is None:
        assert volume.spacing is None
    else:
        np.testing.assert_allclose(volume.spacing, spacing)


def test_a_lazy_layer_is_computed_slice_by_slice() -> None:
    computed: list[Any] = []

    def load(block_info: Any = None) -> np.ndarray:
        computed.append(block_info[None]["array-location"][0][0])
        return np.full((1, 5, 6), computed[-1], np.int16)

    array = da.map_blocks(load, chunks=((1,) * 4, (5,), (6,)), dtype=np.int16)
    layer = Image(array, contrast_limits=(0, 4))
    computed.clear()
    volume = volume_of(layer)
    assert not computed
    assert (volume.slice(0, 2) == 2).all()
    assert set(computed) == {2}


class Stored:
    """An array that can do no more than zarr's and HDF5's, and notes what is read."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.n_read = array, 0
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, key: Any) -> np.ndarray:
        assert np.newaxis not in (key if isinstance(key, tuple) else (key,))
        self.n_read += self._array[key].size
        return self._array[key]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


@pytest.mark.parametrize("dtype", [np.int16, bool])
def test_a_stored_array_is_a_volume_that_is_not_read_yet(dtype: Any) -> None:
    stored = Stored(np.arange(20).reshape(4, 5).astype(dtype))
    layer = Image(stored, contrast_limits=(0, 20))
    stored.n_read = 0
    volume = volume_of(layer)
    assert volume.is_2d
    assert stored.n_read == 0
    np.testing.assert_array_equal(volume.slice(0, 0), np.asarray(stored))


def test_a_multiscale_layer_is_taken_at_its_finest() -> None:
    fine = np.random.default_rng(0).random((4, 8, 8))
    layer = Image([fine, fine[:, ::2, ::2]], multiscale=True, scale=(5, 1, 1))
    volume = volume_of(layer)
    np.testing.assert_array_equal(volume.array, fine)
    assert volume.spacing == pytest.approx((5, 1, 1))


def test_a_bool_layer_becomes_whole_numbers() -> None:
    volume = volume_of(Image(np.eye(4, dtype=bool)))
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array[0], np.eye(4))


@pytest.mark.parametrize("ndim", [4, 5])
def test_layers_of_more_axes_are_refused(ndim: int) -> None:
    with pytest.raises(MedsagaError, match=f"film has {ndim} axes"):
        volume_of(Labels(np.zeros((3,) * ndim, int), name="film"))


def test_a_cropped_or_rescaled_layer_has_left_its_files_place(
    save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "ct.nii")
    volume = read_volume(tmp_path / "ct.nii")
    assert volume_of(opened(volume)).source is not None
    cropped = Image(volume.array[1:], **place_options(volume))
    assert volume_of(cropped).source is None
    assert volume_of(cropped).spacing == pytest.approx(volume.spacing)
    rescaled = opened(volume)
    rescaled.scale = (6, 4, 3)
    assert volume_of(rescaled).affine is None
    assert volume_of(rescaled).spacing == pytest.approx((6, 4, 3))


def test_layers_of_one_shape_may_lie_apart() -> None:
    image = Image(np.zeros((4, 5, 6)), scale=(1, 1, -1))
    assert not lies_on(Labels(np.zeros((4, 5, 6), int)), image)
    assert not lies_on(Labels(np.zeros((4, 5, 7), int), scale=(1, 1, -1)), image)
    assert not lies_on(Labels(np.zeros((5, 6), int), scale=(1, -1)), image)
    assert lies_on(Labels(np.zeros((4, 5, 6), int), scale=(1, 1, -1)), image)


def test_mirrored_labels_are_turned_onto_the_image() -> None:
    image = Image(np.zeros((4, 5, 6)), scale=(1, 1, -1), translate=(0, 0, 5))
    data = np.random.default_rng(0).integers(0, 9, (4, 5, 6))
    mirrored = labels_on(Labels(data), image)
    np.testing.assert_array_equal(mirrored.array, data[:, :, ::-1])
    same = Labels(data, scale=(1, 1, -1), translate=(0, 0, 5))
    np.testing.assert_array_equal(labels_on(same, image).array, data)


def test_labels_that_lie_elsewhere_are_refused() -> None:
    image = Image(np.zeros((4, 5, 6)), name="ct")
    with pytest.raises(MedsagaError, match="does not lie on ct"):
        labels_on(Labels(np.zeros((4, 5, 6), int), translate=(0, 1, 0)), image)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_slice_shown_follows_mirrored_axes(
    axis: int, save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "ct.nii")
    viewer = ViewerModel()
    layer = viewer.add_layer(opened(read_volume(tmp_path / "ct.nii")))
    viewer.dims.order = (axis, *(a for a in range(3) if a != axis))
    for index in (0, 1, layer.data.shape[axis] - 1):
        centre = [n // 2 for n in layer.data.shape]
        centre[axis] = index
        viewer.dims.set_point(range(3), layer.data_to_world(centre))
        assert slice_shown(viewer, layer, axis) == index
        # What napari itself shows of the layer is that slice.
        assert layer._slice.slice_input.world_slice.point[axis] == pytest.approx(
            layer.data_to_world(centre)[axis]
        )
        shown = layer._slice.image.view
        np.testing.assert_array_equal(shown, layer.data.take(index, axis))


def test_each_layer_has_its_own_unit_and_the_viewer_the_smallest() -> None:
    viewer, options = ViewerModel(), {"name": "large"}
    mm = viewer.add_image(np.zeros((9, 4, 4)), scale=(2, 1, 1), units=("mm",) * 3)
    um = viewer.add_image(np.zeros((9, 4, 4)), scale=(2000, 1, 1), units=("um",) * 3)
    for index in (0, 3, 8):
        viewer.dims.set_point(0, seen_at(viewer, mm, 0, index)[0])
        assert slice_shown(viewer, mm, 0) == slice_shown(viewer, um, 0) == index
    labels = Labels(
        np.zeros((9, 4, 4), int), scale=(2000, 1000, 1000), units=("um",) * 3, **options
    )
    assert lies_on(labels, mm)
    assert not lies_on(labels, um)
    assert index_on(mm, labels, 0, 5) == 5


def test_colours_are_all_there_where_only_one_is_shown() -> None:
    for colormap in ({1: "red", 2: "lime", None: "white"}, None):
        options = {} if colormap is None else {"colormap": colormap}
        layer = Labels(np.zeros((4, 4), int), **options)
        before = class_colours(layer, [1, 2])
        layer.show_selected_label = True
        layer.selected_label = 1
        assert class_colours(layer, [1, 2]) == before
        table = ClassTable(values=(0,), names=("b",), colours=(None,))
        seen = labels_options(table, layer)["colormap"].map(np.array([1, 2]))
        assert (seen[:, 3] > 0).all()
        assert layer.show_selected_label


def test_the_slice_shown_stays_within_the_layer() -> None:
    viewer = ViewerModel()
    small = viewer.add_image(np.zeros((3, 4, 4)))
    viewer.add_image(np.zeros((30, 4, 4)))
    flat = viewer.add_image(np.zeros((4, 4)))
    viewer.dims.set_point(0, 20)
    assert slice_shown(viewer, small, 0) == 2
    assert slice_shown(viewer, flat, 0) in range(4)


CYCLIC = Labels(np.zeros((4, 4), int))
DIRECT = Labels(
    np.zeros((4, 4), int),
    colormap={0: "transparent", 1: "#ff0000", 7: "#00ff00", None: "#0000ff"},
)


@pytest.mark.parametrize("layer", [CYCLIC, DIRECT])
def test_the_colours_are_those_that_napari_draws(layer: Labels) -> None:
    colours = class_colours(layer, [0, 1, 7, 300])
    assert set(colours) == {1, 7, 300}
    for value, colour in colours.items():
        drawn = np.round(255 * np.ravel(layer.get_color(value))[:3]).astype(int)
        assert colour == "#{:02x}{:02x}{:02x}".format(*drawn)
    if layer is DIRECT:
        assert list(colours.values()) == ["#ff0000", "#00ff00", "#0000ff"]


TABLE = ClassTable(
    values=(0, 5, 2),
    names=("background", "liver", "spleen"),
    colours=(None, "red", None),
)


@pytest.mark.parametrize("like", [None, CYCLIC, DIRECT])
def test_labels_of_a_model_have_its_names_and_colours(like: Labels | None) -> None:
    layer = Labels(np.zeros((4, 4), int), **labels_options(TABLE, like))
    assert class_names(layer) == {0: "background", 5: "liver", 2: "spleen"}
    assert class_colours(layer, [5]) == {5: "#ff0000"}
    assert layer.get_color(0) is None or np.ravel(layer.get_color(0))[3] == 0
    if like is not None:
        others = [3, 7]
        assert class_colours(layer, others) == class_colours(like, others)


@pytest.mark.parametrize(
    "like",
    [
        None,
        CYCLIC,
        DIRECT,
        Labels(np.zeros((4, 4), int), colormap={1: "red", None: "transparent"}),
    ],
)
def test_a_value_that_the_user_adds_can_be_seen(like: Labels | None) -> None:
    layer = Labels(np.zeros((4, 4), int), **labels_options(TABLE, like))
    for value in (1, 2, 3, 77, 256, 70_000):
        assert np.ravel(layer.get_color(value))[3] == 1


def test_a_class_without_a_colour_gets_one_where_the_layer_has_none() -> None:
    like = Labels(np.zeros((4, 4), int), colormap={None: "white"})
    table = ClassTable(values=(0, 1, 2), names=("", "a", "b"), colours=(None,) * 3)
    colours = class_colours(
        Labels(np.zeros((4, 4), int), **labels_options(table, like)), [1, 2]
    )
    assert len({*colours.values(), "#ffffff"}) == 3
    assert isinstance(like.colormap, DirectLabelColormap)


@pytest.mark.parametrize(
    ("features", "names"),
    [
        (None, {}),
        ({"index": [0, 3], "size": [1.0, 2.0]}, {}),
        ({"index": [1, 3], "name": ["a", "b"]}, {1: "a", 3: "b"}),
        ({"index": [1, 3], "name": ["a", None]}, {1: "a"}),
        ({"name": ["zero", "one"]}, {0: "zero", 1: "one"}),
    ],
)
def test_names_are_read_as_napari_matches_them(
    features: dict[str, Any] | None, names: dict[int, str]
) -> None:
    assert class_names(Labels(np.zeros((4, 4), int), features=features)) == names


def test_renaming_keeps_everything_else() -> None:
    data = np.arange(16).reshape(4, 4)
    features = {"index": [0, 3, 5], "name": ["bg", "a", None], "size": [9, 7, 8]}
    layer = Labels(data.copy(), features=features)
    rename_classes(layer, {3: "liver", 11: "tumour"})
    assert class_names(layer) == {0: "bg", 3: "liver", 11: "tumour"}
    by_value = layer.features.set_index("index")
    assert by_value["size"][[0, 3, 5]].tolist() == [9, 7, 8]
    assert layer.get_status((0, 3))["value"] is not None
    np.testing.assert_array_equal(layer.data, data)


def test_a_layer_without_features_can_be_named() -> None:
    layer = Labels(np.zeros((4, 4), int))
    rename_classes(layer, {2: "liver"})
    rename_classes(layer, {1: "spleen", 2: "left liver"})
    assert class_names(layer) == {2: "left liver", 1: "spleen"}


@pytest.mark.parametrize(
    "data",
    [
        np.array([[0, 1], [200, 3]], np.uint8),
        np.array([[0.0, 1.0], [-200.0, 3.0]], np.float32),
        np.array([[True, False], [False, True]]),
        np.array([[0.0, 2.0**40], [1.0, 3.0]]),
        da.from_array(np.array([[0, 1], [200, 3]], np.int16)),
        np.broadcast_to(np.int32(4), (2, 2)),
    ],
)
def test_an_image_turns_into_labels_in_its_place(data: Any) -> None:
    image = Image(
        data, name="seg", scale=(2, 3), affine=np.diag([1, -1, 1]), metadata={"a": 1}
    )
    labels = Layer.create(*as_labels(image))
    assert isinstance(labels, Labels)
    np.testing.assert_array_equal(labels.data, np.asarray(data))
    assert labels.name == "seg"
    assert labels.metadata == {"a": 1}
    np.testing.assert_allclose(corners_in_world(labels), corners_in_world(image))
    labels.paint((1, 1), 5)
    assert labels.data[1, 1] == 5

    back = Layer.create(*as_image(labels))
    assert isinstance(back, Image)
    assert back.name == "seg"
    assert set(back.metadata) == {"a", "medsaga_classes"}
    assert back.metadata["a"] == 1
    np.testing.assert_allclose(corners_in_world(back), corners_in_world(image))


def test_names_and_colours_survive_the_way_to_an_image_and_back() -> None:
    labels = Labels(
        np.ones((4, 4), int),
        features={"index": [1], "name": ["liver"]},
        colormap={1: "#ff0000", None: "white"},
    )
    image = Layer.create(*as_image(labels))
    again = Layer.create(*as_labels(image))
    assert class_names(again) == {1: "liver"}
    assert class_colours(again, [1]) == {1: "#ff0000"}
    assert again.metadata == {}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image(np.array([[0.0, 0.5]]), name="map"), "map holds values"),
        (Image(np.array([[0.0, np.nan]]), name="map"), "map holds values"),
        (Image(np.array([[0.0, np.inf]]), name="map"), "map holds values"),
        (Image(np.zeros((4, 4, 3)), rgb=True, name="photo"), "photo is a colour"),
    ],
)
def test_what_holds_no_labels_is_not_turned(image: Image, message: str) -> None:
    with pytest.raises(MedsagaError, match=message):
        as_labels(image)


def test_the_place_in_the_file_survives_both_turns(
    save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "ct.nii", "ILP")
    image = opened(read_volume(tmp_path / "ct.nii"))
    labels = Layer.create(*as_labels(image))
    assert place_of(labels) is place_of(image)
    assert place_of(Layer.create(*as_image(labels))) is place_of(image)


def test_a_name_that_is_taken_is_counted_up() -> None:
    viewer = ViewerModel()
    assert unused_name(viewer, "prediction") == "prediction"
    viewer.add_image(np.zeros((4, 4)), name="prediction")
    viewer.add_image(np.zeros((4, 4)), name="prediction 2")
    assert unused_name(viewer, "prediction") == "prediction 3"

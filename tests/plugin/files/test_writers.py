"""What is painted comes back at the point of the patient where it was painted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import napari
import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils.interactions import mouse_press_callbacks, mouse_release_callbacks
from nibabel.affines import apply_affine, voxel_sizes

from medsaga import MedsagaError
from napari_medsaga.files.writers import write_image, write_labels
from napari_medsaga.layers.convert import geometry_of, place_of

SaveVolume = Callable[..., np.ndarray]
PLUGIN = "napari-medsaga"
ORDERS = [
    "".join(letters)
    for axes in permutations(("RL", "AP", "SI"))
    for letters in product(*axes)
]
TURNED = (0.3, -0.2, 0.25)


@pytest.fixture
def viewer(plugins: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[ViewerModel]:
    """A viewer without a window, a tenth of a second instead of one for each file."""
    model = ViewerModel()
    monkeypatch.setattr(napari, "current_viewer", lambda: model)
    return model


def new_labels(viewer: ViewerModel) -> Labels:
    """Make a Labels layer by hand, as its button does, on the layer that is active."""
    viewer._new_labels()
    return viewer.layers[-1]


def brush(
    viewer: ViewerModel, labels: Labels, world: Sequence[float], label: int = 1
) -> None:
    """Click with the brush at a point of the world, in the slice that is shown."""
    viewer.dims.set_point(range(3), world)
    labels.mode = "paint"
    labels.selected_label = label
    event = SimpleNamespace(
        type="mouse_press",
        position=tuple(world),
        view_direction=None,
        up_direction=None,
        dims_displayed=list(viewer.dims.displayed),
        dims_point=list(viewer.dims.point),
        is_dragging=False,
        button=1,
        modifiers=(),
        handled=False,
        pos=np.zeros(2),
    )
    mouse_press_callbacks(labels, event)
    event.type = "mouse_release"
    mouse_release_callbacks(labels, event)


def painted(path: Path, label: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Where a file's own affine puts what is painted: all of it, and the centre."""
    file = nib.load(path)
    points = apply_affine(file.affine, np.argwhere(np.asarray(file.dataobj) == label))
    return points, points.mean(axis=0)


def assert_same_grid(written: Path, source: Path) -> None:
    ours, theirs = nib.load(written), nib.load(source)
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    for field in ("sform_code", "qform_code", "xyzt_units", "pixdim", "descrip"):
        np.testing.assert_array_equal(ours.header[field], theirs.header[field])


def check_paint_comes_back(
    viewer: ViewerModel, source: Path, target: Path, point: Sequence[float]
) -> None:
    """Paint at (x, y, z) mm of a straight file, save, and look for the paint."""
    viewer.open(source, plugin=PLUGIN)
    labels = new_labels(viewer)
    labels.brush_size = 5
    x, y, z = point
    brush(viewer, labels, (z, -y, -x))
    assert labels.save(str(target), plugin=PLUGIN) == [str(target)]
    assert_same_grid(target, source)
    sizes = voxel_sizes(nib.load(source).affine)
    points, centre = painted(target)
    assert len(points) > 5
    assert np.abs(centre - point).max() <= sizes.max() / 2 + 1e-3
    viewer.layers.clear()


def test_paint_comes_back_to_its_point_in_all_48_axis_orders(
    viewer: ViewerModel, shared_data: Path, tmp_path: Path
) -> None:
    sources = sorted((shared_data / "odd-files/niivue_nifti_space").glob("*.nii.gz"))
    assert len(sources) == 48
    for source in sources:
        # The smallest files that show it: the fastest to be written.
        check_paint_comes_back(viewer, source, tmp_path / "seg.nii", (15, -20, 10))


@pytest.mark.parametrize("codes", ORDERS)
def test_paint_comes_back_to_its_point_in_small_files(
    codes: str, viewer: ViewerModel, save_volume: SaveVolume, tmp_path: Path
) -> None:
    assert len(set(ORDERS)) == 48
    save_volume(tmp_path / "ct.nii.gz", codes)
    target = tmp_path / "seg.nii.gz"
    check_paint_comes_back(viewer, tmp_path / "ct.nii.gz", target, (-14.2, 19.3, 16.5))


@pytest.mark.parametrize(
    ("codes", "axis"), [(c, a) for c in ("RAS", "PIR", "ILP") for a in range(3)]
)
def test_the_brush_paints_oblique_files_in_every_plane(
    codes: str,
    axis: int,
    viewer: ViewerModel,
    save_volume: SaveVolume,
    tmp_path: Path,
) -> None:
    save_volume(tmp_path / "mr.nii.gz", codes, angles=TURNED)
    (image,) = viewer.open(tmp_path / "mr.nii.gz", plugin=PLUGIN)
    labels = new_labels(viewer)
    labels.brush_size = 3
    viewer.dims.order = (axis, *(a for a in range(3) if a != axis))
    index = np.array([2, 3, 5])  # (z, y, x) of the canonical volume
    brush(viewer, labels, image.data_to_world(index), label=4)
    labels.save(str(tmp_path / "seg.nii.gz"), plugin=PLUGIN)

    assert_same_grid(tmp_path / "seg.nii.gz", tmp_path / "mr.nii.gz")
    points, centre = painted(tmp_path / "seg.nii.gz", 4)
    file = nib.as_closest_canonical(nib.load(tmp_path / "mr.nii.gz"))
    true_point = apply_affine(file.affine, index[::-1])
    np.testing.assert_allclose(centre, true_point, atol=1e-4)
    # The brush is round in mm, and all of it lies in the slice.
    back = apply_affine(np.linalg.inv(file.affine), points)[:, ::-1]
    assert len(points) >= 3
    np.testing.assert_allclose(back[:, axis], index[axis], atol=1e-4)


def test_a_window_saves_labels_in_the_place_of_the_image_beside_them(
    make_napari_viewer: Callable[[], Any], save_volume: SaveVolume, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    for name, codes in (("other", "RAS"), ("mr", "ILP")):
        save_volume(tmp_path / f"{name}.nii.gz", codes, angles=TURNED[: len(codes)])
    viewer.open(tmp_path / "mr.nii.gz", plugin=PLUGIN)
    labels = new_labels(viewer)
    assert place_of(labels) is None
    labels.data_setitem((np.array([2]), np.array([3]), np.array([5])), 6)
    labels.save(str(tmp_path / "seg.nii.gz"), plugin=PLUGIN)
    assert_same_grid(tmp_path / "seg.nii.gz", tmp_path / "mr.nii.gz")
    file = nib.as_closest_canonical(nib.load(tmp_path / "mr.nii.gz"))
    _, centre = painted(tmp_path / "seg.nii.gz", 6)
    np.testing.assert_allclose(centre, apply_affine(file.affine, [5, 3, 2]), atol=1e-4)
    # Opened again, they lie on the image.
    (again,) = viewer.open(tmp_path / "seg.nii.gz", plugin=PLUGIN)
    assert isinstance(again, Labels)
    np.testing.assert_array_equal(again.data, labels.data)


def test_labels_made_on_several_layers_go_back_unmirrored(
    viewer: ViewerModel, save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "mr.nii.gz", "PIR", angles=TURNED)
    (image,) = viewer.open(tmp_path / "mr.nii.gz", plugin=PLUGIN)
    viewer.add_labels(np.zeros(image.data.shape, int), **geometry_of(image))
    viewer.layers.selection = set(viewer.layers)
    labels = new_labels(viewer)
    assert labels.scale[1] > 0
    assert np.all(labels.affine.affine_matrix == np.eye(4))
    labels.brush_size = 1
    brush(viewer, labels, image.data_to_world((2, 3, 5)))
    labels.save(str(tmp_path / "seg.nii.gz"), plugin=PLUGIN)
    assert_same_grid(tmp_path / "seg.nii.gz", tmp_path / "mr.nii.gz")
    file = nib.as_closest_canonical(nib.load(tmp_path / "mr.nii.gz"))
    points, _ = painted(tmp_path / "seg.nii.gz")
    np.testing.assert_allclose(
        points, [apply_affine(file.affine, [5, 3, 2])], atol=1e-4
    )


@pytest.mark.parametrize("change", ["crop", "move", "coarsen"])
def test_a_layer_that_left_its_grid_keeps_its_place_in_the_patient(
    change: str, viewer: ViewerModel, save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "mr.nii.gz", "ILP", angles=TURNED)
    (image,) = viewer.open(tmp_path / "mr.nii.gz", plugin=PLUGIN)
    file = nib.as_closest_canonical(nib.load(tmp_path / "mr.nii.gz"))
    data, options = np.zeros((7, 8, 9), int), geometry_of(image)
    data[4, 5, 6] = 1
    true_point = apply_affine(file.affine, [6, 5, 4])
    if change == "crop":
        data = data[1:, 2:]
        options["translate"] = image.translate + image.scale * [1, 2, 0]
    elif change == "coarsen":
        data = data[::2]
        options["scale"] = image.scale * [2, 1, 1]
    else:
        options["translate"] = image.translate + image.scale * [0, 0, 2]
        true_point = apply_affine(file.affine, [8, 5, 4])
    layer = viewer.add_labels(data, **options)
    layer.save(str(tmp_path / "seg.nii"), plugin=PLUGIN)
    points, _ = painted(tmp_path / "seg.nii")
    np.testing.assert_allclose(points, [true_point], atol=1e-3)


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"scale": (5, 0.8, 0.7), "translate": (-412, 3, 9), "units": "mm"},
        {"scale": (50, 8, 7), "rotate": (10, 20, 30), "units": "um"},
        {"scale": (3, -2, 1), "affine": np.diag([1, -1, -1, 1]), "units": "mm"},
    ],
)
def test_a_layer_without_a_file_opens_where_it_was(
    geometry: dict[str, Any], viewer: ViewerModel, tmp_path: Path
) -> None:
    layer = viewer.add_labels(np.zeros((4, 5, 6), np.uint8), **geometry)
    layer.data[1, 2, 3] = layer.data[1, 2, 4] = 1
    layer.save(str(tmp_path / "labels.nii.gz"), plugin=PLUGIN)
    mm = 0.001 if geometry.get("units") == "um" else 1.0
    in_mm = np.array([layer.data_to_world(i) for i in np.argwhere(layer.data)]) * mm
    points, _ = painted(tmp_path / "labels.nii.gz")
    shown = points[:, ::-1] * [1, -1, -1]  # to the head, the back and the left
    np.testing.assert_allclose(by_row(shown), by_row(in_mm), rtol=1e-5, atol=1e-5)
    if "rotate" not in geometry:
        (again,) = viewer.open(tmp_path / "labels.nii.gz", plugin=PLUGIN)
        there = [again.data_to_world(index) for index in np.argwhere(again.data)]
        np.testing.assert_allclose(by_row(there), by_row(in_mm), atol=1e-4)


def by_row(points: Any) -> list[list[float]]:
    return sorted(np.round(points, 6).tolist())


@pytest.mark.parametrize("name", ["xray.nii.gz", "xray.nii"])
def test_a_2d_layer_stays_2d(name: str, viewer: ViewerModel, tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(4, 3)
    nib.Nifti1Image(pixels, np.diag([-2.0, 3, 1, 1])).to_filename(tmp_path / name)
    viewer.open(tmp_path / name, plugin=PLUGIN)
    labels = new_labels(viewer)
    labels.data[2, 1] = 1  # (y, x)
    labels.save(str(tmp_path / "mask.nii.gz"), plugin=PLUGIN)
    assert_same_grid(tmp_path / "mask.nii.gz", tmp_path / name)
    written = nib.load(tmp_path / "mask.nii.gz")
    assert np.argwhere(np.asarray(written.dataobj)).tolist() == [[1, 2]]

    viewer.layers.clear()
    plain = viewer.add_labels(labels.data, scale=(2, 3), units="mm")
    plain.save(str(tmp_path / "plain.nii"), plugin=PLUGIN)
    assert nib.load(tmp_path / "plain.nii").shape == (3, 4)[::-1]
    (again,) = viewer.open(tmp_path / "plain.nii", plugin=PLUGIN, layer_type="labels")
    np.testing.assert_array_equal(again.data, plain.data)
    np.testing.assert_allclose(again.scale, (2, 3))


def test_labels_on_2d_files_of_different_places_are_not_given_one_of_them(
    viewer: ViewerModel, tmp_path: Path
) -> None:
    for name, height in (("a.nii", 0.0), ("b.nii", 7.0)):
        affine = np.diag([2.0, 3, 1, 1])
        affine[2, 3] = height
        pixels = np.zeros((4, 3), np.uint8)
        nib.Nifti1Image(pixels, affine).to_filename(tmp_path / name)
        viewer.open(tmp_path / name, plugin=PLUGIN)
    labels = new_labels(viewer)
    with pytest.raises(MedsagaError, match="close the others"):
        labels.save(str(tmp_path / "mask.nii.gz"), plugin=PLUGIN)
    viewer.layers.remove("a")
    labels.save(str(tmp_path / "mask.nii.gz"), plugin=PLUGIN)
    assert_same_grid(tmp_path / "mask.nii.gz", tmp_path / "b.nii")


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.int16, -1024, 3071),
        (np.uint8, 0, 255),
        (np.float32, -0.5, 0.5),
        (np.float64, 0, 1),
        (bool, 0, 1),
        (np.int32, -100_000, 100_000),
    ],
)
def test_images_keep_their_values(
    dtype: type, low: float, high: float, viewer: ViewerModel, tmp_path: Path
) -> None:
    values = np.linspace(low, high, 4 * 5 * 6).reshape(4, 5, 6).astype(dtype)
    layer = viewer.add_image(values)
    layer.save(str(tmp_path / "image.nii.gz"), plugin=PLUGIN)
    (again,) = viewer.open(tmp_path / "image.nii.gz", plugin=PLUGIN)
    # The file's axes are turned to the patient's, and its layer's turned back.
    np.testing.assert_allclose(again.data[:, ::-1, ::-1], values, rtol=1e-6)
    is_fraction = np.issubdtype(dtype, np.floating)
    assert (again.data.dtype == np.float32) == is_fraction


def test_an_image_goes_back_into_its_file_value_for_value(
    viewer: ViewerModel, save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "ct.nii.gz", "SPL", angles=TURNED)
    (layer,) = viewer.open(tmp_path / "ct.nii.gz", plugin=PLUGIN)
    layer.data = layer.data - 500
    layer.save(str(tmp_path / "shifted.nii.gz"), plugin=PLUGIN)
    assert_same_grid(tmp_path / "shifted.nii.gz", tmp_path / "ct.nii.gz")
    before, after = (
        np.asarray(nib.load(tmp_path / name).dataobj)
        for name in ("ct.nii.gz", "shifted.nii.gz")
    )
    np.testing.assert_array_equal(after, before - 500)
    assert after.dtype == np.int16


def test_a_lazy_image_is_computed_and_a_pyramid_written_at_its_finest(
    viewer: ViewerModel, tmp_path: Path
) -> None:
    fine = np.arange(4 * 8 * 8, dtype=np.int16).reshape(4, 8, 8) - 99
    pyramid = [da.from_array(level, chunks=2) for level in (fine, fine[:, ::2, ::2])]
    for name, data in (("lazy", pyramid[0]), ("pyramid", pyramid)):
        layer = Image(data, multiscale=name == "pyramid", contrast_limits=(-99, 99))
        layer.save(str(tmp_path / f"{name}.nii"), plugin=PLUGIN)
        written = np.asarray(nib.load(tmp_path / f"{name}.nii").dataobj)
        np.testing.assert_array_equal(written.T, fine)


def test_what_nifti_cannot_hold_is_refused_in_a_sentence(
    plugins: None, tmp_path: Path
) -> None:
    path = str(tmp_path / "no.nii.gz")
    photo = Image(np.zeros((4, 5, 3), np.uint8), rgb=True, name="photo")
    with pytest.raises(MedsagaError, match=r"photo is a colour image.*TIFF"):
        photo.save(path, plugin=PLUGIN)
    film = Labels(np.zeros((2, 3, 4, 5), int), name="film")
    with pytest.raises(MedsagaError, match="film has 4 axes"):
        film.save(path, plugin=PLUGIN)
    with pytest.raises(MedsagaError, match="complex numbers"):
        write_image(path, np.zeros((4, 5), complex), {"name": "phase"})
    with pytest.raises(MedsagaError, match=r"end the name in \.nii"):
        write_labels(str(tmp_path / "no.mgz"), np.zeros((4, 5), int), {})
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MedsagaError, match="cannot be written"):
        write_labels(str(tmp_path / "file" / "no.nii"), np.zeros((4, 5), int), {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_saving_leaves_the_layer_as_it_is(
    viewer: ViewerModel, save_volume: SaveVolume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "ct.nii.gz", "ILP")
    viewer.open(tmp_path / "ct.nii.gz", plugin=PLUGIN)
    labels = new_labels(viewer)
    labels.data[:] = np.arange(7)[:, None, None]
    before = labels.data.copy()
    labels.save(str(tmp_path / "seg.nii.gz"), plugin=PLUGIN)
    np.testing.assert_array_equal(labels.data, before)
    assert [layer.name for layer in viewer.layers] == ["ct", "ct - Labels"]

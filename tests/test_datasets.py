"""The paper's data sets, in tiny folders of their official layouts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as imageio
import nibabel as nib
import numpy as np
import pytest

import medsaga
from medsaga import MedsagaError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MODULES = (
    "chest_xray8",
    "few_shot",
    "images",
    "paper_sets",
    "patients",
    "remembered",
    "tasks",
)


@pytest.fixture
def tasks(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import remembered
    import tasks

    monkeypatch.setattr(remembered, "user_cache_path", lambda _: tmp_path / "cache")
    yield tasks
    for name in MODULES:
        sys.modules.pop(name, None)


def write_nifti(path: Path, array: np.ndarray) -> None:
    """Write (z, y, x) so that it is read as (z, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array.transpose(2, 1, 0), np.diag([2.0, 3.0, 5.0, 1.0]))
    nib.save(image, path)


def write_pair(image: Path, labels: Path, number: int, truth: np.ndarray) -> None:
    """Write an image that tells patient, slice and class of each voxel."""
    slices = np.arange(len(truth))[:, None, None]
    pixels = 1000 * number + 100 * slices + truth
    write_nifti(image, pixels.astype(np.int16))
    write_nifti(labels, truth.astype(np.uint8))


def check_pair(image, truth) -> tuple[int, set[int]]:
    """Check each labelled voxel against its image; give the patient and its slices."""
    z = truth.array.any(axis=(1, 2))
    inside = truth.array > 0
    assert (image.array % 100)[inside].tolist() == truth.array[inside].tolist()
    told = image.array[inside] // 100
    (patient,) = set((told // 10).tolist())
    slices = set((told % 10).tolist())
    assert len(slices) == np.count_nonzero(z)
    return patient, slices


@pytest.fixture
def spleen(tmp_path) -> Path:
    """Ten patients of 6 slices, with a spleen on slices 2 to 4."""
    root = tmp_path / "Task09_Spleen"
    listed = []
    for number in range(10):
        truth = np.zeros((6, 4, 5), int)
        truth[2:5, 1, number % 5] = 1
        name = f"spleen_{number}.nii.gz"
        write_pair(root / "imagesTr" / name, root / "labelsTr" / name, number, truth)
        (root / "imagesTr" / f"._{name}").write_bytes(b"macOS")
        listed.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    text = json.dumps({"training": listed, "test": ["./imagesTs/spleen_1.nii.gz"]})
    (root / "dataset.json").write_text(text)
    return root


def test_spleen_trains_on_n_slices_and_judges_other_patients(tasks, spleen):
    task = tasks.make_task("spleen-msd", spleen, 7)
    training = dict(check_pair(*pair) for pair in task.training)
    assert sum(map(len, training.values())) == 7
    judged = {}
    for image, truth, slices in task.test:
        assert slices == [0, 1, 2]
        assert image.spacing == (5, 3, 2)
        patient, judged[patient] = check_pair(image, truth)
    assert len(judged) == 2
    assert all(slices == {2, 3, 4} for slices in judged.values())
    assert not judged.keys() & training.keys()
    assert set().union(*training.values()) <= {2, 3, 4}
    assert task.axis == 0
    assert not task.keeps_neighbours
    assert task.facts == {
        "split_seed": 0,
        "patients_drawn_from": 8,
        "patients_judged": 2,
        "slices_judged": 6,
    }


def test_more_slices_contain_fewer_and_the_seed_names_the_split(tasks, spleen):
    def drawn(n, **options):
        task = tasks.PAPER_TASKS["spleen-msd"](spleen, n, **options)
        told = [check_pair(image, labels) for image, labels in task.training]
        return {(patient, z) for patient, slices in told for z in slices}

    assert drawn(5) == drawn(5)
    assert drawn(5) < drawn(9)
    assert drawn(24) != drawn(24, seed=1)  # other patients: these are all slices


def test_fewer_patients_are_judged_on_request(tasks, spleen):
    whole = tasks.make_task("spleen-msd", spleen, 3)
    cut = tasks.make_task("spleen-msd@1", spleen.parent, 3)
    assert [image.name for image, _, _ in cut.test] == [whole.test[0][0].name]
    assert cut.facts["slices_judged"] == 3


def test_labels_are_looked_through_once(tasks, spleen, monkeypatch):
    tasks.make_task("spleen-msd", spleen, 3)
    looked = []
    read = medsaga.read_labels
    monkeypatch.setattr(
        medsaga, "read_labels", lambda path: looked.append(path) or read(path)
    )
    assert len(tasks.make_task("spleen-msd", spleen, 1).training) == len(looked) == 1
    changed = spleen / "labelsTr" / "spleen_3.nii.gz"
    write_nifti(changed, np.ones((6, 4, 5), np.uint8))
    tasks.make_task("spleen-msd", spleen, 1)
    assert len(looked) == 12


def test_amos_takes_cts_with_five_organs_and_pads_them(tasks, tmp_path):
    for number, part in ((1, "Tr"), (4, "Tr"), (8, "Va"), (507, "Tr")):
        truth = np.zeros((8, 3, 9), int)
        for z in range(8):
            truth[z, 1, :z] = np.arange(1, z + 1)  # slice z shows z organs
        name = f"amos_{number:04}.nii.gz"
        folder = tmp_path / "amos22"
        images, labels = folder / f"images{part}", folder / f"labels{part}"
        write_pair(images / name, labels / name, number % 30, truth)
    task = tasks.make_task("amos", tmp_path, 4)
    pairs = [*task.training, *[(image, truth) for image, truth, _ in task.test]]
    found = [check_pair(*pair) for pair in pairs]
    assert {patient for patient, _ in found} == {1, 4, 8}
    assert sum(len(slices) for _, slices in found[:-1]) == 4
    assert found[-1][1] == {5, 6, 7}
    ((image, truth, slices),) = task.test
    assert slices == [0, 1, 2]
    assert truth.shape == (3, 512, 512)
    top, left = (512 - 3) // 2, (512 - 9) // 2
    assert truth.array[0, top + 1, left : left + 9].tolist() == [
        1,
        2,
        3,
        4,
        5,
        *[0] * 4,
    ]
    assert image.array[0, 0, 0] == image.array.min()


def test_isles_keeps_the_volume_and_brings_it_to_112(tasks, tmp_path):
    root = tmp_path / "ISLES-2022"
    for number in range(1, 6):
        sub = f"sub-strokecase{number:04}"
        truth = np.zeros((4, 16, 8), int)
        truth[1:3, 2:4, 5] = 1
        first = number == 2  # the layout of the first release
        folder = (
            root / "rawdata" / sub / "ses-0001"
            if first
            else root / sub / "ses-0001" / "dwi"
        )
        mask = root / "derivatives" / sub / "ses-0001" / f"{sub}_ses-0001_msk.nii.gz"
        image = folder / f"{sub}_ses-0001_dwi.nii.gz"
        write_pair(image, mask, number, truth if number != 5 else 0 * truth)
    task = tasks.make_task("isles", root, 5)
    assert task.keeps_neighbours
    assert len(task.training) == 3  # of the four with a lesion
    labelled = [labels.array.any(axis=(1, 2)).tolist() for _, labels in task.training]
    assert sum(flags[1] + flags[2] for flags in labelled) == 5
    assert not any(flags[0] or flags[3] for flags in labelled)
    ((image, truth, slices),) = task.test
    assert slices == [1, 2]
    assert image.shape == truth.shape == (4, 112, 112)
    assert image.spacing == pytest.approx((5, 3 / 7, 2 / 7))
    lesion = np.zeros((112, 112), bool)
    lesion[14:28, 28 + 35 : 28 + 42] = True  # seven times as large, 28 of padding
    assert (truth.array[1] == lesion).all()
    inner = image.array[1, 17:25, 28 + 38]
    assert (inner % 100 == 1).all()


def test_slices_larger_than_the_square_are_scaled_down(tasks):
    from images import on_square

    truth = np.zeros((1, 40, 20), np.uint8)
    truth[0, :20, :10], truth[0, 20:, 10:] = 3, 9
    volume = medsaga.volume_from_array(truth, spacing=(1.0, 2.0, 2.0))
    small = on_square(volume, 20, enlarge=False, is_labels=True)
    assert small.spacing == (1, 4, 4)
    expected = np.zeros((20, 20))
    expected[:10, 5:10], expected[10:, 10:15] = 3, 9
    assert (small.array[0] == expected).all()


def test_runs_are_decoded_row_by_row_from_pixel_one(tasks):
    from chest_xray8 import decode_runs

    mask = decode_runs("2 3 7 1 24 1", 4, 6)
    expected = np.zeros((4, 6), bool)
    expected[0, 1:4] = expected[1, 0] = expected[3, 5] = True
    assert (mask == expected).all()
    assert not decode_runs("", 4, 6).any()
    for wrong in ("0 2", "24 2", "3"):
        with pytest.raises(MedsagaError, match="download the table again"):
            decode_runs(wrong, 4, 6)


def encode_runs(mask: np.ndarray) -> str:
    return " ".join(f"{pixel + 1} 1" for pixel in np.flatnonzero(mask))


@pytest.fixture
def chest(tmp_path) -> Path:
    """Five patients with two X-rays each, but for what is named in the test below."""
    root = tmp_path / "nih"
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,"
    header += "Patient Gender,View Position,OriginalImage[Width,Height],"
    header += "OriginalImagePixelSpacing[x,y],"
    entries = [header]
    masks = ["Image Index,Dice RCA (Mean),Dice RCA (Max),Landmarks,Left Lung,"]
    masks[0] += "Right Lung,Heart,Height,Width"
    for patient in range(1, 6):
        for visit in range(2):
            name = f"{patient:08}_{visit:03}.png"
            entries.append(
                f"{name},No Finding,{visit},{patient},58,M,PA,2682,2749,0.143,0.143,"
            )
            truth = np.zeros((8, 8), np.uint8)
            truth[2, 5], truth[3, 1], truth[patient, 3] = 1, 2, 3
            runs = ",".join(encode_runs(truth == value) for value in (1, 2, 3))
            quality = 0.69 if name == "00000003_001.png" else 0.7
            masks.append(f'{name},{quality},0.9,"381,223,345",{runs},8,8')
            if name == "00000004_000.png":
                continue
            folder = root / f"images_00{1 + patient // 3}" / "images"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = 40 * patient + 5 * visit + truth
            if name == "00000001_000.png":
                pixels = np.dstack([pixels] * 3 + [np.full_like(pixels, 255)])
            imageio.imwrite(folder / name, pixels.astype(np.uint8))
    (root / "Data_Entry_2017.csv").write_text("\n".join(entries) + "\n")
    (root / "OriginalResolution").mkdir()
    table = root / "OriginalResolution" / "ChestX-Ray8.csv"
    table.write_text("\n".join(masks) + "\n")
    return root


def test_chest_x_rays_get_their_masks_and_are_split_by_patient(tasks, chest):
    task = tasks.make_task("chestxray8", chest, 5)
    images = [*task.training, *[(image, truth) for image, truth, _ in task.test]]
    for image, truth in images:
        patient = int(image.name[:8])
        visit = int(image.name[9:])
        assert truth.shape == image.shape == (1, 512, 512)
        expected = np.zeros((8, 8), int)
        expected[2, 5], expected[3, 1], expected[patient, 3] = 1, 2, 3
        assert (truth.array[0] == expected.repeat(64, 0).repeat(64, 1)).all()
        pixels = image.array[0].astype(int) - truth.array[0]
        assert (pixels == 40 * patient + 5 * visit).all()
    assert len(task.training) == 5
    trained = {image.name[:8] for image, _ in task.training}
    judged = {image.name[:8] for image, _, _ in task.test}
    assert len(judged) == 1
    assert not trained & judged
    everything = tasks.make_task("chestxray8", chest, 8 - len(task.test)).training
    names = {image.name for image, _ in everything}
    names |= {image.name for image, _, _ in task.test}
    assert len(names) == 8
    assert not names & {"00000003_001", "00000004_000"}  # bad mask, not unpacked


def test_the_judge_scores_the_slices_that_count(tasks, spleen):
    import few_shot

    task = tasks.make_task("spleen-msd", spleen, 1)
    fitted = SimpleNamespace(
        predict=lambda image, way: image.array % 100, values=(1,), votes=False
    )
    (scores,) = few_shot.judge(fitted, task, [medsaga.SegmentSettings()])
    assert scores["dice"] == {"1": 1.0}
    assert scores["hd95"] == {"1": 0.0}


@pytest.mark.parametrize("name", ["amos", "chestxray8", "isles", "spleen-msd"])
def test_a_wrong_folder_is_told_what_belongs_there(tasks, tmp_path, name):
    told = r"does not hold .*: give the folder .*(from|unpacks to)"
    with pytest.raises(MedsagaError, match=told):
        tasks.make_task(name, tmp_path, 5)


def test_the_command_ends_with_the_sentence(tasks, tmp_path, monkeypatch):
    import few_shot

    def run_cell(data, cell):
        tasks.make_task(cell["task"], data, 1)

    monkeypatch.setattr(few_shot, "run_cell", run_cell)
    out = tmp_path / "cell.json"
    command = ["few_shot.py", str(tmp_path), str(out), "--cell", '{"task": "isles"}']
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="does not hold ISLES 2022"):
        few_shot.main()
    assert not out.exists()


def test_missing_files_are_named(tasks, spleen, chest):
    (spleen / "imagesTr" / "spleen_4.nii.gz").unlink()
    with pytest.raises(MedsagaError, match=r"spleen_4\.nii\.gz is missing"):
        tasks.make_task("spleen-msd", spleen, 1)
    table = chest / "OriginalResolution" / "ChestX-Ray8.csv"
    text = table.read_text()
    table.write_text(text.replace("Heart", "Herz"))
    with pytest.raises(MedsagaError, match="no column Heart"):
        tasks.make_task("chestxray8", chest, 1)
    table.unlink()
    with pytest.raises(MedsagaError, match="no masks: put CheXmask's"):
        tasks.make_task("chestxray8", chest, 1)
    table.write_text(text)
    (chest / "Data_Entry_2017.csv").unlink()
    with pytest.raises(MedsagaError, match=r"no Data_Entry_2017\.csv"):
        tasks.make_task("chestxray8", chest, 1)


def test_what_cannot_be_drawn_or_judged_is_refused(tasks, spleen, monkeypatch):
    with pytest.raises(MedsagaError, match="have 24 slices that can be used, and 25"):
        tasks.make_task("spleen-msd", spleen, 25)
    for name in ("lung", "ct@3", "amos@", "amos@0"):
        with pytest.raises(MedsagaError, match="no task"):
            tasks.make_task(name, spleen, 1)
    one = {
        "training": json.loads((spleen / "dataset.json").read_text())["training"][:1]
    }
    (spleen / "dataset.json").write_text(json.dumps(one))
    with pytest.raises(MedsagaError, match=r"1 patient\(s\).* at least two"):
        tasks.make_task("spleen-msd", spleen, 1)

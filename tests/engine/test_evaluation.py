"""Mask files scored against their truths: pairs, failures, stops."""

import math
from pathlib import Path

import numpy as np
import pytest

from medsaga import MedsagaError, Volume, drain, evaluate, score, volume_from_array
from medsaga.data.files import write_volume
from medsaga.events import Notice, Scoring

SPACING = (2.0, 1.0, 1.0)


def blobs(seed: int, shape: tuple[int, ...] = (6, 12, 12)) -> np.ndarray:
    noise = np.random.default_rng(seed).random(shape)
    return np.digitize(noise, [0.5, 0.8]).astype(np.uint8)


def save(array: np.ndarray, path: Path, x_size: float = 1.0) -> Path:
    affine = np.diag([x_size, 1.0, 2.0, 1.0])
    return write_volume(Volume(array=array, affine=affine), path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Masks and truths: `a` is perfect, `b` is not, `extra` and `lonely` are alone."""
    masks, truths = tmp_path / "masks", tmp_path / "truths"
    for name, seed in (("b", 2), ("a", 1)):
        save(blobs(1), truths / f"{name}.nii.gz")
        save(blobs(seed), masks / f"{name}.nii")
    save(blobs(1), masks / "extra.nii")
    save(blobs(1), truths / "lonely.nii")
    return masks, truths


def test_files_are_paired_by_name_and_scored_in_mm(folders):
    events = []
    found = drain(evaluate(*folders), events.append)
    assert list(found.scores) == ["a", "b"]
    assert found.scores["a"].mean_dice == 1
    assert found.scores["b"] == score(blobs(2), blobs(1), spacing=SPACING)
    assert found.unit == "mm"
    assert found.is_complete
    assert found.without_prediction == ("lonely.nii",)
    assert [e for e in events if isinstance(e, Scoring)] == [
        Scoring(done=done, total=2) for done in range(2)
    ]
    assert Notice(message="No prediction for: lonely.nii.") in events


def test_a_class_is_averaged_over_the_files_that_have_it(folders):
    masks, truths = folders
    for folder in folders:
        only_one = np.minimum(blobs(3), 1)
        save(only_one, folder / "c.nii")
    found = drain(evaluate(masks, truths))
    one, two = found.by_class[1], found.by_class[2]
    assert (one.n_files, two.n_files) == (3, 2)
    dice = [scores.dice[2] for name, scores in found.scores.items() if name != "c"]
    assert two.dice == pytest.approx(np.mean(dice))
    assert found.mean_dice == pytest.approx((one.dice + two.dice) / 2)


def test_2d_files_are_scored_in_pixels(tmp_path):
    truth, prediction = blobs(1, (20, 20)), blobs(2, (20, 20))
    write_volume(volume_from_array(truth), tmp_path / "t.png")
    write_volume(volume_from_array(prediction), tmp_path / "p.png")
    found = drain(evaluate(tmp_path / "p.png", tmp_path / "t.png"))
    assert dict(found.scores) == {"p": score(prediction, truth)}
    assert found.unit == "pixels"


def test_hd95_has_no_mean_over_files_of_different_units(folders):
    for folder in folders:
        write_volume(volume_from_array(blobs(1, (20, 20))), folder / "flat.png")
    found = drain(evaluate(*folders))
    assert found.unit is None
    assert math.isnan(found.by_class[1].hd95)
    assert math.isnan(found.mean_hd95)
    assert math.isnan(found.mean_surface_dice)
    assert found.mean_dice > 0


def test_a_pair_that_fails_costs_no_other(folders):
    masks, truths = folders
    save(blobs(1)[1:], masks / "a.nii")
    notices = []
    found = drain(evaluate(masks, truths), notices.append)
    assert list(found.scores) == ["b"]
    assert "5 x 12 x 12" in found.failed["a.nii"]
    message = f"a.nii failed: {found.failed['a.nii']}"
    assert Notice(message=message) in notices
    with pytest.raises(MedsagaError, match="5 x 12 x 12"):
        drain(evaluate(masks / "a.nii", truths / "a.nii.gz"))


def test_masks_that_lie_elsewhere_are_refused(tmp_path):
    truth = save(blobs(1), tmp_path / "t.nii")
    mask = save(blobs(1), tmp_path / "elsewhere.nii", x_size=1.5)
    with pytest.raises(MedsagaError, match="lie elsewhere in space"):
        drain(evaluate(mask, truth))


def test_too_little_memory_is_said_and_costs_no_other(folders, monkeypatch):
    def score_or_run_out(predicted, true, **options):
        if np.array_equal(predicted, true):
            raise MemoryError
        return score(predicted, true, **options)

    monkeypatch.setattr("medsaga.evaluation.score", score_or_run_out)
    found = drain(evaluate(*folders))
    assert list(found.scores) == ["b"]
    assert "memory does not suffice to score" in found.failed["a.nii"]


def test_a_stop_gives_the_scores_so_far(folders):
    seen = []
    found = drain(
        evaluate(*folders),
        seen.append,
        should_stop=lambda: Scoring(done=1, total=2) in seen,
    )
    assert list(found.scores) == ["a"]
    assert not found.is_complete


def test_two_masks_of_one_name_are_refused(folders):
    masks, truths = folders
    save(blobs(1), masks / "a.nii.gz")
    with pytest.raises(MedsagaError, match="2 files for a"):
        drain(evaluate(masks, truths))


def test_an_image_is_no_mask(folders):
    masks, truths = folders
    save(np.arange(6 * 12 * 12).reshape(6, 12, 12), masks / "a.nii")
    with pytest.raises(MedsagaError, match="as an image does"):
        drain(evaluate(masks / "a.nii", truths / "a.nii.gz"))


def test_pictures_of_few_greys_are_no_masks(tmp_path):
    """They were scored for each of their greys."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (64, 64), dtype=np.uint8)
    write_volume(volume_from_array(picture), tmp_path / "xray.png")
    with pytest.raises(MedsagaError, match="as an image does"):
        drain(evaluate(tmp_path / "xray.png", tmp_path / "xray.png"))
    regions = np.repeat(np.repeat(np.arange(64, dtype=np.uint8), 8), 8).reshape(64, 64)
    write_volume(volume_from_array(regions), tmp_path / "regions.png")
    scored = drain(evaluate(tmp_path / "regions.png", tmp_path / "regions.png"))
    assert scored.scores["regions"].dice[3] == 1.0

"""Many images as one stream: each has its own end, and none costs the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.phantom import make_phantom

from medsaga import (
    MedsagaError,
    SegmentSettings,
    Stop,
    drain,
    segment,
    segment_batch,
    volume_from_array,
)
from medsaga.events import ItemEvent, ItemStarted, Notice
from medsaga.frontend import BatchItem, ItemEnded, batch_items


def make_volume(n_slices: int = 3):
    return volume_from_array(make_phantom(n_slices)[0], name=f"{n_slices} slices")


def save(folder, *names):
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in names]
    for path in paths:
        np.save(path, make_phantom(2)[0])
    return paths


def test_a_bad_item_does_not_stop_the_others_and_keeps_its_error(model, tmp_path):
    volume = make_volume()
    items = [
        BatchItem(image=tmp_path / "absent.nii.gz"),
        BatchItem(image=replace(volume, array=None)),
        BatchItem(image=volume),
    ]
    events = []
    results = drain(
        segment_batch(model, items, out=tmp_path / "out"), on_event=events.append
    )
    assert [r.status for r in results] == ["failed", "failed", "done"]
    absent, broken, done = results
    assert "absent.nii.gz" in absent.message
    assert absent.unexpected is None
    assert broken.unexpected is broken.error
    assert broken.message.startswith("Unexpected error: ")
    assert done.message == ""
    ended = [e for e in events if isinstance(e, ItemEnded)]
    assert [e.number for e in ended] == [0, 1, 2]
    assert [e.segmentation is None for e in ended] == [True, True, False]
    mask = drain(segment(model, volume)).mask.array
    assert np.array_equal(ended[-1].segmentation.mask.array, mask)


def test_a_stop_ends_the_batch_and_a_skip_only_its_item(model):
    items = batch_items([make_volume(4) for _ in range(3)])
    events = []

    def skip_the_first_and_note(event):
        events.append(event)
        if isinstance(event, ItemEvent) and event.number == 0:
            items[0].skip.set()

    def is_at_the_second():
        return isinstance(events[-1], ItemEvent) and events[-1].number == 1

    results = drain(
        segment_batch(model, items),
        skip_the_first_and_note,
        should_stop=is_at_the_second,
    )
    assert [r.status for r in results] == ["stopped"] * 3
    kinds = [ItemStarted, ItemEvent, ItemEnded]
    assert [(type(e), e.number) for e in events] == [
        *((kind, 0) for kind in kinds),
        *((kind, 1) for kind in kinds),
    ]


@pytest.mark.parametrize("n_before", [0, 1])
def test_a_stop_before_the_first_slice_is_a_stop(model, n_before, tmp_path):
    (file,) = save(tmp_path, "x.npy")
    stream = segment_batch(model, [make_volume(1), file], out=tmp_path / "out")
    for _ in range(1 + 3 * n_before):
        started = next(stream)
    assert isinstance(started, ItemStarted)
    assert isinstance(stream.throw(Stop()), ItemEnded)
    with pytest.raises(StopIteration) as end:
        next(stream)
    statuses = [r.status for r in end.value.value]
    assert statuses == [["stopped", "stopped"], ["done", "stopped"]][n_before]
    assert not (tmp_path / "out").exists()


def test_a_stop_at_the_last_slice_keeps_the_item(model):
    stream = segment_batch(model, [make_volume(1)] * 2)
    assert isinstance(next(stream), ItemStarted)
    assert isinstance(next(stream), ItemEvent)
    ended = stream.throw(Stop())
    assert ended.result.status == "done"
    assert ended.segmentation.is_complete
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert [r.status for r in end.value.value] == ["done", "stopped"]


def test_no_output_replaces_an_image_or_another_output(model, tmp_path):
    """It is found out before anything is segmented."""
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    of_two_folders = save(a, "x.npy") + save(b, "y.npy")
    of_two_cases = save(a, "x.npy", "X.npy")  # one file to many file systems
    before = of_two_folders[1].read_bytes()
    for files, out, sentence in (
        (of_two_folders, b, "would replace|is the folder"),
        (of_two_cases, c, "both"),
    ):
        stream = segment_batch(model, files, out=out, replaces=True)
        with pytest.raises(MedsagaError, match=sentence):
            next(stream)
    assert of_two_folders[1].read_bytes() == before
    assert not c.exists()


def test_images_of_one_name_in_many_folders_keep_their_tree(model, tmp_path):
    patients, out = tmp_path / "patients", tmp_path / "out"
    patients.mkdir()
    files = [save(patients / p, "ct.npy")[0] for p in ("p1", "p2")]
    results = drain(segment_batch(model, files, out=out))
    assert [r.written for r in results] == [(out / p / "ct.npy",) for p in ("p1", "p2")]
    again = drain(segment_batch(model, files, out=out))
    assert [r.status for r in again] == ["kept"] * 2


def test_results_never_leave_their_folder(model, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    for folder in (tmp_path / "work" / "p0", tmp_path / "p1"):
        save(folder, "ct.npy")
    monkeypatch.chdir(tmp_path / "work")
    files = ["p0/ct.npy", "../p1/ct.npy"]
    out = tmp_path / "out" / "deep"
    results = drain(segment_batch(model, files, out=out))
    assert [r.written for r in results] == [
        (out / "work" / "p0" / "ct.npy",),
        (out / "p1" / "ct.npy",),
    ]


def test_files_need_a_folder_for_their_results(model, tmp_path):
    with pytest.raises(MedsagaError, match="folder for the results"):
        next(segment_batch(model, save(tmp_path, "x.npy")))


def test_a_folder_a_file_in_it_and_a_volume_are_each_segmented_once(model, tmp_path):
    folder = tmp_path / "images"
    x, _ = save(folder, "x.npy", "y.npy")
    out = tmp_path / "out"
    results = drain(segment_batch(model, [x, folder, make_volume(1)], out=out))
    assert [r.status for r in results] == ["done"] * 3
    assert [r.written for r in results] == [(out / "x.npy",), (out / "y.npy",), ()]
    assert results[2].outputs is None
    mask = drain(segment(model, x)).mask.array
    assert np.array_equal(np.load(out / "x.npy"), mask)


def test_what_is_there_is_kept_and_what_is_missing_is_added(model, tmp_path):
    x, y = save(tmp_path / "images", "x.npy", "y.npy")
    out = tmp_path / "out"
    drain(segment_batch(model, x, out=out))
    before = (out / "x.npy").stat().st_mtime_ns
    kept, done = drain(segment_batch(model, [x, y], out=out))
    assert (kept.status, kept.written) == ("kept", ())
    assert (done.status, done.keeps_some) == ("done", False)
    settings = SegmentSettings(entropy=True)
    (added,) = drain(segment_batch(model, x, settings, out=out))
    assert added.written == (out / "x_entropy.npy",)
    assert added.keeps_some
    assert (out / "x.npy").stat().st_mtime_ns == before
    (again,) = drain(segment_batch(model, x, settings, out=out, replaces=True))
    assert again.written == (out / "x_entropy.npy", out / "x.npy")


def test_a_single_image_of_any_kind_is_a_batch(model):
    (result,) = drain(segment_batch(model, make_phantom(1)[0]))
    assert result.status == "done"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_a_lack_of_memory_is_told_in_the_same_words_by_all(model, error):
    class Costly(np.ndarray):
        """An array that can be looked at, but not computed on."""

        def __getitem__(self, place):
            raise error

    image = replace(make_volume(), array=make_volume().array.view(Costly))
    with pytest.raises(MedsagaError, match="The memory is not enough") as caught:
        drain(segment(model, image))
    first, second = drain(segment_batch(model, [image, make_volume()]))
    assert first.message == str(caught.value)
    assert second.status == "done"


def test_what_a_folder_holds_beside_images_is_named_once(model, tmp_path):
    folder = tmp_path / "scans"
    save(folder, "a.npy")
    for name in ("b.nrrd", "notes.txt", ".hidden", "Thumbs.db"):
        (folder / name).write_text("")
    (folder / "more").mkdir()
    events = []
    drain(segment_batch(model, folder, out=tmp_path / "out"), events.append)
    (told,) = (event.message for event in events if isinstance(event, Notice))
    assert told == (
        f"Not looked at in {folder}, as it is no image: b.nrrd, more, notes.txt."
    )


def test_a_result_whose_name_would_be_too_long_is_told_before_any_begins(
    model, tmp_path
):
    """It ended the batch in the middle, with the results before it alone."""
    first, second = save(tmp_path / "in", "a.npy", f"{'b' * 245}.npy")
    settings = SegmentSettings(entropy=True)
    with pytest.raises(MedsagaError, match="more than 255 bytes"):
        drain(segment_batch(model, [first, second], settings, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()

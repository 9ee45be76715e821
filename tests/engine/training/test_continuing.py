"""Training on from a trained model, and what a program with a window asks for."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from itertools import groupby

import dask.array
import numpy as np
import pytest
import torch
from tests.engine.training.conftest import stop_when
from tests.phantom import TINY, keep_slices, train

from medsaga import (
    ModelLibrary,
    SegmentSettings,
    Stop,
    TrainingData,
    Volume,
    drain,
    fine_tune,
    load_model,
    save_model,
    segment,
)
from medsaga.data.annotation import annotated_slices
from medsaga.data.classes import ClassTable, class_table
from medsaga.data.inputs import as_volume
from medsaga.data.survey import count_classes
from medsaga.errors import MedsagaError
from medsaga.events import Notice, Preview, Progress, Relay, SegmentedSlice, Validated
from medsaga.frontend import kept_labels, missing_weights
from medsaga.models.kept_slices import load_slices
from medsaga.training.origin import load_network


def _weights(model):
    return {k: v.clone() for k, v in model.network.state_dict().items()}


@pytest.fixture(scope="module")
def trained_once(phantom):
    arrays = phantom[0], keep_slices(phantom[1], [1, 4, 7, 10])
    volumes = (Volume(array=a, spacing=(2, 1, 1), name="phantom") for a in arrays)
    return drain(fine_tune(TrainingData(*volumes), TINY))


@pytest.fixture
def trained(trained_once):
    """A model to do anything with."""
    return deepcopy(trained_once)


class TestTheSameClasses:
    def test_it_begins_where_the_model_ended(self, image, labels, quick, trained):
        _, events = train(image, labels, quick, start=trained)
        first = next(e for e in events if isinstance(e, Validated))
        assert first.dice == pytest.approx(
            {int(v): d for v, d in trained.card.metrics["dice"].items()}, abs=1e-6
        )

    def test_there_is_no_head_stage_before_and_a_preview_at_once(
        self, image, labels, quick, trained
    ):
        _, events = train(image, labels, quick, start=trained)
        stages = [e.stage for e in events if isinstance(e, Progress)]
        assert [stage for stage, _ in groupby(stages)] == [
            *("galore", "features", "head", "left out")
        ]
        kinds = [type(e) for e in events if not isinstance(e, Notice)]
        assert kinds[0] is Preview

    def test_the_model_itself_is_left_as_it_is(self, image, labels, quick, trained):
        before = _weights(trained)
        model, _ = train(image, labels, quick, start=trained)
        after = _weights(trained)
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert any(not torch.equal(before[n], t) for n, t in _weights(model).items())

    def test_names_and_colours_go_on_unless_others_are_given(
        self, image, labels, quick
    ):
        value, other = (int(v) for v in np.unique(labels.array)[1:3])
        named = {"class_names": {value: "liver"}, "class_colours": {value: "#ff0000"}}
        quick = replace(quick, steps=1)
        start, _ = train(image, labels, quick, **named)
        model, _ = train(image, labels, quick, start=start)
        assert model.card.classes == start.card.classes
        assert model.card.classes.names[1] == "liver"
        renamed = {value: "spleen", other: "aorta"}
        model, _ = train(image, labels, quick, start=start, class_names=renamed)
        assert model.card.classes.names[1:3] == ("spleen", "aorta")
        assert model.card.classes.colours == start.card.classes.colours

    def test_a_folder_does_as_well_and_is_named_in_the_card(
        self, image, labels, quick, trained, tmp_path
    ):
        folder = save_model(trained, tmp_path / "first")
        model, _ = train(image, labels, quick, start=folder)
        assert model.card.base_weights == "first"
        assert len(model.card.base_sha256) == 64
        assert model.card.backbone == "tiny"
        assert model.card.canvas == trained.card.canvas
        assert model.card.intensity == trained.card.intensity

    def test_the_cards_settings_repeat_it_exactly(
        self, image, labels, quick, trained, tmp_path
    ):
        folder = save_model(trained, tmp_path / "first")
        first, _ = train(image, labels, quick, start=folder)
        again, _ = train(
            image, labels, replace(quick, **first.card.settings), start=folder
        )
        assert again.card.data_fingerprint == first.card.data_fingerprint
        weights = _weights(first)
        assert all(torch.equal(weights[n], t) for n, t in _weights(again).items())

    def test_a_stop_at_once_gives_the_model_back(self, image, labels, quick, trained):
        model = stop_when(
            fine_tune(TrainingData(image, labels), quick, start=trained),
            lambda e: isinstance(e, Preview) and e.stage != "paint",
        )
        expected, found = (drain(segment(m, image)).mask for m in (trained, model))
        np.testing.assert_array_equal(found.array, expected.array)


class TestOtherClasses:
    @pytest.fixture
    def more(self, phantom, labels):
        array = labels.array.copy()
        array[4, 30:38, 2:10] = 60
        return labels.with_array(array)

    def test_a_new_class_is_learned_and_the_old_ones_are_kept(
        self, image, more, quick, trained
    ):
        model, events = train(
            image, more, replace(quick, head_steps=200), start=trained
        )
        assert model.card.classes.values == (0, 1, 5, 60, 117)
        stages = {e.stage for e in events if isinstance(e, Progress)}
        assert stages == {"features", "head", "galore", "left out"}
        assert any("fitted anew" in e.message for e in events if isinstance(e, Notice))
        mask = drain(segment(model, image)).mask.array
        assert {1, 5, 117} <= set(np.unique(mask))

    def test_backbone_and_tokens_come_from_the_model(self, image, more, quick, trained):
        table = class_table([more], annotated_slices([more]))
        network, origin = load_network(trained, quick, table)
        assert not origin.knows_classes
        old, new = trained.network.state_dict(), network.state_dict()
        for name, tensor in old.items():
            if name.startswith("backbone."):
                assert torch.equal(new[name], tensor)
        tokens = "decoder.mask_tokens.weight"
        # Values 0, 1, 5, 60, 117 after 0, 1, 5, 117: 60 begins as background.
        assert torch.equal(new[tokens], old[tokens][[0, 1, 2, 0, 3]])

    def test_fewer_classes_can_be_trained_on(self, image, labels, quick, trained):
        array = np.where(labels.array == 5, 0, labels.array)
        model, events = train(image, labels.with_array(array), quick, start=trained)
        assert model.card.classes.values == (0, 1, 117)
        said = [e.message for e in events if isinstance(e, Notice)]
        assert any("5 will be forgotten" in message for message in said)
        n_before = [isinstance(event, Progress) for event in events].index(True)
        last = [e for e in events[:n_before] if isinstance(e, Notice)][-1]
        assert "will be forgotten" in last.message  # a window shows but the last


def test_no_model_folder_is_refused_at_once(image, labels, quick, tmp_path):
    with pytest.raises(MedsagaError, match="no model folder"):
        next(fine_tune(TrainingData(image, labels), quick, start=tmp_path))


def test_the_preview_follows_a_function(image, labels, quick):
    wanted = iter([(0, 2), (0, 3), (0, 3), (0, 11)] + [(0, 11)] * 1000)
    shown = []

    def look() -> tuple[int, int]:
        shown.append(next(wanted))
        return shown[-1]

    _, events = train(
        image,
        labels,
        replace(quick, steps=4),
        preview={"preview_at": look, "preview_interval": 0.0},
    )
    previews = [e.slice_index for e in events if isinstance(e, Preview)]
    assert len(previews) > 3
    assert previews[0] == 2
    assert {2, 11} <= set(previews)


@pytest.mark.usefixtures("on_cpu")
def test_a_lazy_image_trains_and_segments_like_an_array(image, labels, quick, unbroken):
    lazy = image.with_array(dask.array.from_array(image.array, chunks=(1, 40, 40)))
    plain, _ = unbroken
    model, _ = train(lazy, labels, quick)
    weights = _weights(plain)
    assert all(torch.equal(weights[n], t) for n, t in _weights(model).items())
    expected, found = (drain(segment(plain, v)).mask.array for v in (image, lazy))
    np.testing.assert_array_equal(found, expected)


def test_a_models_weights_can_be_read_by_others(trained, tmp_path):
    folder = save_model(trained, tmp_path / "model")
    modes = {(folder / name).stat().st_mode & 0o777 for name in _names(folder)}
    assert len(modes) == 1
    assert load_model(folder).card == trained.card


def _names(folder):
    return [path.name for path in folder.iterdir()]


class TestRelay:
    @pytest.fixture
    def trained(self, trained):
        """Without the paint, of which there would be a notice."""
        return replace(trained, samples=())

    def test_it_passes_events_and_result_on(self, image, trained):
        relay = Relay()
        events = []
        result = drain(relay(segment(trained, image)), events.append)
        assert result.is_complete
        assert not relay.is_stopped
        assert len(events) == image.shape[0]

    def test_it_notes_a_stop_and_lets_the_stream_end_in_order(self, image, trained):
        relay = Relay()
        stream = relay(segment(trained, image))
        assert isinstance(next(stream), SegmentedSlice)
        with pytest.raises(StopIteration) as end:
            stream.throw(Stop())
        assert relay.is_stopped
        assert end.value.value.n_segmented == 1

    def test_closing_it_closes_the_stream(self, image, trained):
        stream = segment(trained, image)
        relayed = Relay()(stream)
        next(relayed)
        relayed.close()
        assert list(stream) == []


def test_each_class_is_counted_and_too_few_pixels_are_said(labels, phantom):
    array = keep_slices(phantom[1], [1, 4])
    array[4, 0, :7] = 9
    volume = labels.with_array(array)
    annotation = annotated_slices([volume])
    table = class_table([volume], annotation, {9: "nerve"})
    counts = {c.value: c for c in count_classes([volume], annotation, table)}
    assert counts[1].n_slices == 2
    assert counts[1].n_pixels == (array == 1).sum()
    assert counts[1].warning is None
    assert (counts[9].n_slices, counts[9].n_pixels) == (1, 7)
    assert counts[9].warning.startswith("Class 9 (nerve) has 7 pixels on 1 slice")


def test_weights_that_are_missing_come_with_the_way_to_get_them(tmp_path, monkeypatch):
    for name in ("MEDSAGA_WEIGHTS", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert missing_weights("lite_medsam") is None
    sentence = missing_weights("vit_b")
    assert "dl.fbaipublicfiles.com" in sentence
    with (tmp_path / "sam_vit_b_01ec64.pth").open("wb") as file:
        file.truncate(375_042_383)
    assert missing_weights("vit_b") is None


class TestEarlierSlices:
    """Slices of another image, kept with the model, train on beside the new ones."""

    @pytest.fixture
    def kept(self, trained, tmp_path):
        return ModelLibrary(tmp_path / "library").add(trained, "first")

    def test_they_train_beside_the_new_ones_and_nothing_else(
        self, image, labels, quick, trained, kept
    ):
        other = replace(as_volume(image), name="other")
        new = keep_slices(as_volume(labels).array, [4])
        other = other.with_array(other.array + 1)
        earlier = trained.card.training_slices[:2]
        model, _ = train(other, new, quick, start=kept, earlier=earlier)
        trained_on = {*model.card.training_slices, *model.card.held_out_slices}
        assert trained_on == {*earlier, other.slice_id(0, 4)}

    def test_a_class_that_only_they_have_is_not_forgotten(
        self, image, labels, quick, trained, kept
    ):
        new = keep_slices(as_volume(labels).array, [4])
        value = trained.card.classes.values[-1]
        new[new == value] = 0
        earlier = trained.card.training_slices
        model, events = train(image, new, quick, start=kept, earlier=earlier)
        assert model.card.classes.values == trained.card.classes.values
        first = next(e for e in events if isinstance(e, Progress))
        assert first.stage == "galore"
        told = [e.message for e in events if isinstance(e, Notice)]
        assert not any("will not be learned" in message for message in told)

    def test_sides_of_a_voxel_may_be_numpy_s(self, image, labels, quick, tmp_path):
        sides = tuple(np.float32(side) for side in image.spacing)
        image, labels = (replace(volume, spacing=sides) for volume in (image, labels))
        model, _ = train(image, labels, quick)
        folder = ModelLibrary(tmp_path / "library").add(model, "first")
        assert len(kept_labels(folder)) == 4

    def test_they_are_as_they_were(self, trained, kept):
        labels = kept_labels(kept)
        wanted = list(labels)
        table = trained.card.classes
        again = load_slices(kept, wanted, table)
        assert [sample.id for sample in trained.samples] == wanted
        for before, after in zip(trained.samples, again, strict=True):
            assert torch.allclose(before.image, after.image, atol=1e-3)
            assert torch.equal(before.target, after.target)
            assert torch.equal(before.labels, after.labels)
            np.testing.assert_array_equal(before.truth, after.truth)
            np.testing.assert_array_equal(before.truth, labels[after.id])
            assert (before.content, before.spacing) == (after.content, after.spacing)

    def test_their_classes_are_counted_in_the_new_order(self, trained, kept):
        table = trained.card.classes
        more = (0, 1000, *table.values[1:])
        now = ClassTable(
            values=more, names=tuple(map(str, more)), colours=(None,) * len(more)
        )
        (after,) = load_slices(kept, [trained.samples[0].id], now)
        before = trained.samples[0].target
        assert torch.equal(after.target, torch.where(before > 0, before + 1, before))

    def test_an_exported_model_does_not_carry_them(self, kept, tmp_path):
        library = ModelLibrary(kept.parent)
        library.export(kept, tmp_path / "model.zip")
        assert kept_labels(kept)
        assert kept_labels(library.import_model(tmp_path / "model.zip")) == {}

    def test_what_is_not_kept_is_told(self, image, labels, quick, trained, tmp_path):
        folder = save_model(trained, tmp_path / "elsewhere")
        name = trained.card.training_slices[0]
        with pytest.raises(MedsagaError, match="not kept with it any more"):
            drain(
                fine_tune(
                    TrainingData(image, labels, earlier=[name]), quick, start=folder
                )
            )
        with pytest.raises(MedsagaError, match="give its folder"):
            drain(
                fine_tune(
                    TrainingData(image, labels, earlier=[name]), quick, start=trained
                )
            )

    def test_another_working_size_is_told(self, image, labels, quick, trained, kept):
        name = trained.card.training_slices[0]
        larger = replace(quick, long_side=128)
        with pytest.raises(MedsagaError, match="leave long_side at 0"):
            drain(
                fine_tune(
                    TrainingData(image, labels, earlier=[name]), larger, start=kept
                )
            )

    def test_other_intensities_are_told(self, image, labels, quick, trained, kept):
        """The kept slices are scaled already, and would train beside others."""
        asked = {"start": kept, "earlier": trained.card.training_slices[:1]}
        with pytest.raises(MedsagaError, match="leave intensity on auto"):
            train(image, labels, quick, **asked, window=(0, 300))
        assert train(image, labels, quick, **asked)[0] is not None

    def test_slices_of_images_of_one_name_are_told_apart(
        self, phantom, quick, tmp_path
    ):
        image, truth = phantom
        pair = [image[1], image[4]], [truth[1], truth[4]]
        model, _ = train(*pair, quick)
        kept = ModelLibrary(tmp_path / "library").add(model, "two")
        labels = kept_labels(kept)
        assert len(labels) == 2
        for array in pair[1]:
            assert any(np.array_equal(found, array) for found in labels.values())

    def test_labels_in_fortran_order_and_numpys_numbers_are_kept(
        self, image, labels, quick, tmp_path
    ):
        model = drain(
            fine_tune(
                TrainingData(
                    image,
                    labels.with_array(np.asfortranarray(labels.array)),
                    axis=np.argmin([0, 1, 1]),
                    empty_slices=[(np.int64(0), np.int64(0))],
                    window=tuple(np.array([0, 300], np.int16)),
                ),
                quick,
            )
        )
        kept = ModelLibrary(tmp_path / "library").add(model, "first")
        assert load_model(kept).card == model.card
        for one, found in kept_labels(kept).items():
            np.testing.assert_array_equal(found, labels.array[one.index])


class TestNeighbours:
    """A model that sees the slices below and above goes on doing so."""

    @pytest.fixture
    def wanted(self, quick):
        return replace(quick, neighbours=True, steps=1, head_views=4, head_steps=20)

    @pytest.fixture
    def kept(self, image, labels, wanted, tmp_path):
        model = drain(fine_tune(TrainingData(image, labels), wanted))
        return ModelLibrary(tmp_path / "library").add(model, "three")

    def test_the_model_folder_knows_and_segments_so(self, image, kept):
        model = replace(load_model(kept), kept_paint={})
        assert model.card.canvas.neighbours
        assert model.card.settings["neighbours"]
        canvas = replace(model.card.canvas, neighbours=False)
        alone = replace(model, card=replace(model.card, canvas=canvas))
        apart = SegmentSettings(smooth="off")
        with_them, without = (drain(segment(m, image, apart)) for m in (model, alone))
        assert (with_them.mask.array != without.mask.array).any()
        # Whatever is more than a slice away changes nothing.
        far = np.array(image.array)
        far[[0, 1, 2, 3, 7, 8, 9, 10, 11]] = far[::-1][[0, 1, 2, 3, 7, 8, 9, 10, 11]]
        elsewhere = drain(segment(model, image.with_array(far), apart))
        np.testing.assert_array_equal(elsewhere.mask.array[5], with_them.mask.array[5])

    def test_it_trains_on_so_with_the_slices_that_it_keeps(
        self, image, labels, quick, kept
    ):
        earlier = load_model(kept).card.training_slices[0]
        new = keep_slices(as_volume(labels).array, [4])
        other = replace(as_volume(image), name="other")
        for long_side in (0, 64):
            settings = replace(quick, steps=1, long_side=long_side)
            model, _ = train(other, new, settings, start=kept, earlier=[earlier])
            assert model.card.canvas.neighbours
            assert model.card.settings["neighbours"]
            planes = [s.image for s in model.samples]
            assert len(planes) == 2
            assert all(not torch.equal(p[0], p[1]) for p in planes)

    def test_a_model_without_them_goes_on_without(self, image, labels, wanted, trained):
        model, events = train(image, labels, wanted, start=trained)
        assert not model.card.canvas.neighbours
        assert not model.card.settings["neighbours"]
        notices = [e.message for e in events if isinstance(e, Notice)]
        assert any("trained without neighbours" in message for message in notices)

    @pytest.mark.parametrize("is_colour", [True, False])
    def test_where_there_are_none_it_is_said(self, image, labels, wanted, is_colour):
        if is_colour:
            grey = as_volume(image).array
            rgb = np.stack([grey] * 3, axis=-1).clip(0, 255).astype(np.uint8)
            picture, mask = rgb, as_volume(labels).array
        else:
            picture, mask = as_volume(image).array[4], as_volume(labels).array[4]
        model, events = train(picture, mask, wanted)
        assert not model.card.canvas.neighbours
        notices = [e.message for e in events if isinstance(e, Notice)]
        assert any("no neighbours to look at" in message for message in notices)

    def test_a_card_from_before_there_were_any_is_read(self, trained, tmp_path):
        folder = save_model(trained, tmp_path / "old")
        card = json.loads((folder / "card.json").read_text())
        del card["canvas"]["neighbours"], card["settings"]["neighbours"]
        (folder / "card.json").write_text(json.dumps(card))
        assert load_model(folder).card.canvas == trained.card.canvas

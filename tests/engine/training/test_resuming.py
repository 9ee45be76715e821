"""A training that is interrupted goes on as if nothing had happened."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.engine.training.conftest import weights_equal

from medsaga import (
    Journal,
    MedsagaError,
    ModelCard,
    ModelLibrary,
    TrainingData,
    drain,
    fine_tune,
    interrupted_trainings,
    load_model,
    resume,
    save_model,
)
from medsaga.data.volume import Volume
from medsaga.events import Notice, Preview, Progress
from medsaga.frontend import (
    ModelTarget,
    discard_interrupted,
    keep_model,
    read_outline,
    trainings_under_way,
    unreadable_trainings,
)


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSAGA_MODELS", str(tmp_path / "models"))


@pytest.fixture
def trained(image, labels, quick):
    return drain(train(image, labels, replace(quick, steps=1)))


def train(image, labels, settings, **options):
    return fine_tune(TrainingData(image, labels), settings, **options)


def add_to_library(model):
    return ModelLibrary().add(model, "phantom")


def notices(events, words) -> list[str]:
    messages = (e.message for e in events if isinstance(e, Notice))
    return [message for message in messages if words in message]


def interrupt(stream, *, at: int) -> None:
    """End a training at a step as a power cut does: it is never told."""
    with closing(stream):
        for event in stream:
            if isinstance(event, Progress) and event.stage == "galore":
                assert event.step <= at
                if event.step == at:
                    return
    raise AssertionError("It ended before.")


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": "decoder"},
        {"strategy": "full", "detail_head": False, "stages": "galore"},
        {"neighbours": True, "precision": "bf16"},
        {"hold_out_from": 4, "validations": 4, "average_weights": False},
    ],
)
def test_goes_on_to_the_same_weights(image, labels, quick, changes):
    settings = replace(quick, steps=12, **{"validations": 3} | changes)
    unbroken = drain(train(image, labels, settings))

    with Journal.begin("phantom") as journal:
        journal.interval = 0.0  # a state before each step
        interrupt(train(image, labels, settings, journal=journal), at=7)
    (entry,) = interrupted_trainings()
    assert entry.describe() == "A training of phantom was interrupted at step 6 of 12"
    with Journal.open(entry.folder) as journal:
        events = []
        model = drain(resume(journal), events.append)
        first = next(e for e in events if isinstance(e, Progress))
        assert (first.stage, first.step) == ("galore", 7)
        assert weights_equal(model, unbroken)
        for name in ("settings", "training_slices", "classes", "data_fingerprint"):
            assert getattr(model.card, name) == getattr(unbroken.card, name)
        assert keep_model(
            model, lambda m: ModelLibrary().add(m, "phantom"), journal
        ).path
    assert interrupted_trainings() == []


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("stages", ["head", "both"])
def test_the_head_stage_is_gone_through_anew(image, labels, quick, stages):
    settings = replace(quick, steps=4, head_steps=20, stages=stages)
    unbroken = drain(train(image, labels, settings))
    with Journal.begin("phantom") as journal:
        stream = train(image, labels, settings, journal=journal)
        with closing(stream):
            next(e for e in stream if isinstance(e, Progress) and e.stage == "head")
    (entry,) = interrupted_trainings()
    assert "before its first step" in entry.describe()
    with Journal.open(entry.folder) as journal:
        assert weights_equal(drain(resume(journal)), unbroken)


def begin_and_interrupt(image, labels, settings, **begun):
    """Leave a training interrupted at its last step, and give its entry."""
    with Journal.begin("phantom", **begun) as journal:
        interrupt(train(image, labels, settings, journal=journal), at=settings.steps)
    (entry,) = interrupted_trainings()
    return entry


def test_an_image_that_is_there_again_is_previewed(image, labels, quick):
    entry = begin_and_interrupt(image, labels, quick)
    outline = read_outline(entry.folder)
    assert outline.classes.values == (0, 1, 5, 117)
    (known,) = outline.images
    assert (known.name, known.shape) == ("phantom", image.shape)
    assert known.fingerprint == image.fingerprint
    for images, n_previews in (([], 0), ([image], 1)):
        events = []
        with Journal.open(entry.folder) as journal:
            drain(resume(journal, images, preview_at=(0, 3)), events.append)
        previews = [event for event in events if isinstance(event, Preview)]
        assert bool(previews) == bool(n_previews)
        assert all(event.slice_index == 3 for event in previews)


def test_one_under_way_is_not_interrupted(image, labels, quick, tmp_path):
    target = ModelTarget.choose(tmp_path / "model")
    with Journal.begin("phantom", target) as journal:
        stream = train(image, labels, quick, journal=journal)
        with closing(stream):
            next(event for event in stream if isinstance(event, Progress))
            assert interrupted_trainings() == []
            assert trainings_under_way(target) == 1
            assert trainings_under_way(ModelTarget.choose(tmp_path / "other")) == 0
            with pytest.raises(MedsagaError, match="under way"):
                Journal.open(journal.folder)
    (entry,) = interrupted_trainings()
    assert entry.target == target
    assert trainings_under_way(target) == 0
    discard_interrupted(entry)
    assert interrupted_trainings() == []


def test_bad_input_leaves_nothing_behind(image, quick, states):
    nothing = Volume(array=np.zeros_like(image.array, np.uint8))
    with pytest.raises(MedsagaError), Journal.begin("phantom") as journal:
        drain(train(image, nothing, quick, journal=journal))
    assert not [path for path in states.iterdir() if path.is_dir()]


def test_a_damaged_state_is_refused_in_a_sentence(image, labels, quick):
    entry = begin_and_interrupt(image, labels, quick)
    for name, content in (
        ("state.safetensors", b"\x08\0\0\0\0\0\0\0{}      "),
        ("slices.safetensors", b""),
        ("setup.json", b"[" * 100_000),
    ):
        (entry.folder / name).write_bytes(content)
        with pytest.raises(MedsagaError), Journal.open(entry.folder) as journal:
            drain(resume(journal))
    (entry.folder / "training.json").write_text("[1]")
    assert interrupted_trainings() == []


def test_what_is_not_kept_where_it_belongs_waits_in_the_journal(
    image, labels, quick, tmp_path
):
    taken = tmp_path / "models"
    taken.write_text("a file in the way of the library")
    with Journal.begin("phantom") as journal:
        model = drain(train(image, labels, quick, journal=journal))
        kept = keep_model(model, add_to_library, journal)
    assert kept.path is not None
    assert str(kept.path) in kept.problem
    assert "could not be saved" in kept.problem
    assert load_model(kept.path).card == model.card

    (entry,) = interrupted_trainings()
    assert entry.describe() == "The model phantom is trained but could not be saved"
    taken.unlink()
    with Journal.open(entry.folder) as journal:
        again = journal.read_model()
        assert {s.id for s in again.samples} == {s.id for s in model.samples}
        path = keep_model(
            again, lambda m: ModelLibrary().add(m, "phantom"), journal
        ).path
    assert weights_equal(load_model(path), again)
    assert interrupted_trainings() == []


def test_where_the_disk_refuses_everywhere_the_last_state_stays(
    image, labels, quick, monkeypatch
):
    def refuse(*_: object, **__: object) -> None:
        raise MedsagaError("The disk is full: make room.")

    with Journal.begin("phantom") as journal:
        model = drain(train(image, labels, quick, journal=journal))
        monkeypatch.setattr("medsaga.models.folder.save_model", refuse)
        kept = keep_model(model, refuse, journal)
    assert kept.path is None
    assert "last state" in kept.problem
    (entry,) = interrupted_trainings()
    assert entry.step == quick.steps


def test_a_state_that_cannot_be_written_costs_a_notice_and_no_training(
    image, labels, quick, monkeypatch
):
    with Journal.begin("phantom") as journal:
        shutil.rmtree(journal.folder)
        journal.folder.write_text("a file in its way")
        events = []
        model = drain(train(image, labels, quick, journal=journal), events.append)
    assert model is not None
    assert len(notices(events, "could not go on")) == 1


def test_without_room_for_the_model_nothing_begins(image, labels, quick, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with (
        Journal.begin("phantom") as journal,
        pytest.raises(MedsagaError, match="make room"),
    ):
        drain(train(image, labels, quick, journal=journal))
    assert interrupted_trainings() == []


class TestTarget:
    """Two trainings into one folder: neither is lost."""

    def test_what_came_in_the_meantime_is_not_replaced(self, trained, tmp_path):
        first = ModelTarget.choose(tmp_path / "model")
        second = ModelTarget.choose(tmp_path / "model")
        assert first.save(trained) == tmp_path / "model"
        before = (tmp_path / "model" / "card.json").stat()
        assert second.save(trained) == tmp_path / "model 2"
        assert (tmp_path / "model" / "card.json").stat() == before

    def test_what_was_there_is_replaced_if_that_was_asked_for(self, trained, tmp_path):
        save_model(trained, tmp_path / "model")
        with pytest.raises(MedsagaError, match="--overwrite"):
            ModelTarget.choose(tmp_path / "model")
        first = ModelTarget.choose(tmp_path / "model", overwrite=True)
        second = ModelTarget.choose(tmp_path / "model", overwrite=True)
        assert first.save(trained) == tmp_path / "model"
        assert second.save(trained) == tmp_path / "model 2"

    def test_an_empty_folder_is_filled(self, trained, tmp_path):
        (tmp_path / "model").mkdir()
        target = ModelTarget.choose(tmp_path / "model")
        assert target.save(trained) == tmp_path / "model"

    def test_with_overwrite_one_that_comes_while_weights_are_written_stays(
        self, trained, tmp_path, monkeypatch
    ):
        save_model(trained, tmp_path / "model")
        target = ModelTarget.choose(tmp_path / "model", overwrite=True)
        write = ModelCard.to_json

        def come_first(card):
            monkeypatch.undo()
            save_model(trained, tmp_path / "model")
            return write(card)

        monkeypatch.setattr(ModelCard, "to_json", come_first)
        assert target.save(trained) == tmp_path / "model 2"
        assert load_model(tmp_path / "model").card == trained.card

    def test_one_that_comes_at_the_last_moment_is_not_replaced(
        self, trained, tmp_path, monkeypatch
    ):
        target = ModelTarget.choose(tmp_path / "model")
        rename = type(tmp_path).rename

        def come_first(path, to):
            if to.name == "model" and not to.exists():
                monkeypatch.undo()
                save_model(trained, to)
            return rename(path, to)

        monkeypatch.setattr(type(tmp_path), "rename", come_first)
        assert target.save(trained) == tmp_path / "model 2"
        assert load_model(tmp_path / "model").card == trained.card


def test_an_unexpected_failure_keeps_what_was_learned(
    image, labels, quick, monkeypatch, caplog
):
    from medsaga.training.stepper import Stepper

    take = Stepper.take

    def fail(stepper):
        if stepper.state.step == 3:
            raise ZeroDivisionError("a bug")
        return take(stepper)

    monkeypatch.setattr(Stepper, "take", fail)
    events = []
    model = drain(train(image, labels, quick), events.append)
    assert model is not None
    (told,) = (
        e.message for e in events if isinstance(e, Notice) and "a bug" in e.message
    )
    assert "step 3" in told
    assert "ZeroDivisionError" in caplog.text

    monkeypatch.setattr(Stepper, "__init__", None)  # before anything is learned
    with pytest.raises(TypeError):
        drain(train(image, labels, replace(quick, stages="galore")))


@pytest.mark.usefixtures("on_cpu")
def test_the_last_fit_is_gone_through_anew(image, labels, quick):
    settings = replace(quick, steps=6, head_steps=20, validations=1)
    unbroken = drain(train(image, labels, settings))
    with Journal.begin("phantom") as journal:
        steps = (
            event.stage
            for event in train(image, labels, settings, journal=journal)
            if isinstance(event, Progress)
        )
        while next(steps) != "galore":
            pass
        while next(steps) != "head":  # of the fit after the steps
            pass
        steps.close()
    (entry,) = interrupted_trainings()
    assert entry.step == 6
    with Journal.open(entry.folder) as journal:
        assert weights_equal(drain(resume(journal)), unbroken)


@pytest.mark.usefixtures("on_cpu")
def test_less_free_memory_changes_no_view(image, labels, quick, monkeypatch):
    settings = replace(quick, steps=8, validations=1, strategy="decoder")
    unbroken = drain(train(image, labels, settings))
    with Journal.begin("phantom") as journal:
        journal.interval = 0.0
        interrupt(train(image, labels, settings, journal=journal), at=4)
    (entry,) = interrupted_trainings()
    monkeypatch.setattr("medsaga.computing.free_memory", lambda _: 1)
    with Journal.open(entry.folder) as journal:
        found = drain(resume(journal)).network.state_dict()
    expected = unbroken.network.state_dict()
    # What is fitted to pixels in the end takes what memory there is.
    names = [name for name in expected if name.startswith("decoder.transformer")]
    assert names
    assert all(torch.equal(found[name], expected[name]) for name in names)


class TestWhatOthersKeep:
    """A folder that the user names may hold anything else."""

    def test_it_is_left_alone(self, states):
        for path in ("thesis/chapter.tex", "poetry.lock", "thesis.lock"):
            (states / path).parent.mkdir(parents=True, exist_ok=True)
            (states / path).write_text("mine")
        before = sorted(states.rglob("*"))
        Journal.begin("phantom").close()
        assert set(before) <= set(states.rglob("*"))


def test_a_model_that_waits_outlives_any_error(image, labels, quick):
    def refuse(_):
        raise MedsagaError("The disk is full: make room.")

    def keep_and_fail():
        with Journal.begin("phantom") as journal:
            model = drain(train(image, labels, settings, journal=journal))
            found.append((model, keep_model(model, refuse, journal)))
            raise ZeroDivisionError

    settings, found = replace(quick, stages="head"), []
    with pytest.raises(ZeroDivisionError):
        keep_and_fail()
    ((model, kept),) = found
    assert load_model(kept.path).card == model.card
    (kept.path / "slices.safetensors").unlink()  # for which there was no room
    (entry,) = interrupted_trainings()
    with Journal.open(entry.folder) as journal:
        assert journal.read_model().card == model.card


def test_a_state_that_does_not_fit_into_memory_costs_no_training(
    image, labels, quick, monkeypatch
):
    def fail(state, path):
        raise MemoryError

    monkeypatch.setattr("medsaga.training.state.TrainingState.write", fail)
    events = []
    with Journal.begin("phantom") as journal:
        journal.interval = 0.0
        model = drain(train(image, labels, quick, journal=journal), events.append)
    assert model.card.metrics["step"] == quick.steps
    assert len(notices(events, "could not go on")) == 1


def test_one_that_is_gone_is_not_called_damaged(image, labels, quick):
    entry = begin_and_interrupt(image, labels, quick)
    discard_interrupted(entry)
    for read in (Journal.open, read_outline):
        with pytest.raises(MedsagaError, match="finished or discarded elsewhere"):
            read(entry.folder)


def test_what_cannot_be_read_is_listed_apart(image, labels, quick):
    entry = begin_and_interrupt(image, labels, quick)
    (entry.folder / "training.json").write_text("[1]")
    assert interrupted_trainings() == []
    assert unreadable_trainings() == [entry.folder]

"""A card that anything may have written: read whole, or refused in one sentence."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.cards import make_card
from tests.phantom import slice_of
from typer.testing import CliRunner

from medsaga.cli import app
from medsaga.data.annotation import annotated_slices
from medsaga.data.classes import ClassTable, class_table
from medsaga.data.volume import Volume
from medsaga.errors import MedsagaError
from medsaga.models.card import FORMAT_VERSION, ModelCard, load_card
from medsaga.models.kept_slices import kept_labels, load_slices
from medsaga.segmentation.outputs import OutputNames
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.settings.segment import SegmentSettings

CARD = json.loads(make_card().to_json())
HUGE = 10**400
VALUES = (
    *(None, True, 0, -1, 5, 10**9, 2**63, HUGE, 1.5, 1e308, float("nan")),
    *(float("inf"), "", "x" * 200_000, "\x1b[31m[b]<b>\u202e", [], {}, [1], {"a": 1}),
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", ["a"], [[[]]]),
)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        rows: Any = value.items()
    else:
        rows = enumerate(value) if isinstance(value, list) else ()
    for key, one in rows:
        yield (*place, key)
        yield from places(one, (*place, key))


def put(place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The card with another value somewhere, or without one (`...`)."""
    card = copy.deepcopy(CARD)
    parent: Any = card
    for key in place[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return card


def test_what_is_written_is_read():
    card = make_card()
    assert ModelCard.from_json(card.to_json()) == card
    assert ModelCard.from_json(json.dumps(CARD | {"new": 1})) == card
    assert card.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_edited_card_is_read_or_refused_in_one_sentence(version):
    n_read, sentences = 0, []
    for place in places(CARD):
        for value in (*VALUES, ...):
            text = json.dumps(put(place, value) | {"format_version": version})
            try:
                card = ModelCard.from_json(text, subject="The card of CT")
            except MedsagaError as error:
                sentences.append(str(error))
            else:
                n_read += 1
                card.to_json()
                assert FineTuneSettings(**card.settings) or version < FORMAT_VERSION
    assert n_read > 100
    assert len(sentences) > 1000
    for sentence in sentences:
        assert sentence.startswith("The card of CT is ")
        assert sentence.isprintable()
        assert len(sentence) < 500


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("axis",), 5, r"axis is 5, it should be less than or equal to 2"),
        (("axis",), True, r"axis is True, it should be a valid integer"),
        (("axis",), ..., r"axis is missing"),
        (("backbone",), "resnet", r"backbone is none of those .*, 'resnet'"),
        (("metrics", "dice", "7"), "good", r"metrics\.dice\.7 is 'good'"),
        (("classes", "names", 1), "x" * 200_000, r"classes\.names\.1 .* at most 1000"),
        (("classes", "names", 1), 3, r"classes\.names\.1 is 3, .* valid string"),
        (("classes", "names"), ["a"], r"classes has 2 values, 1 names and 2 colours"),
        (("classes", "values"), [0, 0], r"classes has a value twice"),
        (("classes", "values"), [7, 0], r"not 0 \(background\) as the first"),
        (("classes", "colours", 1), "red", r"classes\.colours\.1 is 'red'"),
        (("canvas", "long_side"), 10**9, r"canvas\.long_side is 1000000000"),
        (("canvas", "long_side"), -64, r"canvas\.long_side is -64"),
        (("canvas", "multiple"), 0, r"canvas\.multiple is 0"),
        (("canvas", "tile"), 50, r"canvas has tiles of 50 at a scale of 0"),
        (("canvas", "tile"), -64, r"canvas\.tile is -64"),
        (("canvas", "scale"), 0.5, r"canvas has tiles of 0 at a scale of 0.5"),
        (("intensity", "low"), 1000, r"intensity is empty, from 1000 to 240"),
        (("intensity", "kind"), "log", r"intensity\.kind is 'log', .* 'window'"),
        (("settings", "rank"), "8", r"settings: rank is '8'"),
        (("settings", "colour"), 1, r"settings has colour, which is not known"),
        (("settings", "precision"), "auto", r"precision is 'auto'"),
        (("created",), "yesterday", r"created is no date, 'yesterday'"),
        (("created",), "0001-01-01", r"created is of a year"),
        (("measured", "device"), "a toaster", r"measured\.device is 'a toaster'"),
        (("training_slices", 0, "index"), 1.5, r"training_slices\.0\.index is 1\.5"),
        (("training_slices", 0), 1, r"training_slices\.0 is 1"),
        (
            ("paint_trust",),
            {"growth": -1.0, "n_pairs": 2},
            r"paint_trust\.growth is -1",
        ),
        (("paint_trust",), [1], r"paint_trust is \[1\]"),
        (("metrics", "dice", "7"), HUGE, r"no model card"),
        (("metrics", "dice", "7"), float("nan"), r"no model card"),
        (("intensity", "high"), float("inf"), r"no model card"),
    ],
)
def test_the_sentence_says_what_is_wrong_with_which_field(place, value, said):
    with pytest.raises(MedsagaError, match=said) as told:
        ModelCard.from_json(json.dumps(put(place, value)), subject="The card of CT")
    assert str(told.value).endswith(("from where it was made.", "training wrote."))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b'"card"',
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format_version": ' + b"9" * 5000 + b"}",
        b'{"format_version": "3"}',
        b'{"format_version": true}',
        b'{"format_version": 0}',
        b'{"format_version": 3, "a": "\\ud800"}',
        b"\x00" * 100,
    ],
)
def test_what_is_no_card_is_refused(content, tmp_path):
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(MedsagaError, match="no model card: give the folder"):
        load_card(tmp_path)


def test_a_card_that_is_no_ordinary_file_is_refused_at_once(tmp_path):
    (tmp_path / "folder" / "card.json").mkdir(parents=True)
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "card.json").open("wb") as file:
        file.truncate(2**30)  # takes no room on the disk
    with pytest.raises(MedsagaError, match="no model folder"):
        load_card(tmp_path / "folder")
    with pytest.raises(MedsagaError, match="too large for a model card"):
        load_card(tmp_path / "large")
    with pytest.raises(MedsagaError, match="no model folder"):
        load_card("a\0b")


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_neither_a_pipe_nor_a_device_is_waited_for(tmp_path):
    for name in ("pipe", "device"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "card.json")
    (tmp_path / "device" / "card.json").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(MedsagaError, match="no model folder"):
            load_card(tmp_path / name)


def test_a_card_of_the_first_version_is_shown(tmp_path):
    card = copy.deepcopy(CARD) | {"format_version": 1}
    del card["metrics"]["step"]
    del card["settings"]["rank"]
    card["settings"] |= {"steps": 12, "early_stop": 8, "projection": "gone since"}
    card["training_slices"] = [["ct [3]", 3], ["photo", 0]]
    write(tmp_path, card)
    read = load_card(tmp_path)
    assert [one.name for one in read.training_slices] == ["ct [3]", "photo"]
    assert FineTuneSettings(**read.settings).steps == 12
    assert "12 GaLore steps" in CliRunner().invoke(app, ["info", str(tmp_path)]).output


def write(folder: Path, card: dict[str, Any]) -> None:
    (folder / "card.json").write_text(json.dumps(card))


def test_info_shows_what_others_wrote_as_plain_text(tmp_path):
    name = "\x1b[31m[bold]:heart:\u202e\nliver" + "x" * 500
    card = put(("classes", "names", 1), name)
    card["base_weights"] = card["training_slices"][0]["image_name"] = "[/]\x1b]0;t\x07"
    card["metrics"]["measured_on"] = "[link=x]slices\x1b"
    write(tmp_path, card)
    result = CliRunner().invoke(app, ["info", str(tmp_path)])
    assert result.exit_code == 0
    for character in ("\x1b", "\x07", "\u202e"):
        assert character not in result.output
    assert r"\x1b[31m[bold]:heart:\u202e\nliverxxx" in result.output
    assert "x" * 100 not in result.output
    assert "…" in result.output
    assert r"[/]\x1b]0;t\x07" in result.output
    assert r"[link=x]slices\x1b" in result.output
    write(tmp_path, card | {"backbone": "\x1b[31m"})
    result = CliRunner().invoke(app, ["info", str(tmp_path)])
    assert result.exit_code == 2
    assert "\x1b" not in result.output
    assert "backbone is none of those" in result.output


def test_neither_help_nor_a_model_list_imports_what_it_does_not_need(tmp_path):
    write(tmp_path, CARD)
    code = (
        "import sys, medsaga\n"
        "from typer.testing import CliRunner\n"
        "from medsaga.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "assert 'pydantic' not in sys.modules\n"
        f"medsaga.load_card({str(tmp_path)!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_name_and_a_colour_that_no_card_holds_are_told_before_the_training():
    labels = Volume(array=np.array([[[0, 7]]], np.uint8))
    found = annotated_slices([labels], 0)
    with pytest.raises(MedsagaError, match="name of class 7 has 2000 characters"):
        class_table([labels], found, {7: "x" * 2000})
    with pytest.raises(MedsagaError, match="colour of class 7 is 'red': give it as #"):
        class_table([labels], found, colours={7: "red"})
    assert class_table([labels], found, {8: "x" * 2000}, {7: "#FF0000"})


def test_results_of_a_class_with_a_long_name_can_be_written(tmp_path):
    classes = ClassTable(values=(0, 7), names=("b", "肝" * 500), colours=(None,) * 2)
    plan = OutputNames(
        images=[tmp_path / "ct.nii.gz"],
        folder=tmp_path / "masks",
        card=make_card(classes=classes),
        settings=SegmentSettings(probabilities=True),
    )
    (tmp_path / "masks").mkdir()
    for path in plan.outputs(tmp_path / "ct.nii.gz").probabilities:
        path.touch()


def test_notes_of_kept_slices_that_are_none_are_no_slices(tmp_path):
    write(tmp_path, CARD)
    for notes in ("[" * 100_000, "[1]", "{}", "null", '[{"slice": [1]}]'):
        save_file(
            {"0.truth": np.zeros((2, 2))},
            tmp_path / "slices.safetensors",
            {"slices": notes},
        )
        assert kept_labels(tmp_path) == {}
        with pytest.raises(MedsagaError, match="are not kept with it any more"):
            load_slices(tmp_path, [slice_of("ct", 3)], make_card().classes)

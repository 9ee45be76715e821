from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import get_args

import pytest

from medsaga.errors import MedsagaError
from medsaga.network.backbones.catalogue import offered_backbones
from medsaga.settings.fields import describe
from medsaga.settings.fine_tune import (
    ONE_STAGE,
    FineTuneSettings,
    OptimizerName,
    StrategyName,
)
from medsaga.settings.presets import PRESETS, preset
from medsaga.settings.segment import SegmentSettings
from medsaga.training.optim.layerwise import OPTIMIZERS
from medsaga.training.optim.strategy import STRATEGIES


@pytest.mark.parametrize("kind", [FineTuneSettings, SegmentSettings])
def test_every_field_has_help_a_group_and_sane_bounds(kind):
    described = list(describe(kind))
    assert [d.name for d in described] == [f.name for f in fields(kind)]
    for setting in described:
        assert setting.help.endswith(".")
        assert setting.metadata["group"]
        if setting.type in (int, float):
            low, step = setting.metadata["min"], setting.metadata["step"]
            assert low <= setting.default <= setting.metadata["max"]
            assert step <= low or low == 0  # else a spin box rounds it away


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rank", 0),
        ("rank", 1.5),
        ("minutes", -1.0),
        ("precision", "fp16"),
        ("flips", 1),
        ("encoder_lr", float("nan")),
        ("steps", True),
    ],
)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(MedsagaError, match=name):
        replace(FineTuneSettings(), **{name: value})


def test_settings_are_frozen_and_survive_asdict():
    settings = FineTuneSettings(rank=32)
    with pytest.raises(FrozenInstanceError):
        settings.rank = 16
    assert FineTuneSettings(**asdict(settings)) == settings


def test_the_head_stage_needs_the_head():
    with pytest.raises(MedsagaError, match="detail_head"):
        FineTuneSettings(detail_head=False)


def test_presets_differ_in_time_and_all_but_the_quick_one_train_everything():
    minutes = {name: PRESETS[name].minutes for name in PRESETS}
    assert minutes["quick"] < minutes["balanced"] < minutes["thorough"]
    assert preset("balanced") == FineTuneSettings()
    stages = {name: PRESETS[name].stages for name in PRESETS}
    assert stages == {
        "quick": "head",
        "balanced": "both",
        "thorough": "both",
        "paper": "galore",
    }


def test_the_paper_preset_holds_the_papers_values():
    paper = preset("paper")
    assert paper.backbone == "vit_b"
    assert not paper.detail_head
    assert paper.stages == "galore"
    assert (paper.batch_size, paper.warmup_steps) == (12, 250)
    assert (paper.encoder_lr, paper.decoder_lr) == (1e-3, 5e-3)
    assert (paper.beta1, paper.beta2, paper.weight_decay) == (0.9, 0.999, 0.1)
    assert (paper.loss_dice_weight, paper.decay_power) == (0.8, 0.9)
    assert (paper.optimizer, paper.refresh_interval) == ("galore", 200)


def test_an_unknown_preset_names_those_that_are():
    with pytest.raises(MedsagaError, match="quick, balanced, thorough, paper"):
        preset("fast")


def test_every_strategy_that_can_be_chosen_is_in_the_table():
    assert set(get_args(StrategyName)) == set(STRATEGIES)
    assert set(STRATEGIES) >= set(ONE_STAGE)


def test_every_optimizer_that_can_be_chosen_is_in_the_table():
    assert set(get_args(OptimizerName)) == set(OPTIMIZERS)


def test_the_backbones_that_the_help_names_are_those_of_the_table():
    (backbone,) = (s for s in describe(FineTuneSettings) if s.name == "backbone")
    offered = [kind.name for kind in offered_backbones()]
    assert all(name in backbone.help for name in offered)
    assert FineTuneSettings().backbone == offered[0]

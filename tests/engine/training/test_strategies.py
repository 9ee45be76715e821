"""Each strategy changes exactly the parameters that it says, and no others."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from tests.engine.training.conftest import begin
from tests.phantom import train
from torch.nn import functional as F

from medsaga import (
    FineTuneSettings,
    MedsagaError,
    TrainingData,
    drain,
    fine_tune,
    load_model,
    save_model,
)
from medsaga.events import Progress
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.backbones.vit import ViTBackbone
from medsaga.network.backbones.vit_size import ViTSize
from medsaga.network.medsaga import MedSAGa
from medsaga.settings.fine_tune import StrategyName
from medsaga.training.features.pyramid_cache import PyramidCache
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.layerwise import LayerwiseOptimizer
from medsaga.training.optim.low_rank import RANK, merge_low_rank_updates
from medsaga.training.optim.strategy import STRATEGIES, apply_strategy

ATTENTION = r"backbone\..*\.attn\.(qkv|proj)\."
CHANGES = {
    "medsaga": r"",
    "medsaga-v1": rf"{ATTENTION}|decoder\.",
    "medsaga-v2": r"backbone\.",
    "samed": r"backbone\..*\.attn\.qkv\.weight|decoder\.",
    "full": r"",
    "decoder": r"decoder\.|detail_head\.",
}
ONE_STAGE = ("medsaga-v1", "medsaga-v2", "samed")


def settings_of(name: StrategyName, **changes) -> FineTuneSettings:
    is_bare = name in ONE_STAGE
    return FineTuneSettings(
        strategy=name,
        detail_head=not is_bare,
        stages="galore" if is_bare else "both",
        rank=8,
        warmup_steps=0,
        **changes,
    )


def build(backbone: str, name: StrategyName) -> MedSAGa:
    torch.manual_seed(0)
    built = (
        build_backbone("lite_medsam")
        if backbone == "lite_medsam"
        else ViTBackbone(
            "small", ViTSize(width=32, depth=2, heads=2, global_blocks=(1,))
        )
    )
    return MedSAGa(built, 3, detail_head=name not in ONE_STAGE)


def train_a_step(network: MedSAGa, settings: FineTuneSettings) -> LayerwiseOptimizer:
    apply_strategy(network, settings.strategy, 0)
    optimizer = LayerwiseOptimizer(parameter_groups(network, settings))
    network.train()
    images = torch.rand(1, 3, 64, 64)
    with optimizer:
        # Two: the first changes only the half of a low-rank update that began at 0.
        for _ in range(2):
            logits = network(images)
            target = torch.randint(3, (1, *logits.shape[-2:]))
            # Large, so that no update is lost in rounding.
            with optimizer.step():
                (1e4 * F.cross_entropy(logits, target)).backward()
    network.eval()
    return optimizer


def weights_of(network: MedSAGa) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("backbone", ["lite_medsam", "vit"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_exactly_what_it_says_is_trained(name, backbone):
    network = build(backbone, name)
    before = weights_of(network)
    optimizer = train_a_step(network, settings_of(name))
    merge_low_rank_updates(network)
    after = weights_of(network)
    assert after.keys() == before.keys()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {n for n in before if re.match(CHANGES[name], n)}
    is_projected = optimizer.n_projected > 0
    assert is_projected == name.startswith("medsaga")


@pytest.mark.parametrize("backbone", ["lite_medsam", "vit"])
def test_samed_leaves_the_keys_as_they_were(backbone):
    network = build(backbone, "samed")
    before = weights_of(network)
    train_a_step(network, settings_of("samed"))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        apart = network(image)
        merge_low_rank_updates(network)
        torch.testing.assert_close(network(image), apart, rtol=1e-4, atol=1e-5)
    n_checked = 0
    for name, module in network.backbone.named_modules():
        if not hasattr(module, "qkv"):
            continue
        key = f"backbone.{name}.qkv.weight"
        change = module.qkv.weight - before[key]
        heads, rows = (
            (module.num_heads, module.key_dim)
            if backbone == "lite_medsam"
            else (1, len(change) // 3)
        )
        parts = change.detach().view(heads, -1, change.shape[1])
        queries, keys, values = parts.split([rows, rows, parts.shape[1] - 2 * rows], 1)
        assert (keys == 0).all()
        for part in (queries, values):
            # Differences of rounded weights have a little of every rank.
            rank = torch.linalg.matrix_rank(part.flatten(0, 1), rtol=1e-2)
            assert 1 <= rank <= RANK
        n_checked += 1
    assert n_checked >= 2


def test_a_model_of_samed_is_like_any_other(image, labels, tmp_path):
    settings = settings_of("samed", steps=2, long_side=64, precision="bf16")
    model = drain(fine_tune(TrainingData(image, labels), settings))
    again = load_model(save_model(model, tmp_path / "model"))
    assert again.card.settings["strategy"] == "samed"
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before, after = model.network.cpu()(images), again.network(images)
    assert (before.argmax(1) == after.argmax(1)).float().mean() > 0.99


class TestDecoder:
    """The encoder is frozen: its feature maps are computed once for each view."""

    @pytest.fixture
    def settings(self, quick):
        return replace(quick, strategy="decoder", steps=40, feature_cache_mb=16)

    def test_the_encoder_stays_and_the_rest_learns_from_views_encoded_once(
        self, image, labels, settings, monkeypatch
    ):
        encoded, backbone = [], type(build_backbone("tiny"))
        whole = backbone.forward

        def count(self, images):
            encoded.append(len(images) if self.training else 0)
            return whole(self, images)

        monkeypatch.setattr(backbone, "forward", count)
        events = []
        model = drain(fine_tune(TrainingData(image, labels), settings), events.append)
        assert 4 <= sum(encoded) < settings.steps * settings.batch_size
        frozen = build_backbone("tiny").state_dict()
        for name, tensor in model.network.backbone.state_dict().items():
            assert torch.equal(tensor.cpu(), frozen[name]), name
        losses = [
            e.loss for e in events if isinstance(e, Progress) and e.stage == "galore"
        ]
        assert sum(losses[-10:]) < sum(losses[:10])
        assert model.card.measured["projected_share"] == 0

    def test_a_smaller_cache_gives_the_same_first_views(self, image, labels, settings):
        """Cached or computed anew, a view's feature maps are the same."""

        def losses(megabytes: int) -> list[float]:
            events = []
            short = replace(settings, steps=4, feature_cache_mb=megabytes)
            drain(fine_tune(TrainingData(image, labels), short), events.append)
            return [
                e.loss
                for e in events
                if isinstance(e, Progress) and e.stage == "galore"
            ]

        assert losses(16) == pytest.approx(losses(1024), rel=1e-5)

    @pytest.mark.parametrize(("budget_mb", "n_encoded"), [(0, 4), (16, 2)])
    def test_a_budget_for_no_view_keeps_none(
        self, image, labels, settings, monkeypatch, budget_mb, n_encoded
    ):
        encoded, backbone = [], type(build_backbone("tiny"))
        setup, state, _ = begin(image, labels, settings)
        cache, whole = PyramidCache(setup, state.network, budget_mb), backbone.forward

        def note(self, images):
            encoded.extend(images)
            return whole(self, images)

        monkeypatch.setattr(backbone, "forward", note)
        images = torch.rand(2, 3, 64, 64)
        first, again = (cache.pyramid([0, 1], images) for _ in range(2))
        assert len(encoded) == n_encoded
        for a, b in zip(first, again, strict=True):
            torch.testing.assert_close(a, b)

    def test_what_fills_the_cache_is_not_counted_as_a_steps_time(
        self, image, labels, settings, clock
    ):
        """A slow encoder takes its time once, not in each of the steps planned."""
        clock.slow_down(type(build_backbone("tiny")), "forward", 100.0)
        model, _ = train(image, labels, replace(settings, steps=4))
        assert clock.now >= 400.0
        assert model.card.measured["seconds_per_step"] < 1e-3


def test_strategies_of_one_stage_say_what_to_switch_off():
    for name in ONE_STAGE:
        with pytest.raises(MedsagaError, match="switch detail_head off"):
            FineTuneSettings(strategy=name)


def test_a_backbone_without_attention_is_told(image, labels, quick):
    settings = replace(quick, strategy="samed", detail_head=False, stages="galore")
    with pytest.raises(MedsagaError, match="has no attention"):
        drain(fine_tune(TrainingData(image, labels), settings))

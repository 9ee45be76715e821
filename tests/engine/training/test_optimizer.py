"""Parameter groups, one update per layer inside backward, and the schedule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from medsaga.errors import MedsagaError
from medsaga.network.backbones.pretrained import build_backbone
from medsaga.network.medsaga import MedSAGa
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training.optim.galore import Projector
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.layerwise import LayerwiseOptimizer

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = FineTuneSettings(rank=4, refresh_interval=3, encoder_lr=3e-3)
PROJECTIONS = ["std", "full", "left", "right"]
WAYS = [
    *({"projection": projection} for projection in PROJECTIONS),
    {"optimizer": "fira"},
    {"optimizer": "fira", "projection": "full"},
    {"optimizer": "apollo-mini"},
]


class SmallBackbone(nn.Module):
    """Every kind of weight that matters to GaLore, with something of every trap."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 3, 3, padding=1, bias=False)  # 3 x 27
        self.stem = nn.Conv2d(3, 8, 3, padding=1)  # 8 x 27
        self.conv = nn.Conv2d(8, 12, 3, padding=1, bias=False)  # 12 x 72
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.mix = nn.Conv2d(12, 6, 1)
        self.norm = nn.LayerNorm(6)
        self.wide = nn.Linear(6, 16)
        self.tall = nn.Linear(16, 6)
        self.thin = nn.Linear(6, 3, bias=False)
        self.pos_embed = nn.Parameter(torch.zeros(8, 6))
        self.rel_pos_h = nn.Parameter(torch.zeros(8, 6))
        self.attention_biases = nn.Parameter(torch.zeros(8, 6))
        self.prompt = nn.Embedding(8, 6)
        self.unused = nn.Linear(6, 6)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images + self.narrow(images))
        x = F.relu(self.depthwise(F.relu(self.conv(F.relu(x)))))
        x = self.norm(self.mix(x).flatten(2).mT)  # (B, 64, 6)
        tables = self.pos_embed + self.rel_pos_h + self.attention_biases
        x = x.unflatten(1, (8, 8)) + tables + self.prompt.weight
        return self.thin(x + self.tall(F.gelu(self.wide(x))))


class SmallNetwork(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.backbone = SmallBackbone()
            self.decoder = nn.Linear(3, 6)
            self.detail_head = nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.detail_head(F.relu(self.decoder(self.backbone(images))))


PROJECTED = {
    f"backbone.{name}.weight"
    for name in ("stem", "conv", "mix", "wide", "tall", "unused")
}


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    target = torch.randint(0, 2, (4, 8, 8), generator=generator)
    noise = torch.randn(4, 3, 8, 8, generator=generator)
    return target[:, None] + 0.3 * noise, target


def train(
    network: nn.Module, optimizer: LayerwiseOptimizer, steps: range
) -> list[float]:
    losses = []
    with optimizer:
        for step in steps:
            images, target = batch(step)
            loss = F.cross_entropy(network(images).flatten(0, -2), target.flatten())
            with optimizer.step():
                loss.backward()
            losses.append(loss.item())
    return losses


def build(
    settings: FineTuneSettings = SETTINGS, network: nn.Module | None = None
) -> tuple[nn.Module, LayerwiseOptimizer]:
    network = SmallNetwork() if network is None else network
    groups = parameter_groups(network, settings)
    return network, LayerwiseOptimizer(groups, settings.seed)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def test_every_parameter_learns_as_its_kind_does() -> None:
    network = SmallNetwork()
    settings = replace(SETTINGS, weight_decay=0.05, beta1=0.8, beta2=0.95)
    seen = {}
    for group in parameter_groups(network, settings):
        assert group["betas"] == (0.8, 0.95)
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert name not in seen
            assert parameter is network.get_parameter(name)
            seen[name] = group
    assert seen.keys() == dict(network.named_parameters()).keys()
    rates = {"backbone": 3e-3, "decoder": 1e-3, "detail_head": 2e-3}
    assert all(group["lr"] == rates[name.split(".")[0]] for name, group in seen.items())
    assert {name for name, group in seen.items() if "rank" in group} == PROJECTED
    decaying = {name for name, group in seen.items() if group["weight_decay"]}
    assert decaying == PROJECTED | {
        "backbone.narrow.weight",
        "backbone.depthwise.weight",
        "backbone.thin.weight",
        "decoder.weight",
        "detail_head.weight",
    }
    assert {seen[name]["weight_decay"] for name in decaying} == {0.05}


def test_frozen_parameters_and_absent_head_are_left_out() -> None:
    network = SmallNetwork()
    network.detail_head = None
    network.backbone.conv.requires_grad_(False)
    groups = parameter_groups(network, SETTINGS)
    names = {name for group in groups for name in group["names"]}
    assert "backbone.conv.weight" not in names
    assert {name.split(".")[0] for name in names} == {"backbone", "decoder"}
    network.backbone.requires_grad_(False)
    (matrices, biases) = parameter_groups(network, SETTINGS)
    assert (matrices["names"], biases["names"]) == (
        ["decoder.weight"],
        ["decoder.bias"],
    )


def test_rank_that_projects_nothing_names_the_largest_useful_one() -> None:
    network = SmallNetwork()
    with pytest.raises(MedsagaError, match="at most 11"):
        parameter_groups(network, replace(SETTINGS, rank=12))
    groups = parameter_groups(network, replace(SETTINGS, rank=11))
    projected = [name for group in groups if "rank" in group for name in group["names"]]
    assert projected == ["backbone.conv.weight"]


def test_lite_medsam_is_projected_but_for_its_tables_and_vectors() -> None:
    network = MedSAGa(build_backbone("lite_medsam"), 3)
    settings = FineTuneSettings()
    optimizer = LayerwiseOptimizer(parameter_groups(network, settings))
    assert optimizer.n_projected == 47
    # the rest: the first stages' narrow convolutions, vectors and tables
    assert optimizer.projected_share == pytest.approx(0.975, abs=0.002)
    # at a rank below the number of heads the tables would qualify by their sides
    for group in parameter_groups(network, replace(settings, rank=1)):
        if "rank" in group:
            modules = [name.rpartition(".")[0] for name in group["names"]]
            for module in map(network.get_submodule, modules):
                assert isinstance(module, nn.Linear | nn.Conv2d)
                assert getattr(module, "groups", 1) == 1


@pytest.mark.parametrize(
    ("way", "shapes"),
    [
        ("std", {"tall": (4, 16), "wide": (16, 4), "conv": (4, 72), "mix": (4, 12)}),
        ("left", {"tall": (4, 16), "wide": (4, 6), "conv": (4, 72), "mix": (4, 12)}),
        ("right", {"tall": (6, 4), "wide": (16, 4), "conv": (12, 4), "mix": (6, 4)}),
        ("full", dict.fromkeys(("tall", "wide", "conv", "mix"), (4, 4))),
        ("fira", {"tall": (4, 16), "wide": (16, 4), "conv": (4, 72), "mix": (4, 12)}),
        ("apollo-mini", {"tall": (1, 16), "wide": (16, 1), "thin": (1, 6)}),
    ],
)
def test_moments_have_the_low_rank_shapes(
    way: str, shapes: dict[str, tuple[int, int]]
) -> None:
    kind = "projection" if way in PROJECTIONS else "optimizer"
    network, optimizer = build(replace(SETTINGS, **{kind: way}))
    train(network, optimizer, range(2))
    state = optimizer.state_dict()
    for name, shape in shapes.items():
        assert state[f"backbone.{name}.weight:exp_avg"].shape == shape
        assert state[f"backbone.{name}.weight:exp_avg_sq"].shape == shape
    for name in ("backbone.depthwise.weight", "decoder.weight", "backbone.pos_embed"):
        full = network.get_parameter(name).shape
        assert state[f"{name}:exp_avg"].shape == full


def test_state_bytes_counts_moments_and_subspaces() -> None:
    network = nn.Module()
    network.backbone = nn.Linear(20, 10)
    network.decoder = nn.Linear(10, 3, bias=False)
    network.forward = lambda x: network.decoder(network.backbone(x))
    network, optimizer = build(network=network)
    assert optimizer.projected_share == 200 / 210
    network(torch.ones(1, 20)).sum().backward()
    assert optimizer.state_bytes() == 8  # not attached: the counter alone
    with optimizer:
        network(torch.ones(1, 20)).sum().backward()
    floats = 2 * 4 * 20 + 10 * 4 + 2 * 10 + 2 * 30
    integers = 3 + 1 + 1  # steps, refreshes, skipped
    assert optimizer.state_bytes() == 4 * floats + 8 * integers


@pytest.mark.parametrize("way", WAYS)
def test_loss_falls(way: dict[str, Any]) -> None:
    settings = replace(SETTINGS, encoder_lr=0.01, **way)
    network, optimizer = build(settings)
    losses = train(network, optimizer, range(60))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert optimizer.n_skipped == 0


@pytest.mark.parametrize("way", WAYS)
def test_projected_weights_alone_learn(way: dict[str, Any]) -> None:
    network = SmallNetwork()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in PROJECTED)
    settings = replace(SETTINGS, encoder_lr=0.01, **way)
    network, optimizer = build(settings, network)
    assert optimizer.projected_share == 1
    losses = train(network, optimizer, range(60))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_updates_inside_backward_equal_one_step_after_it() -> None:
    """The weights that are already updated must not reach the other gradients."""

    from galore_torch import GaLoreAdamW

    def unprojected(network: nn.Module) -> list[dict[str, Any]]:
        # The library's own projector, which the reference would use, takes no
        # convolution.
        return [
            {key: value for key, value in group.items() if key != "rank"}
            for group in parameter_groups(network, SETTINGS)
        ]

    network, reference = SmallNetwork(), SmallNetwork()
    train(network, LayerwiseOptimizer(unprojected(network)), range(4))
    whole = GaLoreAdamW(unprojected(reference), no_deprecation_warning=True)
    for step in range(4):
        images, target = batch(step)
        logits = reference(images).flatten(0, -2)
        F.cross_entropy(logits, target.flatten()).backward()
        whole.step()
        whole.zero_grad()
    trained = weights_of(network)
    for name, weight in weights_of(reference).items():
        assert torch.equal(trained[name], weight), name


def test_gradients_are_gone_and_what_gets_none_stays() -> None:
    network, optimizer = build(replace(SETTINGS, weight_decay=0.5))
    before = weights_of(network)
    train(network, optimizer, range(2))
    assert all(parameter.grad is None for parameter in network.parameters())
    unchanged = {n for n, w in weights_of(network).items() if torch.equal(w, before[n])}
    assert unchanged == {"backbone.unused.weight", "backbone.unused.bias"}


def test_detached_it_leaves_backward_alone() -> None:
    network, optimizer = build()
    train(network, optimizer, range(1))
    before = weights_of(network)
    images, target = batch(1)
    F.cross_entropy(network(images).flatten(0, -2), target.flatten()).backward()
    after = weights_of(network)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert network.decoder.weight.grad is not None


def test_failing_update_leaves_no_gradient_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, optimizer = build()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("medsaga.training.optim.galore.Projector.project", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            train(network, optimizer, range(1))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert len(train(network, optimizer, range(2))) == 2


@pytest.mark.parametrize("fails_at", range(1, 6))
@pytest.mark.parametrize("place", ["project", "project_back"])
def test_a_step_that_failed_halfway_is_finished_by_the_next_try(
    monkeypatch: pytest.MonkeyPatch, fails_at: int, place: str
) -> None:
    """Each parameter takes one gradient in it, whichever was being updated."""
    network, optimizer = build()
    train(network, optimizer, range(2))
    before = weights_of(network)
    work, calls = getattr(Projector, place), count(1)

    def fail(projector: Projector, *of_the_step: Any) -> Tensor:
        if next(calls) == fails_at:
            raise RuntimeError("out of memory")
        return work(projector, *of_the_step)

    with monkeypatch.context() as patched:
        patched.setattr(Projector, place, fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            train(network, optimizer, range(2, 3))
    halfway = weights_of(network)
    train(network, optimizer, range(3, 4))  # with another batch
    after = weights_of(network)
    steps = {k: int(n) for k, n in optimizer.state_dict().items() if k.endswith("step")}
    assert set(steps.values()) == {3}
    finished = {n for n in before if not torch.equal(before[n], halfway[n])}
    assert finished
    assert all(torch.equal(halfway[name], after[name]) for name in finished)
    train(network, optimizer, range(4, 5))
    assert not any(torch.equal(weights_of(network)[n], after[n]) for n in finished)


def test_refreshes_are_spread_over_the_steps() -> None:
    backbone = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(10)))
    network = nn.ModuleDict({"backbone": backbone, "decoder": nn.Linear(8, 2)})
    settings = replace(SETTINGS, refresh_interval=5)
    optimizer = LayerwiseOptimizer(parameter_groups(network, settings))
    keys = [f"backbone.{i}.weight:n_refreshes" for i in range(10)]
    before, refreshed = dict.fromkeys(keys, 0), []
    with optimizer:
        for step in range(16):
            images = torch.randn(3, 8, generator=torch.Generator().manual_seed(step))
            with optimizer.step():
                network["decoder"](backbone(images)).square().sum().backward()
            after = {key: int(optimizer.state_dict()[key]) for key in keys}
            refreshed.append([key for key in keys if after[key] > before[key]])
            before = after
    assert len(refreshed[0]) == 10  # without a subspace nothing can be projected
    assert {len(layers) for layers in refreshed[1:]} == {2}
    for start in (1, 6, 11):
        window = Counter(chain.from_iterable(refreshed[start : start + 5]))
        assert window == Counter(keys)


def test_lr_factor_scales_every_group() -> None:
    settings = replace(SETTINGS, weight_decay=0.0)
    changes = []
    for factor in (1.0, 0.25, 0.0):
        network, optimizer = build(settings)
        before = weights_of(network)
        if factor < 1:
            optimizer.set_lr_factor(0.5)
            optimizer.set_lr_factor(factor)  # of the base rate, not of the last one
        train(network, optimizer, range(1))
        changes.append({n: w - before[n] for n, w in weights_of(network).items()})
    for name, change in changes[0].items():
        torch.testing.assert_close(changes[1][name], change / 4, rtol=1e-3, atol=1e-6)
        assert not changes[2][name].any()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_gradient_that_is_not_finite_is_skipped_and_counted(poison: float) -> None:
    network, optimizer = build()
    train(network, optimizer, range(2))
    weights, state = weights_of(network), optimizer.state_dict()
    state = {key: tensor.clone() for key, tensor in state.items()}

    def spoil(grad: Tensor) -> Tensor:
        spoiled = grad.clone()
        spoiled.view(-1)[3] = poison
        return spoiled

    spoiled = ("backbone.tall.weight", "decoder.weight")
    hooks = [network.get_parameter(name).register_hook(spoil) for name in spoiled]
    train(network, optimizer, range(2, 3))
    assert optimizer.n_skipped == 2
    for hook in hooks:
        hook.remove()
    for name, weight in weights_of(network).items():
        skipped = name in spoiled or "unused" in name
        assert torch.equal(weight, weights[name]) == skipped
    for name in spoiled:
        for entry in ("step", "exp_avg", "exp_avg_sq"):
            key = f"{name}:{entry}"
            assert torch.equal(optimizer.state_dict()[key], state[key])
    train(network, optimizer, range(3, 6))
    assert optimizer.n_skipped == 2
    assert all(w.isfinite().all() for w in weights_of(network).values())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last]
)
def test_resume_equals_an_unbroken_run_bit_for_bit(
    way: dict[str, Any], memory_format: torch.memory_format, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, seed=5, **way)

    def start(seed: int) -> tuple[nn.Module, LayerwiseOptimizer]:
        return build(settings, SmallNetwork(seed).to(memory_format=memory_format))

    unbroken, optimizer = start(0)
    losses = train(unbroken, optimizer, range(8))
    first, optimizer = start(0)
    assert train(first, optimizer, range(4)) == losses[:4]
    optimizer.n_skipped = 7
    save_file(optimizer.state_dict(), tmp_path / "state.safetensors")
    second, continued = start(1)
    second.load_state_dict(first.state_dict())
    continued.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert continued.n_skipped == 7
    torch.randn(3)  # the global random state has moved on since
    assert train(second, continued, range(4, 8)) == losses[4:]
    expected = weights_of(unbroken)
    for name, weight in weights_of(second).items():
        assert torch.equal(weight, expected[name]), name


def test_loaded_state_is_a_copy() -> None:
    network, optimizer = build()
    train(network, optimizer, range(2))
    saved = {key: tensor.clone() for key, tensor in optimizer.state_dict().items()}
    _, continued = build()
    continued.load_state_dict(saved)
    for tensor in saved.values():
        tensor.fill_(9)
    loaded = continued.state_dict()
    for key, tensor in optimizer.state_dict().items():
        assert torch.equal(loaded[key], tensor)


@pytest.mark.parametrize(
    "other",
    [
        replace(SETTINGS, rank=3),
        replace(SETTINGS, rank=11),
        replace(SETTINGS, projection="full"),
        replace(SETTINGS, optimizer="fira"),
        replace(SETTINGS, optimizer="apollo-mini"),
    ],
)
def test_state_of_other_settings_is_refused(other: FineTuneSettings) -> None:
    network, optimizer = build()
    train(network, optimizer, range(1))
    with pytest.raises(MedsagaError, match="continue with the settings"):
        build(other)[1].load_state_dict(optimizer.state_dict())


def test_state_of_another_network_is_refused() -> None:
    network, optimizer = build()
    train(network, optimizer, range(1))
    other = SmallNetwork()
    other.detail_head = None
    with pytest.raises(MedsagaError, match=r"detail_head\.\w+ that is not trained"):
        build(network=other)[1].load_state_dict(optimizer.state_dict())

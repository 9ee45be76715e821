"""The projector: subspaces, refreshes, and what AdamW makes of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medsaga.errors import MedsagaError
from medsaga.network.backbones.pretrained import load_pretrained
from medsaga.training.optim.adamw import AdamW
from medsaga.training.optim.galore import (
    Projector,
    largest_rank,
    projectable,
)

PROJECTIONS = ["std", "full", "left", "right"]


def random_matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def low_rank_matrix(rows: int, columns: int, rank: int) -> Tensor:
    return random_matrix(rows, rank) @ random_matrix(rank, columns, seed=1)


@pytest.mark.parametrize(
    ("projection", "shape", "low_shape"),
    [
        ("std", (40, 20), (40, 4)),
        ("std", (20, 40), (4, 40)),
        ("left", (40, 20), (4, 20)),
        ("left", (20, 40), (4, 40)),
        ("right", (40, 20), (40, 4)),
        ("right", (20, 40), (20, 4)),
        ("full", (40, 20), (4, 4)),
        ("full", (20, 40), (4, 4)),
        ("std", (16, 12, 3, 3), (4, 108)),
        ("full", (16, 12, 3, 3), (4, 4)),
        ("std", (16, 12, 1, 1), (16, 4)),
    ],
)
def test_gradient_comes_back_from_its_low_rank_shape(
    projection: str, shape: tuple[int, ...], low_shape: tuple[int, int]
) -> None:
    rows, columns = shape[0], math.prod(shape[1:])
    grad = low_rank_matrix(rows, columns, 3).reshape(shape)
    projector = Projector(rank=4, scale=0.5, projection=projection)  # type: ignore[arg-type]
    low = projector.project(grad, 0)
    assert low.shape == low_shape
    back = projector.project_back(low)
    assert back.shape == grad.shape
    torch.testing.assert_close(back, 0.5 * grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_bases_are_orthonormal_and_drop_what_lies_outside(projection: str) -> None:
    grad = random_matrix(60, 50)
    projector = Projector(rank=5, projection=projection)  # type: ignore[arg-type]
    kept = projector.project_back(projector.project(grad, 0))
    for basis in (projector.left, projector.right):
        if basis is not None:
            torch.testing.assert_close(basis.T @ basis, torch.eye(5))
    assert torch.linalg.matrix_rank(kept) == 5
    # an orthogonal projection: what is dropped has nothing in common with what is kept
    assert abs(float((kept * (grad - kept)).sum())) < 1e-3 * float(kept.square().sum())
    torch.testing.assert_close(projector.project_back(projector.project(kept, 1)), kept)


def test_subspace_is_the_leading_one() -> None:
    u, _ = torch.linalg.qr(random_matrix(80, 30))
    v, _ = torch.linalg.qr(random_matrix(60, 30, seed=1))
    spectrum = 2.0 ** -torch.arange(30)
    grad = u * spectrum @ v.T
    projector = Projector(rank=4, projection="full")
    low = projector.project(grad, 0)
    # sorted, as GaLore's own singular vectors are
    torch.testing.assert_close(low.diagonal().abs(), spectrum[:4], rtol=1e-3, atol=0)


def test_same_seed_same_subspace_whatever_the_global_random_state() -> None:
    grad = random_matrix(90, 70)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Projector(rank=4, seed=3, layer=2).project(grad, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Projector(rank=4, seed=3, layer=2).project(grad, 0), first)
    assert not torch.equal(Projector(rank=4, seed=3, layer=1).project(grad, 0), first)
    assert not torch.equal(Projector(rank=4, seed=4, layer=2).project(grad, 0), first)
    # equal in the low 32 bits if the numbers were packed rather than mixed
    packed = Projector(rank=4, seed=3, layer=2 + 2**32).project(grad, 0)
    assert not torch.equal(packed, first)


def test_refreshes_on_the_first_step_and_then_on_its_phase() -> None:
    projector = Projector(rank=4, refresh_interval=5, phase=2)
    steps, before = [], 0
    for step in range(15):
        projector.project(random_matrix(20, 30, seed=step), step)
        if projector.n_refreshes > before:
            steps.append(step)
        before = projector.n_refreshes
    assert steps == [0, 3, 8, 13]


def test_between_refreshes_the_subspace_stays() -> None:
    projector = Projector(rank=4, refresh_interval=5)
    projector.project(random_matrix(30, 20), 0)
    assert projector.right is not None
    basis = projector.right.clone()
    projector.project(random_matrix(30, 20, seed=1), 4)
    assert torch.equal(projector.right, basis)
    projector.project(random_matrix(30, 20, seed=1), 5)
    assert not torch.allclose(projector.right, basis, atol=0.1)


def test_zero_gradient_does_not_fix_the_subspace() -> None:
    grad = low_rank_matrix(30, 20, 3)
    projector = Projector(rank=4)
    assert not projector.project(torch.zeros(30, 20), 0).any()
    back = projector.project_back(projector.project(grad, 1))
    torch.testing.assert_close(back, grad, rtol=1e-4, atol=1e-4)
    # nor does a later one throw a good subspace away
    projector.project(torch.zeros(30, 20), 200)
    back = projector.project_back(projector.project(grad, 201))
    torch.testing.assert_close(back, grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("magnitude", [1e-30, 1e-12, 1e12])
def test_size_of_the_gradient_does_not_matter(magnitude: float) -> None:
    grad = low_rank_matrix(30, 20, 3)
    projector = Projector(rank=4)
    back = projector.project_back(projector.project(grad * magnitude, 0))
    torch.testing.assert_close(back / magnitude, grad, rtol=1e-4, atol=1e-4)


def test_float32_inside_autocast_and_for_bfloat16() -> None:
    grad = low_rank_matrix(64, 48, 3)
    projector = Projector(rank=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = projector.project(grad, 0)
        back = projector.project_back(low)
    assert low.dtype == back.dtype == torch.float32
    torch.testing.assert_close(back, grad, rtol=1e-4, atol=1e-4)
    assert Projector(rank=4).project(grad.bfloat16(), 0).dtype == torch.float32


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_state_is_tensors_and_continues_exactly(projection: str, tmp_path) -> None:
    def projector() -> Projector:
        return Projector(rank=4, refresh_interval=3, projection=projection)  # type: ignore[arg-type]

    grads = [random_matrix(30, 20, seed=step) for step in range(5)]
    unbroken = projector()
    lows = [unbroken.project(grad, step) for step, grad in enumerate(grads)]
    first, second = projector(), projector()
    for step in range(2):
        first.project(grads[step], step)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second.load_state_dict(state, grads[0])
    for step in range(2, 5):
        assert torch.equal(second.project(grads[step], step), lows[step])


def test_state_of_other_settings_is_refused() -> None:
    grad = random_matrix(30, 20)
    saved = Projector(rank=4)
    saved.project(grad, 0)
    for other in (Projector(rank=5), Projector(rank=4, projection="full")):
        with pytest.raises(MedsagaError, match="continue with the settings"):
            other.load_state_dict(saved.state_dict(), grad)


@pytest.mark.parametrize(
    ("shape", "largest"),
    [
        ((40, 20), 19),
        ((20, 40), 19),
        ((16, 12, 3, 3), 15),
        ((64, 3, 3, 3), 26),
        ((16, 12, 1, 1), 11),
        ((64, 1, 3, 3), 0),  # depthwise
        ((64,), 0),
        ((1, 14, 14, 32), 0),
        ((0, 8), 0),
    ],
)
def test_projectable_where_both_sides_exceed_the_rank(
    shape: tuple[int, ...], largest: int
) -> None:
    weight = torch.zeros(shape)
    assert largest_rank(weight) == largest
    assert not projectable(weight, largest + 1)
    assert largest == 0 or projectable(weight, largest)


def train_one_weight(
    shape: tuple[int, ...], projector: Projector | None, steps: int = 5
) -> Tensor:
    """Update by gradients that are given, not by a loss."""
    weight = random_matrix(*shape, seed=99)
    adamw = AdamW(lr=0.01, weight_decay=0.1, projector=projector)
    for step in range(steps):
        adamw.update(weight, random_matrix(*shape, seed=step))
    return weight


@pytest.mark.parametrize("projection", ["std", "left", "right", "full", None])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_update_is_that_of_galore_torch(
    projection: str | None, weight_decay: float
) -> None:
    from galore_torch import GaLoreAdamW

    def projector() -> Projector | None:
        if projection is None:
            return None
        return Projector(rank=3, projection=projection, refresh_interval=2, scale=0.5)  # type: ignore[arg-type]

    start = random_matrix(9, 6, seed=99)
    theirs = nn.Parameter(start.clone())
    group: dict[str, object] = {"params": [theirs], "lr": 0.01, "betas": (0.8, 0.95)}
    if projection is not None:
        # the values are the projector's own: the library only looks for the key
        group |= {"rank": 1, "update_proj_gap": 1, "scale": 1.0, "proj_type": "std"}
    reference = GaLoreAdamW(
        [group], weight_decay=weight_decay, no_deprecation_warning=True
    )
    if projection is not None:
        reference.state[theirs]["projector"] = projector()
    adamw = AdamW(
        lr=0.01,
        beta1=0.8,
        beta2=0.95,
        weight_decay=weight_decay,
        projector=projector(),
    )
    ours = start.clone()
    for step in range(7):
        theirs.grad = random_matrix(9, 6, seed=step)
        reference.step()
        adamw.update(ours, random_matrix(9, 6, seed=step))
    assert torch.equal(ours, theirs.detach())


def test_the_update_is_that_of_galore_torch_with_its_own_exact_subspace() -> None:
    """All of a stock GaLore step, when what spans the subspace is the same."""
    from galore_torch import GaLoreAdamW

    start = random_matrix(9, 6, seed=99)
    theirs = nn.Parameter(start.clone())
    group = {"params": [theirs], "lr": 0.01, "rank": 3, "proj_type": "std"}
    reference = GaLoreAdamW(
        [group | {"update_proj_gap": 10**6, "scale": 0.5}], no_deprecation_warning=True
    )
    projector = Projector(rank=3, scale=0.5, refresh_interval=10**6, phase=1)
    adamw, ours = AdamW(lr=0.01, projector=projector), start.clone()
    for step in range(7):
        theirs.grad = random_matrix(9, 6, seed=step)
        reference.step()
        if step == 0:
            basis = reference.state[theirs]["projector"].ortho_matrix.T
            state = {"right": basis, "n_refreshes": torch.tensor(1)}
            projector.load_state_dict(state, ours)
        adamw.update(ours, random_matrix(9, 6, seed=step))
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("projection", "shape"),
    [
        ("std", (12, 7)),
        ("std", (7, 12)),
        ("right", (12, 7)),
        ("left", (7, 12)),
        ("full", (9, 9)),
        ("std", (6, 4, 3, 3)),
        ("std", (8, 6, 1, 1)),
    ],
)
def test_identity_projector_equals_none(
    projection: str, shape: tuple[int, ...]
) -> None:
    matrix = torch.zeros(shape).flatten(1)
    side = min(matrix.shape)
    sides = {"full": ("left", "right"), "left": ("left",), "right": ("right",)}
    std = ("right",) if matrix.shape[0] >= matrix.shape[1] else ("left",)
    state = {name: torch.eye(side) for name in sides.get(projection, std)}
    state["n_refreshes"] = torch.tensor(1)
    projector = Projector(
        rank=side,
        projection=projection,  # type: ignore[arg-type]
        refresh_interval=10**6,
        phase=1,
    )
    projector.load_state_dict(state, matrix)
    plain = train_one_weight(shape, None)
    assert torch.equal(train_one_weight(shape, projector), plain)


def adamw_by_hand(
    weight: Tensor, grads: list[Tensor], lr: float = 0.01, decay: float = 0.1
) -> Tensor:
    """AdamW as GaLore has it: eps 1e-6 inside, weight decay after the step."""
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, grad in enumerate(grads, start=1):
        mean = 0.9 * mean + 0.1 * grad
        square = 0.999 * square + 0.001 * grad**2
        rate = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        weight = weight - rate * mean / (square.sqrt() + 1e-6)
        weight = weight - lr * decay * weight
    return weight


@pytest.mark.parametrize(
    ("projection", "shape"),
    [
        ("std", (12, 7)),
        ("std", (7, 12)),
        ("right", (12, 7)),
        ("left", (7, 12)),
        ("full", (9, 9)),
        ("std", (5, 2, 3, 3)),
    ],
)
def test_full_rank_equals_adamw_on_rotated_weights(
    projection: str, shape: tuple[int, ...]
) -> None:
    matrix_shape = (shape[0], math.prod(shape[1:]))
    projector = Projector(rank=min(matrix_shape), projection=projection)  # type: ignore[arg-type]
    trained = train_one_weight(shape, projector)
    rows = torch.eye(matrix_shape[0]) if projector.left is None else projector.left
    columns = torch.eye(matrix_shape[1]) if projector.right is None else projector.right
    start = random_matrix(*shape, seed=99).reshape(matrix_shape)
    grads = [random_matrix(*shape, seed=s).reshape(matrix_shape) for s in range(5)]
    rotated_grads = [rows.T @ grad @ columns for grad in grads]
    rotated = adamw_by_hand(rows.T @ start @ columns, rotated_grads)
    expected = (rows @ rotated @ columns.T).reshape(shape)
    torch.testing.assert_close(trained, expected, rtol=0, atol=2e-5)
    # and it is no plain AdamW: the rotation matters
    plain = adamw_by_hand(start, grads).reshape(shape)
    assert (trained - plain).abs().max() > 1e-3


@pytest.fixture(scope="module")
def real_gradients() -> dict[str, Tensor]:
    """Gradients of LiteMedSAM's weights for a disc that a random head should find."""
    backbone = load_pretrained("lite_medsam").backbone.train()
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    disc = ((y - 70) ** 2 + (x - 55) ** 2 < 30**2).float()
    image = 0.3 + 0.4 * disc + 0.05 * random_matrix(128, 128)
    head = random_matrix(2, backbone.embedding.channels, 1, 1) / 16
    logits = F.conv2d(backbone(image.expand(1, 3, -1, -1))[-1], head)
    target = F.max_pool2d(disc[None, None], 4)[0].long()  # (1, 32, 32)
    share = logits.softmax(1)[:, 1]
    dice = 2 * (share * target).sum() / (share.sum() + target.sum())
    (0.8 * (1 - dice) + 0.2 * F.cross_entropy(logits, target)).backward()
    return {
        name: parameter.grad
        for name, parameter in backbone.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("rank", [16, 64])
def test_randomised_subspace_keeps_the_energy_of_real_gradients(
    real_gradients: dict[str, Tensor], rank: int
) -> None:
    shares = {}
    for name, grad in real_gradients.items():
        if not projectable(grad, rank) or "attention_biases" in name:
            continue
        kept = Projector(rank=rank).project(grad, 0).double().square().sum()
        exact = torch.linalg.svdvals(grad.flatten(1).double())[:rank].square().sum()
        shares[name] = float(kept / exact)
    assert len(shares) > 30
    assert max(shares.values()) < 1 + 1e-4  # the exact one cannot be beaten
    worst = min(shares, key=shares.__getitem__)
    assert shares[worst] >= 0.95, worst

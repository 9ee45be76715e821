"""Fira and APOLLO-Mini: their equations, and an independent implementation."""

from __future__ import annotations

import math

import pytest
import pytorch_optimizer
import torch
from pytorch_optimizer import APOLLO
from pytorch_optimizer.optimizer.utils.galore import GaLoreProjector
from torch import Tensor, nn

from medsaga.errors import MedsagaError
from medsaga.settings.fine_tune import FineTuneSettings
from medsaga.training.optim.adamw import AdamW
from medsaga.training.optim.galore import Projector
from medsaga.training.optim.scaled import ApolloMini, Fira, RandomProjector

LR, DECAY, N_STEPS = 0.01, 0.1, 12
EYE = torch.eye(9)
SHAPES = [(12, 7), (7, 12), (6, 4, 3, 3)]


def random_matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(shape: tuple[int, ...]) -> list[Tensor]:
    """Of sizes so different that the limiter has to work."""
    return [
        random_matrix(*shape, seed=step) * (10 if step % 5 == 3 else 1)
        for step in range(N_STEPS)
    ]


def learn(adamw: AdamW, shape: tuple[int, ...]) -> Tensor:
    weight = random_matrix(*shape, seed=99)
    for grad in gradients(shape):
        adamw.update(weight, grad)
    return weight


def with_basis(side: str, basis: Tensor, scale: float = 1.0) -> Projector:
    """Make a projector that keeps a subspace that is given."""
    like = torch.zeros((len(basis),) * 2)
    projector = Projector(
        rank=basis.shape[1],
        projection=side,  # type: ignore[arg-type]
        refresh_interval=10**6,
        phase=1,
        scale=scale,
    )
    projector.load_state_dict({side: basis, "n_refreshes": torch.tensor(1)}, like)
    return projector


def learn_by_library(
    kind: type[APOLLO | pytorch_optimizer.Fira],
    shape: tuple[int, int],
    side: str,
    basis: Tensor,
) -> Tensor:
    """Let pytorch-optimizer take the same steps in the same subspace."""
    parameter, rank = nn.Parameter(random_matrix(*shape, seed=99)), basis.shape[1]
    projector = GaLoreProjector(
        rank=rank,
        update_proj_gap=10**6,
        projection_type=side,  # type: ignore[arg-type]
    )
    projector.ortho_matrix = basis if side == "left" else basis.T
    # The values are the projector's own: of the group only the keys are looked for.
    group = {"params": [parameter], "rank": rank, "projection_type": side, "scale": 1.0}
    optimizer = kind([group | {"update_proj_gap": 1}], lr=LR)
    optimizer.state[parameter]["projector"] = projector
    for grad in gradients(shape):
        parameter.grad = grad
        optimizer.step()
    return parameter.detach()


class TestFira:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("projection", ["std", "left", "right", "full"])
    def test_in_a_subspace_that_is_everything_it_is_galore(self, projection, shape):
        def projector() -> Projector:
            return Projector(rank=100, projection=projection, refresh_interval=5)

        fira, galore = (
            learn(kind(lr=LR, weight_decay=DECAY, projector=projector()), shape)
            for kind in (Fira, AdamW)
        )
        torch.testing.assert_close(fira, galore, rtol=0, atol=1e-5)

    def test_with_the_identity_for_a_subspace_it_is_adamw(self):
        fira = Fira(lr=LR, weight_decay=DECAY, projector=with_basis("left", EYE))
        plain = AdamW(lr=LR, weight_decay=DECAY)
        assert torch.equal(learn(fira, (9, 9)), learn(plain, (9, 9)))

    @pytest.mark.parametrize("scale", [1.0, 0.5])
    def test_the_rest_is_scaled_column_by_column_and_limited(self, scale):
        """Equations of arXiv 2410.01623, a line each."""
        basis = torch.linalg.qr(random_matrix(9, 3)).Q
        weight = random_matrix(9, 6, seed=99)
        mean = square = torch.zeros(3, 6)
        before, n_limited = None, 0
        for t, grad in enumerate(gradients((9, 6)), start=1):
            low = basis.T @ grad
            mean, square = 0.9 * mean + 0.1 * low, 0.999 * square + 0.001 * low**2
            adapted = mean / (square.sqrt() + 1e-6)
            rest = (grad - basis @ low) * (adapted.norm(dim=0) / low.norm(dim=0))
            if before is not None and rest.norm() > 1.01 * before:
                rest = rest / rest.norm() * 1.01 * before
                n_limited += 1
            before = rest.norm()
            rate = LR * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            weight = weight - rate * scale * (basis @ adapted + rest)
        assert 0 < n_limited < N_STEPS
        fira = Fira(lr=LR, projector=with_basis("left", basis, scale))
        torch.testing.assert_close(learn(fira, (9, 6)), weight, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("shape", "side"), [((9, 6), "left"), ((9, 6), "right"), ((5, 8), "left")]
    )
    def test_it_is_that_of_pytorch_optimizer(self, shape, side):
        rows = shape[0] if side == "left" else shape[1]
        basis = torch.linalg.qr(random_matrix(rows, 3)).Q
        weight = learn(Fira(lr=LR, projector=with_basis(side, basis)), shape)
        theirs = learn_by_library(pytorch_optimizer.Fira, shape, side, basis)
        torch.testing.assert_close(weight, theirs, rtol=0, atol=1e-5)

    def test_it_changes_a_weight_outside_the_subspace_too(self):
        basis = torch.linalg.qr(random_matrix(9, 3)).Q
        outside = torch.eye(9) - basis @ basis.T
        start = random_matrix(9, 6, seed=99)
        changes = {
            kind: outside
            @ (learn(kind(lr=LR, projector=with_basis("left", basis)), (9, 6)) - start)
            for kind in (AdamW, Fira)
        }
        assert changes[AdamW].norm() < 1e-4
        assert changes[Fira].norm() > 0.1


class TestApolloMini:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("scale", [1.0, 0.5])
    def test_the_gradient_is_scaled_as_a_whole_and_limited(self, shape, scale):
        """Algorithm 1 of arXiv 2412.05270 at rank 1, a line each."""
        projector = RandomProjector(rank=1, scale=scale)
        weight = learn(
            ApolloMini(lr=LR, weight_decay=DECAY, projector=projector), shape
        )
        row = next(one for one in (projector.left, projector.right) if one is not None)
        expected = random_matrix(*shape, seed=99).flatten(1)
        is_left = projector.left is not None
        mean = square = torch.zeros(())
        before, n_limited = None, 0
        for t, grad in enumerate(gradients(shape), start=1):
            grad = grad.flatten(1)
            low = row.T @ grad if is_left else grad @ row
            mean, square = 0.9 * mean + 0.1 * low, 0.999 * square + 0.001 * low**2
            adapted = mean / (square.sqrt() + 1e-6)
            change = math.sqrt(128) * scale * grad * (adapted.norm() / low.norm())
            if before is not None and change.norm() > 1.01 * before:
                change, n_limited = (
                    change / change.norm() * 1.01 * before,
                    n_limited + 1,
                )
            before = change.norm()
            rate = LR * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            expected = (expected - rate * change) * (1 - LR * DECAY)
        assert 0 < n_limited < N_STEPS
        torch.testing.assert_close(weight.flatten(1), expected, rtol=1e-4, atol=1e-4)

    def test_factor_and_limiter_are_those_of_pytorch_optimizer(self):
        """Whose change stays in the subspace, so that here it is everything."""
        projector = with_basis("left", EYE, scale=1 / math.sqrt(128))
        weight = learn(ApolloMini(lr=LR, projector=projector), (9, 9))
        theirs = learn_by_library(APOLLO, (9, 9), "left", EYE)
        torch.testing.assert_close(weight, theirs, rtol=0, atol=1e-5)

    def test_the_random_row_keeps_norms_in_the_mean_and_follows_the_seed(self):
        grad = random_matrix(40, 30)
        norms = [
            RandomProjector(rank=1, seed=seed).project(grad, 0).square().sum()
            for seed in range(200)
        ]
        assert sum(norms) / 200 == pytest.approx(float(grad.square().sum()), rel=0.15)
        again = RandomProjector(rank=1, seed=3).project(grad, 0)
        assert again.square().sum() == norms[3]

    def test_two_projected_sides_are_refused(self):
        with pytest.raises(MedsagaError, match="set projection to std"):
            FineTuneSettings(optimizer="apollo-mini", projection="full")


@pytest.mark.parametrize(
    ("kind", "projector"), [(Fira, Projector), (ApolloMini, RandomProjector)]
)
class TestBoth:
    def test_a_first_gradient_of_zero_ends_no_learning(self, kind, projector):
        adamw = kind(lr=LR, projector=projector(rank=1))
        weight = random_matrix(9, 6, seed=99)
        adamw.update(weight, torch.zeros(9, 6))
        for grad in gradients((9, 6)):
            adamw.update(weight, grad)
        assert weight.isfinite().all()
        assert torch.linalg.matrix_rank(weight - random_matrix(9, 6, seed=99)) > 3

    def test_an_empty_column_stays_as_it_is(self, kind, projector):
        adamw = kind(lr=LR, projector=projector(rank=2))
        weight = random_matrix(9, 6, seed=99)
        for step, grad in enumerate(gradients((9, 6))):
            grad[:, 2] *= step < 4
            before = weight.clone()
            adamw.update(weight, grad)
        assert weight.isfinite().all()
        if kind is ApolloMini:  # Fira's mean goes on for a while, as Adam's does
            assert torch.equal(weight[:, 2], before[:, 2])

    def test_without_a_projector_it_is_adamw(self, kind, projector):
        plain = learn(AdamW(lr=LR, weight_decay=DECAY), (9, 6))
        assert torch.equal(learn(kind(lr=LR, weight_decay=DECAY), (9, 6)), plain)

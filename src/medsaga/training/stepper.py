"""One step of the GaLore stage: a batch of views, its loss, and the update."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from medsaga.computing import allocate_leanly, allocates_leanly, seeded, spare_mb
from medsaga.data.samples import drawn_sample
from medsaga.data.sizing import collate
from medsaga.memory.frugality import LEAN
from medsaga.training.features.pyramid_cache import PyramidCache
from medsaga.training.optim.losses import SegmentationLoss
from medsaga.training.optim.strategy import STRATEGIES
from medsaga.training.paint_context.agreed import with_agreed
from medsaga.training.plan.steps import NO_FILLING, lr_factor
from medsaga.windows import view_size
from medsaga.wording import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from medsaga.training.optim.layerwise import LayerwiseOptimizer
    from medsaga.training.plan.steps import Filling
    from medsaga.training.setup import Setup
    from medsaga.training.state import TrainingState

# Numbers of augmented views: those of the GaLore stage come after the head stage's.
_FIRST_VIEW = 1_000_000
# What the rates are multiplied by after a loss that is not finite.
_LOWER_RATE = 0.5


class Stepper:
    """Takes the steps of a training one by one; all that they change is in its state.

    Parameters
    ----------
    setup, state
        The training.
    optimizer
        Of its network, attached.
    """

    def __init__(
        self, setup: Setup, state: TrainingState, optimizer: LayerwiseOptimizer
    ) -> None:
        self.setup, self.state = setup, state
        self._optimizer, self._augment = optimizer, setup.augmenter()
        self._samples = with_agreed(setup, state.agreed or ())
        self._loss_of = SegmentationLoss(
            setup.settings.loss_dice_weight,
            keep_strokes=any(sample.known is not None for sample in setup.training),
            ranks=setup.ranks,
        )
        state.network.backbone.checkpointing = state.plan.checkpointing == "on"
        self._cache: PyramidCache | None = None
        if STRATEGIES[setup.settings.strategy].freezes_encoder:
            budget_mb = state.plan.feature_cache_mb
            if not state.step:  # later it decides which views there are
                budget_mb = min(budget_mb, spare_mb(setup.device))
                state.revise(feature_cache_mb=budget_mb)
            self._cache = PyramidCache(setup, state.network, budget_mb)

    @property
    def filling(self) -> Filling:
        """What the next steps take longer, until a cache is full."""
        return NO_FILLING if self._cache is None else self._cache.filling

    def take_less(self) -> str | None:
        """Let the steps from now on need less memory.

        Returns
        -------
        str or None
            How; None where they cannot.
        """
        state = self.state
        if self._cache is None and state.plan.checkpointing != "on":
            state.revise(checkpointing="on")
            state.network.backbone.checkpointing = True
            return "blocks are computed twice (checkpointing)"
        if state.plan.lean != "on" and allocates_leanly(self.setup.device):
            state.revise(lean="on")
            allocate_leanly(True)
            return LEAN
        if state.plan.batch_size > 1:
            state.revise(batch_size=state.plan.batch_size // 2)
            return f"each has {count(state.plan.batch_size, 'slice')}"
        return None

    def take(self) -> float:
        """Take the next step, and return its loss.

        One that has failed, for want of memory say, can be taken again. One whose loss
        is not finite changes nothing but the rates of the steps after it.
        """
        setup, state = self.setup, self.state
        state.clock.restart()
        self._optimizer.set_lr_factor(learning_rate_factor(setup, state, state.step))
        buffers = {n: b.clone() for n, b in state.network.named_buffers()}
        views, images, targets = self._batch(state.step)
        images = setup.to_device(images)
        # Dropout: the same numbers in every training of this seed, at this step; for
        # each rank's slices others.
        numbers = setup.settings.seed, state.step, setup.ranks.rank
        with seeded(setup.device, *numbers), setup.autocast():
            logits = self._logits(views, images)
        loss = self._loss_of(logits, targets.to(setup.device))
        value = float(loss.item())
        if math.isfinite(value):
            with self._optimizer.step():
                loss.backward()
            state.is_usable, state.n_not_finite = True, 0
        else:
            # The statistics of its activations are in the normalisation already.
            state.network.load_state_dict(buffers, strict=False)
            state.n_not_finite += 1
            state.rate_scale *= _LOWER_RATE
        state.step += 1
        state.clock.tick(0.0 if self._cache is None else self._cache.seconds)
        return value

    def _logits(self, views: Sequence[int], images: Tensor) -> Tensor:
        network = self.state.network
        if self._cache is None:
            logits: Tensor = network(images)
            return logits
        return network.logits(self._cache.pyramid(views, images), images)

    def _batch(self, step: int) -> tuple[list[int], Tensor, Tensor]:
        """Give numbers, images and targets of this rank's augmented views of a step.

        The order is shuffled anew in each round over the slices.
        """
        setup, cache = self.setup, self._cache
        seed, size = setup.settings.seed, self.state.plan.batch_size
        numbers: Sequence[int] = range(step * size, (step + 1) * size)
        if cache is not None:
            numbers = [number % cache.n_views for number in numbers]
        n = len(self._samples)
        drawn = [(v, self._samples[drawn_sample(seed, v, n)]) for v in numbers]
        sizes = [view_size(sample.padded, setup.canvas.tile) for _, sample in drawn]
        largest = max(height for height, _ in sizes), max(width for _, width in sizes)
        views, pairs = [], []
        for view, sample in setup.ranks.own(drawn):
            pair = self._augment.view(sample, _FIRST_VIEW + view)
            pairs.append(pair if cache is None else cache.pad(*pair))
            views.append(view)
        return views, *collate(pairs, largest)


def learning_rate_factor(setup: Setup, state: TrainingState, step: int) -> float:
    """Give what the learning rates are multiplied by in a step, counted from 0."""
    settings = setup.settings
    total = state.plan.steps or None
    factor = lr_factor(step, total, settings.warmup_steps, settings.decay_power)
    return factor * state.rate_scale

"""What changes in the course of a training: all that is needed to go on from a step."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from medsaga.propagation.trust import PaintTrust
from medsaga.training.optim.averaging import BestWeights, WeightAverage
from medsaga.training.optim.groups import parameter_groups
from medsaga.training.optim.layerwise import LayerwiseOptimizer
from medsaga.training.plan.running_time import RunningTime
from medsaga.training.plan.steps import StepClock

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from medsaga.network.medsaga import MedSAGa
    from medsaga.settings.fields import Switch
    from medsaga.settings.fine_tune import FineTuneSettings

Phase = Literal["head", "steps", "refit"]
"""Up to the GaLore stage's first step; its steps; and what comes after them."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is decided from minutes and memory; 0 as long as it is not.

    The fields are those of :class:`~medsaga.FineTuneSettings` by these names.
    """

    head_views: int
    head_steps: int
    steps: int
    validations: int
    feature_cache_mb: int
    batch_size: int
    checkpointing: Switch
    lean: Switch

    @classmethod
    def of(cls, settings: FineTuneSettings) -> Plan:
        """Take over what the settings say already."""
        return cls(**{f.name: getattr(settings, f.name) for f in fields(cls)})

    def complete(self, settings: FineTuneSettings) -> FineTuneSettings:
        """Give settings that repeat the training exactly."""
        return replace(settings, **asdict(self))


@dataclass(kw_only=True)
class Pace:
    """What this computer takes for the parts of a training; 0 until it is measured."""

    seconds_per_view: float = 0.0
    seconds_per_fit_step: float = 0.0
    seconds_to_validate: float = 0.0
    seconds_to_refit: float = 0.0
    seconds_to_compare: float = 0.0


@dataclass(eq=False, kw_only=True)
class TrainingState:
    """One training under way.

    Attributes
    ----------
    network
        As it has become.
    plan, pace, clock, time
        What is decided from the time, what parts and steps take, and how long it runs.
    phase
        Where it is. The head's phase is short, and is gone through anew as a whole; a
        training goes on from any step of the second, and from where the third begins.
    is_usable
        Whether the network has learned anything.
    step
        Steps of the GaLore stage that are done. Views and random numbers follow from
        it.
    optimizer
        While the steps are taken, else None.
    average
        Of the weights over the last steps.
    best, dice_at_start
        What scored best so far, and what the stage began with.
    rate_scale
        What the learning rates are multiplied by, since losses were not finite.
    n_not_finite
        Losses in a row that were not.
    measured
        What the card is to tell.
    trust
        How much carried paint is worth beside the network: as the model that goes on
        has it, None of a new one, until it is found out.
    expected
        Dice to be expected of slices that nobody painted, by label value.
    agreed
        Of each neighbour of the setup the class indices that model and carried paint
        agree on; None until they are looked for.
    """

    network: MedSAGa
    plan: Plan
    time: RunningTime = field(default_factory=RunningTime)
    pace: Pace = field(default_factory=Pace)
    clock: StepClock = field(default_factory=StepClock)
    phase: Phase = "head"
    is_usable: bool = False
    step: int = 0
    optimizer: LayerwiseOptimizer | None = None
    dice_at_start: float = math.nan
    rate_scale: float = 1.0
    n_not_finite: int = 0
    measured: dict[str, Any] = field(default_factory=dict)
    trust: PaintTrust | None = None
    expected: dict[int, float] = field(default_factory=dict)
    agreed: list[NDArray[np.int16]] | None = None
    average: WeightAverage = field(init=False)
    best: BestWeights = field(init=False)

    def __post_init__(self) -> None:
        self.average = WeightAverage(self.network)
        self.best = BestWeights(self.network)

    def revise(self, **planned: Any) -> None:
        """Fill in what is planned now."""
        self.plan = replace(self.plan, **planned)

    def seconds_left(self, settings: FineTuneSettings) -> float:
        """Seconds of the settings' minutes that are left; may be negative."""
        return settings.minutes * 60 - self.time.seconds

    def make_optimizer(self, settings: FineTuneSettings) -> LayerwiseOptimizer:
        """Make the optimiser of the network's parameters, without any step."""
        groups = parameter_groups(self.network, settings)
        self.optimizer = LayerwiseOptimizer(groups, settings.seed)
        return self.optimizer

    def write(self, path: Path) -> None:
        """Write all of it to a safetensors file."""
        parts = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best.state_dict(),
            "optimizer": {} if self.optimizer is None else self.optimizer.state_dict(),
            "agreed": {
                str(number): torch.from_numpy(one)
                for number, one in enumerate(self.agreed or ())
            },
        }
        tensors: dict[str, Tensor] = {}
        memories: set[int] = set()
        for part, state in parts.items():
            for name, tensor in state.items():
                kept = tensor.detach().cpu().contiguous()
                # safetensors refuses tensors that share their memory.
                memory = kept.untyped_storage().data_ptr()
                kept = kept.clone() if memory in memories else kept
                memories.add(memory)
                tensors[f"{part}/{name}"] = kept
        save_file(tensors, path, {"state": json.dumps(self._notes())})

    def read(self, path: Path, settings: FineTuneSettings) -> None:
        """Take over what :meth:`write` wrote of a training of the same settings.

        Raises
        ------
        MedsagaError
            If the optimiser's state was made with other settings.
        """
        parts: dict[str, dict[str, Tensor]] = {
            part: {} for part in ("network", "average", "best", "optimizer", "agreed")
        }
        with safe_open(path, framework="pt") as file:
            notes = json.loads(file.metadata()["state"])
            for key in file.keys():  # noqa: SIM118 - no dict
                part, _, name = key.partition("/")
                parts[part][name] = file.get_tensor(key)
        self.network.load_state_dict(parts["network"])
        self.average.load_state_dict(parts["average"], notes["n_averaged"])
        self.best.load_state_dict(parts["best"], notes["best"])
        self._take_notes(notes)
        n_agreed = notes.get("n_agreed")  # of earlier versions there is none
        if n_agreed is not None:
            self.agreed = [parts["agreed"][str(n)].numpy() for n in range(n_agreed)]
        if parts["optimizer"]:
            self.make_optimizer(settings).load_state_dict(parts["optimizer"])

    def _notes(self) -> dict[str, Any]:
        return {
            "plan": asdict(self.plan),
            "pace": asdict(self.pace),
            "step_seconds": self.clock.step_seconds,
            "seconds": self.time.seconds,
            "phase": self.phase,
            "is_usable": self.is_usable,
            "step": self.step,
            "dice_at_start": self.dice_at_start,
            "rate_scale": self.rate_scale,
            "n_not_finite": self.n_not_finite,
            "measured": self.measured,
            "trust": None if self.trust is None else asdict(self.trust),
            "expected": list(self.expected.items()),  # JSON has no numbers as keys
            "n_agreed": None if self.agreed is None else len(self.agreed),
            "n_averaged": self.average.n_updates,
            "best": self.best.notes(),
        }

    def _take_notes(self, notes: dict[str, Any]) -> None:
        self.plan, self.pace = Plan(**notes["plan"]), Pace(**notes["pace"])
        self.clock = StepClock(notes["step_seconds"])
        self.time.add(notes["seconds"])
        self.phase, self.step = notes["phase"], notes["step"]
        self.is_usable, self.measured = notes["is_usable"], notes["measured"]
        self.dice_at_start = notes["dice_at_start"]
        self.rate_scale = notes["rate_scale"]
        trust = notes.get("trust")  # of earlier versions there is none
        self.trust = None if trust is None else PaintTrust(**trust)
        self.expected = dict(notes.get("expected", ()))
        self.n_not_finite = notes["n_not_finite"]

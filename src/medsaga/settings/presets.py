"""The presets: settings by name."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from medsaga.errors import MedsagaError
from medsaga.settings.fine_tune import FineTuneSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


def _paper(settings: FineTuneSettings) -> FineTuneSettings:
    """MedSAGa's own values (arXiv 2407.15042, section 4)."""
    return replace(
        settings,
        backbone="vit_b",
        detail_head=False,
        stages="galore",
        minutes=60.0,
        hold_out_from=8,
        batch_size=12,
        encoder_lr=1e-3,
        decoder_lr=5e-3,
        warmup_steps=250,
        weight_decay=0.1,
        average_weights=False,
        mend_classes=False,
        negatives="off",
    )


_DEFAULT = FineTuneSettings()

PRESETS: Mapping[str, FineTuneSettings] = MappingProxyType(
    {
        # Measured: half a minute is worth more in views of the slices than in the few
        # steps of the GaLore stage that it has room for.
        "quick": replace(_DEFAULT, minutes=0.5, stages="head"),
        "balanced": _DEFAULT,
        "thorough": replace(_DEFAULT, minutes=10.0, max_long_side=256),
        "paper": _paper(_DEFAULT),
    }
)

# On a GPU a step of the default model takes as long as Python between thousands of
# small operations: larger images and more of them cost little (docs/quality.md).
_LONG_SIDE_ON_GPU, _BATCH_ON_GPU = 256, 4


def preset(name: str, *, on_gpu: bool = False) -> FineTuneSettings:
    """Give the settings of a preset: quick, balanced, thorough or paper.

    Parameters
    ----------
    name
        Of the preset.
    on_gpu
        Whether a GPU computes: then all but ``paper`` see images at up to 256 pixels
        and four slices in a step.

    Raises
    ------
    MedsagaError
        If there is no preset of that name.
    """
    if name not in PRESETS:
        raise MedsagaError(f"There is no preset {name!r}: choose {', '.join(PRESETS)}.")
    settings = PRESETS[name]
    if not on_gpu or name == "paper":
        return settings
    return replace(settings, max_long_side=_LONG_SIDE_ON_GPU, batch_size=_BATCH_ON_GPU)

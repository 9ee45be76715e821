"""Settings of a training, each written once.

Every field carries its bounds and its help in the annotation. Forms and command-line
options are built from these; nothing else repeats them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from medsaga.errors import MedsagaError
from medsaga.settings.fields import Precision, Switch, choice, describe, number

OptimizerName = Literal["galore", "fira", "apollo-mini"]
Projection = Literal["std", "full", "left", "right"]
Stages = Literal["both", "head", "galore"]
StrategyName = Literal[
    "medsaga", "medsaga-v1", "medsaga-v2", "samed", "full", "decoder"
]
Intensity = Literal[
    "auto", "percentiles", "soft tissue", "lung", "bone", "brain", "spleen and liver"
]
# As their authors compare them.
ONE_STAGE: tuple[StrategyName, ...] = ("medsaga-v1", "medsaga-v2", "samed")


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings:
    """Everything that a fine-tuning can be told.

    `steps`, `head_views`, `head_steps` and `validations` of 0 are planned from
    `minutes` and recorded in the model card, so that the card's settings repeat the
    training exactly.
    """

    backbone: Annotated[
        str,
        choice(
            "Model",
            "Model to start from: lite_medsam, vit_b, vit_l, vit_h, or a file with "
            "SAM-format weights.",
        ),
    ] = "lite_medsam"
    detail_head: Annotated[
        bool,
        choice("Model", "Add the detail head over the feature pyramid to the logits."),
    ] = True
    strategy: Annotated[
        StrategyName,
        choice(
            "Model",
            "What learns: all of the model, the encoder by GaLore (medsaga); of the "
            "encoder its attention alone (v1); without SAM's decoder (v2); low-rank "
            "updates of attention (samed); all without GaLore (full); all but the "
            "encoder (decoder).",
        ),
    ] = "medsaga"
    stages: Annotated[
        Stages,
        choice(
            "Plan",
            "Stages to run: the quick head stage, the GaLore stage, or both.",
        ),
    ] = "both"
    minutes: Annotated[
        float,
        number(
            0.05,
            10_000,
            0.05,
            "Plan",
            "Minutes that the training may take; a fast computer needs fewer for the "
            "same steps.",
        ),
    ] = 2.0
    steps: Annotated[
        int,
        number(0, 1_000_000, 1, "Plan", "Steps of the GaLore stage; 0: from minutes."),
    ] = 0
    head_views: Annotated[
        int,
        number(
            0,
            100_000,
            1,
            "Plan",
            "Augmented views that the head stage samples pixels from; 0: from minutes.",
        ),
    ] = 0
    head_steps: Annotated[
        int,
        number(
            0,
            100_000,
            1,
            "Plan",
            "Steps of the head's fit on sampled pixels; 0: from minutes.",
        ),
    ] = 0
    refit_head: Annotated[
        bool,
        choice(
            "Plan",
            "After the GaLore stage, fit the detail head anew to what the encoder has "
            "learned; the first fit then takes a third of the views and steps.",
        ),
    ] = True
    batch_size: Annotated[
        int, number(1, 256, 1, "Plan", "Slices in one step of the GaLore stage.")
    ] = 2
    seed: Annotated[
        int, number(0, 2**31 - 1, 1, "Plan", "Seed of everything random.")
    ] = 0
    hold_out_from: Annotated[
        int,
        number(
            2,
            1_000_000,
            1,
            "Plan",
            "From this many annotated slices upwards a fifth does not train, but is "
            "there to measure on.",
        ),
    ] = 30
    validations: Annotated[
        int,
        number(
            0,
            1_000,
            1,
            "Plan",
            "Times that Dice is measured in the course of the GaLore stage; 0: from "
            "minutes.",
        ),
    ] = 0
    long_side: Annotated[
        int,
        number(
            0,
            4096,
            16,
            "Image",
            "Pixels along the longer side that the model works at; 0: from the images.",
        ),
    ] = 0
    max_long_side: Annotated[
        int,
        number(
            32,
            4096,
            16,
            "Image",
            "The largest long side that is chosen from the images; twice as much where "
            "what is painted would be too fine to see, four times as much with SAM's "
            "own backbones.",
        ),
    ] = 128
    tiles: Annotated[
        bool,
        choice(
            "Image",
            "Cut large images into tiles, at a finer size, where what is painted would "
            "be too fine at the usual one; off sees each image as a whole.",
        ),
    ] = True
    intensity: Annotated[
        Intensity,
        choice(
            "Image",
            "Intensities that become black and white: a CT window, robust percentiles, "
            "or whichever fits the images (auto).",
        ),
    ] = "auto"

    neighbours: Annotated[
        bool,
        choice(
            "Image",
            "Show the model the slices below and above a slice too, as its colour "
            "channels. Grey volumes only; best where all are equally far apart, since "
            "the distance is not looked at.",
        ),
    ] = False
    sparse: Annotated[
        bool,
        choice(
            "Annotation",
            "Sparse annotation: a pixel without paint is unknown, and background is "
            "what is painted with background_value. Off: a pixel without paint on an "
            "annotated slice is background.",
        ),
    ] = False
    background_value: Annotated[
        int,
        number(
            1,
            2**31 - 1,
            1,
            "Annotation",
            "Label value that is painted for background in a sparse annotation.",
        ),
    ] = 255

    loss_dice_weight: Annotated[
        float,
        number(
            0, 1, 0.05, "Loss", "Weight of the Dice loss; the rest is cross-entropy."
        ),
    ] = 0.8

    optimizer: Annotated[
        OptimizerName,
        choice(
            "Optimiser",
            "What updates the encoder's matrices: GaLore; Fira, which adds what its "
            "subspace leaves out; or APOLLO-Mini, which keeps least in memory.",
        ),
    ] = "galore"
    encoder_lr: Annotated[
        float,
        number(0, 1, 1e-6, "Optimiser", "Learning rate of the image encoder."),
    ] = 3e-4
    decoder_lr: Annotated[
        float, number(0, 1, 1e-6, "Optimiser", "Learning rate of SAM's mask decoder.")
    ] = 1e-3
    head_lr: Annotated[
        float,
        number(
            0, 1, 1e-6, "Optimiser", "Learning rate of the detail head, GaLore stage."
        ),
    ] = 2e-3
    head_fit_lr: Annotated[
        float,
        number(0, 1, 1e-6, "Optimiser", "Learning rate of the head's fit, head stage."),
    ] = 1e-3
    warmup_steps: Annotated[
        int,
        number(
            0, 100_000, 1, "Optimiser", "Steps in which the learning rates rise from 0."
        ),
    ] = 10
    decay_power: Annotated[
        float,
        number(
            0, 10, 0.05, "Optimiser", "Power of the polynomial decay after the warm-up."
        ),
    ] = 0.9
    beta1: Annotated[
        float, number(0, 0.9999, 0.0001, "Optimiser", "AdamW's first beta.")
    ] = 0.9
    beta2: Annotated[
        float, number(0, 0.99999, 0.00001, "Optimiser", "AdamW's second beta.")
    ] = 0.999
    weight_decay: Annotated[
        float, number(0, 1, 0.0001, "Optimiser", "AdamW's weight decay, on matrices.")
    ] = 0.01
    average_weights: Annotated[
        bool,
        choice(
            "Optimiser",
            "Take the average of the last quarter's weights rather than the last ones.",
        ),
    ] = True
    mend_classes: Annotated[
        bool,
        choice(
            "Optimiser",
            "Fit the output of a class anew that the training has lost from sight.",
        ),
    ] = True

    rank: Annotated[
        int,
        number(
            1,
            4096,
            1,
            "GaLore",
            "Rank of the gradient's subspace; that of apollo-mini is 1 whatever this "
            "is.",
        ),
    ] = 64
    scale: Annotated[
        float,
        number(
            0.001,
            100,
            0.001,
            "GaLore",
            "Factor on the update of what is projected.",
        ),
    ] = 1.0
    refresh_interval: Annotated[
        int,
        number(1, 100_000, 1, "GaLore", "Steps between two refreshes of the subspace."),
    ] = 200
    projection: Annotated[
        Projection,
        choice(
            "GaLore",
            "Side that is projected: the smaller one (std), both (full, equation 1 of "
            "the paper), left or right.",
        ),
    ] = "std"

    rotation: Annotated[
        float,
        number(0, math.pi, 0.01, "Augmentation", "Largest rotation, in radians."),
    ] = 0.3
    zoom: Annotated[
        float, number(0, 0.9, 0.01, "Augmentation", "Largest relative change of size.")
    ] = 0.2
    shift: Annotated[
        float,
        number(0, 0.9, 0.01, "Augmentation", "Largest shift, as a part of the side."),
    ] = 0.1
    contrast: Annotated[
        float,
        number(
            0, 0.9, 0.01, "Augmentation", "Largest relative change of the contrast."
        ),
    ] = 0.3
    noise: Annotated[
        float,
        number(0, 1, 0.005, "Augmentation", "Largest deviation of the Gaussian noise."),
    ] = 0.0
    flips: Annotated[
        bool,
        choice(
            "Augmentation",
            "Mirror slices at random. Only where left and right look alike: a mirrored "
            "liver is on the wrong side.",
        ),
    ] = False
    agreed_slices: Annotated[
        int,
        number(
            0,
            10,
            1,
            "Augmentation",
            "So many slices on either side of painted ones train too, where the model "
            "and the paint that is carried to them agree.",
        ),
    ] = 2
    negatives: Annotated[
        Switch,
        choice(
            "Augmentation",
            "Show half of the views as negatives, so that dark on bright is found as "
            "bright on dark is; auto where both are painted, and not in CT.",
        ),
    ] = "auto"

    precision: Annotated[
        Precision,
        choice("Computer", "Number format; auto measures which is faster here."),
    ] = "auto"
    threads: Annotated[
        int,
        number(
            0,
            1024,
            1,
            "Computer",
            "Threads that compute; 0 takes what this computer has to spare.",
        ),
    ] = 0
    checkpointing: Annotated[
        Switch,
        choice(
            "Computer",
            "Compute each block twice to keep its activations out of memory; auto does "
            "where the memory that is free would not suffice.",
        ),
    ] = "auto"
    lean: Annotated[
        Switch,
        choice(
            "Computer",
            "Give memory back to the system as soon as it is free. On Linux this "
            "saves up to half of it and takes a quarter more time; auto does where "
            "the memory that is free would not suffice.",
        ),
    ] = "auto"
    feature_cache_mb: Annotated[
        int,
        number(
            16,
            1_000_000,
            16,
            "Computer",
            "Memory that the head stage's features may take, in MB; never more than a "
            "quarter of what is free.",
        ),
    ] = 1024

    def __post_init__(self) -> None:
        for setting in describe(type(self)):
            setting.check(getattr(self, setting.name))
        if self.strategy in ONE_STAGE and (self.detail_head or self.stages != "galore"):
            raise MedsagaError(
                f"The strategy {self.strategy} runs without the detail head and in one "
                "stage: switch detail_head off and set stages to galore."
            )
        if self.stages != "galore" and not self.detail_head:
            raise MedsagaError(
                "The head stage fits the detail head: switch detail_head on, or set "
                "stages to galore."
            )
        if self.optimizer == "apollo-mini" and self.projection == "full":
            raise MedsagaError(
                "The optimizer apollo-mini projects one side: set projection to std, "
                "left or right."
            )

    @property
    def subspace_rank(self) -> int:
        """Rank of the subspace that gradients are projected into."""
        return 1 if self.optimizer == "apollo-mini" else self.rank

    @property
    def painted_background(self) -> int | None:
        """Label value that means background; None where it is left unpainted."""
        return self.background_value if self.sparse else None

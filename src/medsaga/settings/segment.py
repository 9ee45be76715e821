"""Settings of a segmentation, each written once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from medsaga.settings.fields import Precision, Switch, choice, describe


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """Everything that a segmentation can be told."""

    smooth: Annotated[
        Switch,
        choice(
            "Mask",
            "Average what the model says of a slice with its neighbours, 1 : 2 : 1; "
            "auto does so where slices side by side resemble each other more than "
            "distant ones, as in a scan.",
        ),
    ] = "auto"
    paint: Annotated[
        bool,
        choice(
            "Mask",
            "Carry the painted slices of the image, where the model knows some, to the "
            "others, and join them with what the model says. A painted slice stays as "
            "it was painted.",
        ),
    ] = True
    three_planes: Annotated[
        bool,
        choice(
            "Mask",
            "Segment a volume along all three axes and average the probabilities. It "
            "takes the time of the slices of all axes, many times as long for a thin "
            "stack, and 2 bytes of memory a voxel and class. Probably worse where "
            "slices are more than twice as thick as a pixel.",
        ),
    ] = False
    largest_component: Annotated[
        bool,
        choice(
            "Mask",
            "Keep only the largest connected part of each class: in 3-D, of a 2-D "
            "image in 2-D. Not for classes of several parts, such as nuclei.",
        ),
    ] = False
    fill_holes: Annotated[
        bool,
        choice(
            "Mask",
            "Fill the background that a class encloses on all sides: in 3-D, of a 2-D "
            "image in 2-D. Other classes inside stay.",
        ),
    ] = False
    probabilities: Annotated[
        bool, choice("Output", "Also give each class's probability.")
    ] = False
    entropy: Annotated[
        bool,
        choice("Output", "Also give the entropy: 0 where sure, 1 where undecided."),
    ] = False
    precision: Annotated[
        Precision,
        choice(
            "Computer",
            "Number format; auto takes fp32 where the model trained in it on such a "
            "device, else whichever is faster here.",
        ),
    ] = "auto"
    lean: Annotated[
        Switch,
        choice(
            "Computer",
            "Give memory back to the system as soon as it is free, which saves some of "
            "it on Linux and takes more time; auto does where the memory that is free "
            "would not suffice.",
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        for setting in describe(type(self)):
            setting.check(getattr(self, setting.name))

"""A backbone of a few small random layers, for tests only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medsaga.network.backbones.base import Backbone, Level, check_size, normalise


class _Tiny(Backbone):
    """Each kind of layer that the real backbones have, at three scales."""

    name = "tiny"
    levels = (Level(16, 1), Level(24, 2), Level(256, 4))
    size_multiple = 4

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.GELU()
        )
        self.stage = nn.Sequential(
            nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16),
            nn.Conv2d(16, 24, 1),
            nn.GELU(),
        )
        self.neck = nn.Sequential(
            nn.Conv2d(24, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 256, 1),
            nn.GroupNorm(1, 256),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        check_size(self, images)
        fine = self.stem(normalise(images, (0.5,) * 3, (0.25,) * 3))
        middle = self.stage(fine)
        return [fine, middle, self.neck(middle)]


def build_tiny(
    name: str = "tiny", seed: int = 0, *, checkpointing: bool = False
) -> Backbone:
    """Build the backbone ``tiny``: the same weights for the same seed, always.

    The global state of torch's random numbers has no influence and is left as it is.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        backbone = _Tiny()
    backbone.name, backbone.checkpointing = name, checkpointing
    for name, parameter in backbone.named_parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, generator=generator)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return backbone

"""How large a Vision Transformer of SAM's kind is. Importing it imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ViTSize:
    """What tells one of SAM's image encoders from another.

    Attributes
    ----------
    width, depth, heads
        Channels of a token, number of blocks, attention heads in each.
    global_blocks
        Indices of the blocks that attend over the whole image.
    window
        Tokens along a side of the windows that the other blocks attend in.
    image_size
        Pixels along a side that the position tables are made for. Images of other
        sizes, rectangular ones too, get interpolated tables.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    window: int = 14
    image_size: int = 1024

"""The interface that every backbone has: an image batch in, a feature pyramid out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Level(NamedTuple):
    """One feature map of a pyramid: its channels, and input pixels per feature."""

    channels: int
    stride: int


class AttentionLayer(NamedTuple):
    """A layer that gives queries, keys and values, and the rows of two of them."""

    layer: nn.Linear
    queries: Tensor
    values: Tensor

    @classmethod
    def of(
        cls, layer: Any, *, n_heads: int, key_width: int | None = None
    ) -> AttentionLayer:
        """Find the rows of a layer with queries, keys and values of each head in turn.

        Parameters
        ----------
        layer
            A linear one, with an output for each of them.
        n_heads
            Heads whose rows stand together.
        key_width
            Rows of a head's queries, and of its keys; None: a third of its rows.
        """
        rows = torch.arange(layer.out_features, device=layer.weight.device)
        of_heads = rows.view(n_heads, -1)
        key = of_heads.shape[1] // 3 if key_width is None else key_width
        return cls(layer, of_heads[:, :key].flatten(), of_heads[:, 2 * key :].flatten())


class Backbone(nn.Module):
    """An image encoder that gives a pyramid of feature maps.

    Subclasses set the class or instance attributes below and implement
    :meth:`forward`.

    Attributes
    ----------
    name
        What the user calls it: ``lite_medsam``, ``vit_b``, ...
    levels
        Channels and stride of each map that `forward` returns, in the same order. The
        last one is SAM's embedding (256 channels), which the mask decoder reads.
    size_multiple
        Height and width of the input must be multiples of it.
    checkpointing
        Compute each block twice to keep its activations out of memory, where the
        backbone can.
    """

    name: str
    levels: tuple[Level, ...]
    size_multiple: int
    checkpointing: bool = False

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of `images`.

        Parameters
        ----------
        images
            (batch, 3, height, width), intensities scaled to [0, 1].

        Returns
        -------
        list of Tensor
            One (batch, channels, height / stride, width / stride) map per level.
        """
        raise NotImplementedError

    def attention_layers(self) -> Iterator[AttentionLayer]:
        """Give the layers that attention gets its queries, keys and values from."""
        return iter(())

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training, but keep every batch norm at its running statistics.

        A few slices are too few to estimate batch statistics from. Only the batch-norm
        modules are kept in eval mode: timm's attention caches its biases in eval mode,
        which would cut them off from the gradient.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    @property
    def embedding(self) -> Level:
        """The last level: SAM's image embedding."""
        return self.levels[-1]


def check_size(backbone: Backbone, images: Tensor) -> None:
    """Raise ValueError if the backbone cannot take images of this size."""
    height, width = images.shape[-2:]
    multiple = backbone.size_multiple
    if height % multiple or width % multiple:
        raise ValueError(
            f"{backbone.name} takes sizes that are multiples of {multiple}, "
            f"not {height} x {width}."
        )


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract the channel means and divide by the channel deviations."""
    means, deviations = (
        torch.tensor(numbers, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        for numbers in (mean, std)
    )
    return (images - means) / deviations

"""Convolutions with a batch norm that keeps its running statistics."""

from __future__ import annotations

import torch
from timm.models.tiny_vit import ConvNorm
from torch import Tensor, nn
from torch.nn import functional as F


class FoldedConvNorm(nn.Module):
    """A convolution that its batch norm is part of, in training too.

    With statistics that never change (see :meth:`Backbone.train`) the norm is a scale
    and a shift of the convolution's weights. Computed so, it costs neither a pass over
    the activations nor a copy of them for the gradient, which flows to all the
    parameters as before.

    Parameters
    ----------
    plain
        What it stands for; its parameters are taken over, not copied.
    """

    def __init__(self, plain: ConvNorm) -> None:
        super().__init__()
        self.conv, self.bn = plain.conv, plain.bn

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised convolution of (batch, channels, height, width)."""
        conv, norm = self.conv, self.bn
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return F.conv2d(
            images,
            conv.weight * scale[:, None, None, None],
            norm.bias - norm.running_mean * scale,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
        )


def fold_batch_norms(module: nn.Module) -> None:
    """Put a :class:`FoldedConvNorm` in the place of every `ConvNorm` of a module."""
    for name, child in module.named_children():
        if isinstance(child, ConvNorm):
            setattr(module, name, FoldedConvNorm(child))
        else:
            fold_batch_norms(child)

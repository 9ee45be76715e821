"""SAM's mask decoder with its default prompt, and one mask per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medsaga.errors import MedsagaError
from medsaga.network.filling import fill

if TYPE_CHECKING:
    from collections.abc import Mapping

_N_PRETRAINED_TOKENS = 4
_JITTER = 0.1


class ClassMaskDecoder(nn.Module):
    """SAM's prompt encoder and mask decoder, one mask token and one mask per class.

    No prompt is given: the image embedding is joined by SAM's learned "no mask"
    embedding, and the tokens are the class tokens alone (MedSAGa, arXiv 2407.15042,
    eq. 3). The token for mask quality stays among them, since the pretrained
    transformer expects it; the head that reads it is left out.

    Parameters
    ----------
    n_classes
        Number of masks k, background included.
    channels
        Channels of the image embedding.
    """

    def __init__(self, n_classes: int, channels: int = 256) -> None:
        # Its package imports torchvision and torch's compiler: as much as half of torch
        # again, which what needs no network does not wait for.
        from segment_anything.modeling import MaskDecoder, TwoWayTransformer
        from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom

        super().__init__()
        sam = MaskDecoder(
            num_multimask_outputs=n_classes - 1,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=channels, mlp_dim=2048, num_heads=8
            ),
            transformer_dim=channels,
        )
        self.transformer = sam.transformer
        self.iou_token = sam.iou_token
        self.mask_tokens = sam.mask_tokens
        self.output_upscaling = sam.output_upscaling
        self.output_hypernetworks_mlps = sam.output_hypernetworks_mlps
        self.no_mask_embed = nn.Embedding(1, channels)
        self.pe_layer = PositionEmbeddingRandom(channels // 2)
        self.n_classes = n_classes

    @property
    def feature_channels(self) -> int:
        """Channels of the upscaled features that each class's mask is read from."""
        last = self.output_upscaling[3]
        assert isinstance(last, nn.ConvTranspose2d)
        return last.out_channels

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the class logits.

        Parameters
        ----------
        embedding
            (batch, channels, h, w), a backbone's last level.

        Returns
        -------
        Tensor
            (batch, k, 4 h, 4 w).
        """
        tokens, features = self.decode(embedding)
        weights = torch.stack(
            [mlp(tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)],
            dim=1,
        )  # (B, k, C)
        return torch.einsum("bkc,bchw->bkhw", weights, features)

    def decode(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class tokens (B, k, channels) and the upscaled features.

        The features are (B, feature_channels, 4 h, 4 w).
        """
        batch, channels, height, width = embedding.shape
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = tokens.expand(batch, -1, -1)
        prompt = self.no_mask_embed.weight.view(1, channels, 1, 1)
        position = self.pe_layer((height, width)).expand(batch, -1, -1, -1)
        tokens, image = self.transformer(embedding + prompt, position, tokens)
        image = image.transpose(1, 2).reshape(batch, channels, height, width)
        return tokens[:, 1:], self.output_upscaling(image)

    def load_sam(self, sam: Mapping[str, Tensor], seed: int) -> None:
        """Start from a SAM checkpoint's `prompt_encoder` and `mask_decoder` tensors.

        Where it can be, the tensors become the decoder's own, and are not copied.
        Class i takes over pretrained token and hyper-network i modulo 4; small noise
        makes the classes that share one differ, or they would learn the same mask.

        Raises
        ------
        MedsagaError
            If a tensor is missing or of another shape.
        """
        generator = torch.Generator().manual_seed(seed)

        def jittered(tensor: Tensor) -> Tensor:
            noise = torch.randn(tensor.shape, generator=generator)
            return tensor + _JITTER * tensor.std() * noise

        state: dict[str, Tensor] = {}
        for name, own in self.state_dict().items():
            if name == "mask_tokens.weight":
                shape = torch.Size((_N_PRETRAINED_TOKENS, own.shape[1]))
                tokens = _plain(sam, f"mask_decoder.{name}", shape)
                state[name] = jittered(
                    tokens[torch.arange(self.n_classes) % len(tokens)]
                )
            elif name.startswith("output_hypernetworks_mlps."):
                mlps, index, rest = name.split(".", 2)
                shared = int(index) % _N_PRETRAINED_TOKENS
                source = f"mask_decoder.{mlps}.{shared}.{rest}"
                tensor = _plain(sam, source, own.shape)
                state[name] = jittered(tensor) if tensor.ndim > 1 else tensor
            else:
                source = _SOURCES.get(name, f"mask_decoder.{name}")
                state[name] = _plain(sam, source, own.shape)
        fill(self, state)

    def start_from_linear_map(self, weights: Tensor) -> None:
        """Make class i's mask the inner product of `weights[i]` with the features.

        Parameters
        ----------
        weights
            (k, feature_channels). Each hyper-network's last layer gets zero weights
            and this row as its bias, so that the masks mean something from the first
            step of the training and depend on the tokens only as it learns.
        """
        for index, row in enumerate(weights):
            self.set_linear_map(index, row)

    @torch.no_grad()
    def set_linear_map(self, index: int, row: Tensor) -> None:
        """Make the mask of class `index` the inner product of `row` and the features.

        `row` has `feature_channels` numbers.
        """
        last = self.output_hypernetworks_mlps[index].layers[-1]
        last.weight.zero_()
        last.bias.copy_(row)


def _plain(sam: Mapping[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    """Give a tensor of a checkpoint in its shape here, of which it has the numbers."""
    tensor = sam.get(name)
    if (
        tensor is None
        or not tensor.is_floating_point()
        or tensor.numel() != shape.numel()
    ):
        raise MedsagaError(
            f"{name} is missing in the weights, or not of the shape {tuple(shape)}: "
            "pass a file with the weights of a whole Segment Anything model."
        )
    return tensor.reshape(shape)


_SOURCES = {
    "no_mask_embed.weight": "prompt_encoder.no_mask_embed.weight",
    "pe_layer.positional_encoding_gaussian_matrix": (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    ),
}

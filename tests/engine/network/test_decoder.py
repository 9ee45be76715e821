from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from medsaga.network.backbones.catalogue import find_checkpoint
from medsaga.network.backbones.sam_format import read_checkpoint
from medsaga.network.decoder import ClassMaskDecoder


@pytest.fixture(scope="module")
def sam():
    state = read_checkpoint(find_checkpoint("lite_medsam"))
    return {n: t for n, t in state.items() if not n.startswith("image_encoder.")}


@pytest.fixture
def embedding():
    return torch.randn(2, 256, 8, 6, generator=torch.Generator().manual_seed(0))


def _stock(sam, size):
    """segment_anything's own decoder and default prompt, loaded from a checkpoint."""
    prompt = PromptEncoder(256, size, (4 * size[0], 4 * size[1]), 16)
    decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(
            depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8
        ),
        transformer_dim=256,
    )
    for module, name in ((prompt, "prompt_encoder."), (decoder, "mask_decoder.")):
        own = {k.removeprefix(name): t for k, t in sam.items() if k.startswith(name)}
        module.load_state_dict(own)
    return prompt, decoder


def test_with_sams_own_tokens_it_is_sams_decoder(sam, embedding):
    prompt, stock = _stock(sam, (8, 6))
    ours = ClassMaskDecoder(4)
    ours.load_sam(sam, seed=0)
    ours.mask_tokens.load_state_dict(stock.mask_tokens.state_dict())
    ours.output_hypernetworks_mlps.load_state_dict(
        stock.output_hypernetworks_mlps.state_dict()
    )
    with torch.no_grad():
        sparse, dense = prompt(points=None, boxes=None, masks=None)
        expected = [
            stock.predict_masks(one[None], prompt.get_dense_pe(), sparse, dense)[0]
            for one in embedding
        ]
        torch.testing.assert_close(
            ours(embedding), torch.cat(expected), atol=1e-4, rtol=1e-4
        )


def test_classes_start_from_the_pretrained_tokens_but_differ(sam):
    decoder = ClassMaskDecoder(9)
    decoder.load_sam(sam, seed=0)
    tokens = decoder.mask_tokens.weight
    pretrained = sam["mask_decoder.mask_tokens.weight"]
    for i, token in enumerate(tokens):
        distances = (pretrained - token).norm(dim=1)
        assert distances.argmin() == i % 4
    assert torch.pdist(tokens).min() > 0
    first, fifth = (decoder.output_hypernetworks_mlps[i] for i in (0, 4))
    assert not torch.equal(first.layers[0].weight, fifth.layers[0].weight)


def test_starts_from_a_linear_map_of_its_own_features(sam, embedding):
    decoder = ClassMaskDecoder(3)
    decoder.load_sam(sam, seed=0)
    weights = torch.randn(3, decoder.feature_channels)
    decoder.start_from_linear_map(weights)
    with torch.no_grad():
        _, features = decoder.decode(embedding)
        expected = torch.einsum("kc,bchw->bkhw", weights, features)
        torch.testing.assert_close(decoder(embedding), expected)
    assert decoder(embedding).shape == (2, 3, 32, 24)


def test_an_image_does_not_change_with_its_neighbours_in_the_batch(sam, embedding):
    decoder = ClassMaskDecoder(3)
    decoder.load_sam(sam, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(
            decoder(embedding)[1:], decoder(embedding[1:]), atol=1e-4, rtol=1e-4
        )

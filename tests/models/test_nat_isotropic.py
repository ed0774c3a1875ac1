"""What is particular to the isotropic networks."""

import pytest
import torch

from budget import assert_definition
from golden import weights
from regard.attention import softmax_attention
from regard.models import create_model

from .networks import build_on_meta, draw, in_double


@pytest.mark.parametrize(("name", "dilations"), [("nat", [1] * 12), ("dinat", [1, 2] * 6)])
def test_every_second_block_is_dilated(name, dilations):
    blocks = build_on_meta(f"{name}_isotropic_small").layers
    assert [block.attn.dilation for block in blocks] == [(dilation, dilation) for dilation in dilations]


def test_vitrpb_attends_to_all():
    """With a window as large as the grid, a block is plain attention with the relative bias gathered."""
    model = draw(create_model("vitrpb_small", embed_dim=32, depth=1, num_heads=2, kernel_size=4, img_size=64), seed=3)
    model = in_double(model)
    attention = model.layers[0].attn
    x = weights.image([1, 4, 4, 32], seed=4).double()
    with torch.no_grad():
        query, key, value = attention.qkv(x).unflatten(-1, (3, 2, 16)).unbind(-3)
        index = model.namings[0].extras(model)["layers.0.attn.relative_position_index"]
        bias = attention.rpb.flatten(1)[:, index]  # [nh, N, N]
        expected = attention.proj(softmax_attention(query, key, value, bias=bias, backend="reference").flatten(-2))
        assert_definition(attention, x, exact=expected)


def test_only_the_networks_without_neighborhoods_hold_indices():
    assert len(build_on_meta("vitrpb_small").namings[0].extras(build_on_meta("vitrpb_small"))) == 12
    assert not build_on_meta("nat_isotropic_small").namings[0].extras(build_on_meta("nat_isotropic_small"))
    index = build_on_meta("vitrpb_small").namings[0].extras(create_model("vitrpb_small", depth=1, embed_dim=12))
    assert index["layers.0.attn.relative_position_index"].shape == (196, 196)

"""What is particular to the isotropic networks."""

import pytest
import torch

from regard.attention import softmax_attention
from regard.models import create_model

from .exchange import draw


def on_meta(name, **options):
    with torch.device("meta"):
        return create_model(name, **options)


@pytest.mark.parametrize(("name", "dilations"), [("nat", [1] * 12), ("dinat", [1, 2] * 6)])
def test_every_second_block_is_dilated(name, dilations):
    blocks = on_meta(f"{name}_isotropic_small").layers
    assert [block.attn.dilation for block in blocks] == [(dilation, dilation) for dilation in dilations]


def test_vitrpb_attends_to_all():
    """With a window as large as the grid, a block is plain attention with the relative bias gathered."""
    model = draw(create_model("vitrpb_small", embed_dim=32, depth=1, num_heads=2, kernel_size=4, img_size=64), seed=3)
    attention = model.layers[0].attn
    x = torch.randn(1, 4, 4, 32)
    query, key, value = attention.qkv(x).unflatten(-1, (3, 2, 16)).unbind(-3)
    index = model.namings[0].extras(model)["layers.0.attn.relative_position_index"]
    bias = attention.rpb.flatten(1)[:, index]  # [nh, N, N]
    expected = attention.proj(softmax_attention(query, key, value, bias=bias).flatten(-2))
    torch.testing.assert_close(attention(x), expected)


def test_only_the_networks_without_neighborhoods_hold_indices():
    assert len(on_meta("vitrpb_small").namings[0].extras(on_meta("vitrpb_small"))) == 12
    assert not on_meta("nat_isotropic_small").namings[0].extras(on_meta("nat_isotropic_small"))
    index = on_meta("vitrpb_small").namings[0].extras(create_model("vitrpb_small", depth=1, embed_dim=12))
    assert index["layers.0.attn.relative_position_index"].shape == (196, 196)

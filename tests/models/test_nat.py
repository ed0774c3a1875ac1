"""What is particular to NAT and DiNAT."""

import pytest
import torch

from regard.checkpoint import export_state
from regard.errors import OptionError, ShapeError
from regard.models import create_model

from .networks import build_on_meta


@pytest.mark.parametrize(
    ("name", "dilations"),
    [("nat_mini", (1, 1, 1, 1)), ("dinat_mini", (8, 4, 2, 1)), ("dinat_large_384", (13, 6, 3, 1))],
)
def test_every_second_block_is_dilated(name, dilations):
    model = build_on_meta(name)
    for level, dilation in zip(model.levels, dilations, strict=True):
        found = [block.attn.dilation for block in level.blocks]
        assert found == [(dilation, dilation) if index % 2 else (1, 1) for index in range(len(found))]


@pytest.mark.parametrize(
    ("name", "scaled"), [("nat_tiny", False), ("nat_small", True), ("dinat_small", False), ("dinat_base", True)]
)
def test_layer_scale(name, scaled):
    assert ("levels.0.blocks.0.ls1.gamma" in build_on_meta(name).state_dict()) == scaled


def test_drop_path_rises_over_all_blocks():
    rates = [block.drop_path.rate for level in build_on_meta("nat_mini").levels for block in level.blocks]
    assert rates == pytest.approx([0.2 * block / 17 for block in range(18)])


def test_relative_bias_is_not_decayed():
    model = build_on_meta("nat_mini")
    assert len(model.no_weight_decay()) == 18
    assert all(name.endswith(".attn.rpb") for name in model.no_weight_decay())


def test_small_grids():
    """8 pixels end in a grid of 2, smaller than the window of 3."""
    x = torch.randn(1, 3, 8, 8)
    assert create_model("nat_nano", num_classes=10)(x).shape == (1, 10)
    with pytest.raises(ShapeError, match="small_grid"):
        create_model("nat_nano", num_classes=10, small_grid="error")(x)


def test_heads_must_divide_channels():
    with pytest.raises(ShapeError, match="multiple of num_heads"):
        create_model("nat_nano", num_heads=(3, 4, 8))


@pytest.mark.parametrize("value", [32.0, True, "x", None], ids=str)
@pytest.mark.parametrize("field", ["embed_dim", "kernel_size"])
def test_fields_that_are_not_whole_numbers(field, value):
    with pytest.raises(OptionError, match=f"{field} must be a whole number, got {value!r}"):
        create_model("nat_nano", **{field: value})


def test_sizes_out_of_range():
    for field, value in (("embed_dim", -32), ("embed_dim", 1), ("kernel_size", 0)):
        with pytest.raises(ShapeError, match=f"{field} must .*at least"):
            create_model("nat_nano", **{field: value})


def test_unknown_word_for_small_grids():
    with pytest.raises(OptionError, match="unknown small_grid 'pda'; did you mean 'pad'"):
        create_model("nat_nano", small_grid="pda")


def test_upstream_names():
    """Names, the order of query, key and value, and the rows of the layer scales, as in the upstream code."""
    model = create_model("nat_small", depths=(1, 1), num_heads=(3, 6), dilations=(1, 1))
    official, hf = export_state(model, "official"), export_state(model, "hf")
    assert {
        "levels.0.downsample.reduction.weight",
        "levels.1.blocks.0.gamma1",
        "levels.1.blocks.0.gamma2",
        "levels.0.blocks.0.attn.rpb",
    } <= set(official)
    layer = "nat.encoder.levels.1.layers.0."
    block = model.levels[1].blocks[0]
    query, key, value = block.attn.qkv.weight.chunk(3)
    expected = {
        "nat.embeddings.patch_embeddings.projection.1.bias": model.patch_embed.proj[1].bias,
        "nat.embeddings.norm.weight": model.patch_embed.norm.weight,
        "nat.encoder.levels.0.downsample.norm.weight": model.levels[1].downsample.norm.weight,
        layer + "layernorm_before.weight": block.norm1.weight,
        layer + "layernorm_after.weight": block.norm2.weight,
        layer + "attention.self.query.weight": query,
        layer + "attention.self.key.weight": key,
        layer + "attention.self.value.weight": value,
        layer + "attention.self.rpb": block.attn.rpb,
        layer + "attention.output.dense.weight": block.attn.proj.weight,
        layer + "intermediate.dense.weight": block.mlp.fc1.weight,
        layer + "output.dense.weight": block.mlp.fc2.weight,
        layer + "layer_scale_parameters": torch.stack([block.ls1.gamma, block.ls2.gamma]),
        "nat.layernorm.weight": model.norm.weight,
        "classifier.weight": model.head.weight,
    }
    for name, tensor in expected.items():
        assert torch.equal(hf[name], tensor), name
    assert len(hf) == len(model.state_dict()) + 2 * (4 - 1)  # in two blocks: q, k, v apart, layer scales together

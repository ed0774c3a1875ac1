"""The claims of docs/guides/variants.md, by running everybody's code."""

import pytest
import timm
import torch
from timm.models.mobilevit import LinearSelfAttention
from timm.models.swiftformer import EfficientAdditiveAttention as TimmAdditive
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention

from regard import (
    EfficientAdditiveAttention,
    create_model,
    neighborhood_attention,
    neighborhood_bias_index,
    neighborhood_keys,
    talking_heads_weights,
    window_bias_index,
    window_weights,
)
from regard.explain import reversed_index


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pooled_by(norm):
    """Return SwiftFormer's attention of one version as a function of an image `[B, C, H, W]`, and its weights."""
    module = EfficientAdditiveAttention(8, 8, token_norm=norm).double().eval()
    return module, lambda x: module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("norm", "agrees"), [("l2", True), ("ones", False), ("softmax", False)])
def test_swiftformer_in_timm_is_the_l2_version(norm, agrees):
    ours, run = pooled_by(norm)
    theirs = TimmAdditive(8, 8).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    assert torch.allclose(run(x), theirs(x)) == agrees


@pytest.mark.parametrize(("norm", "agrees"), [("l2", False), ("ones", True), ("softmax", False)])
def test_swiftformer_in_transformers_is_the_first_release(norm, agrees):
    from transformers import SwiftFormerConfig
    from transformers.models.swiftformer.modeling_swiftformer import SwiftFormerEfficientAdditiveAttention as Theirs

    ours, _ = pooled_by(norm)
    theirs = Theirs(SwiftFormerConfig(), dim=8).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 20, 8, dtype=torch.float64)
    assert torch.allclose(ours(x), theirs(x)) == agrees


def test_swiftformers_heads_are_no_heads():
    """Twice the heads are twice the channels under one norm, with one weight per token."""
    module = EfficientAdditiveAttention(8, 8, num_heads=2)
    assert module.to_query.out_features == 16
    assert module.attention_weights(torch.randn(1, 3, 3, 8)).shape == (1, 3, 3)


def test_cross_attention_in_timm_has_no_values():
    """It takes one row of the weight for all values, which PyTorch cannot even multiply."""
    module = LinearSelfAttention(8)
    x = torch.randn(1, 8, 4, 6)
    with pytest.raises(RuntimeError):
        module(x, x_prev=x)


def test_odd_grids_are_enlarged():
    """With 9 x 9 tokens, the last row matters: nothing is dropped."""
    model = create_model("mobilevitv2_050", num_classes=3).eval()
    images = torch.randn(1, 3, 72, 72)
    changed = images.clone()
    changed[:, :, -4:] += 3.0
    with torch.no_grad():
        assert not torch.allclose(model(images), model(changed))


def test_nats_index_is_key_minus_query_and_the_copied_one_is_wrong_at_borders_only():
    right, copied = neighborhood_bias_index(3, (6, 6)), reversed_index(3, (6, 6))
    keys = neighborhood_keys(3, (6, 6))
    for row in range(6):
        for column in range(6):
            for neighbor, key in enumerate(keys[row, column]):
                down, across = divmod(int(key), 6)
                assert right[row, column, neighbor] == (down - row + 2) * 5 + across - column + 2
    differs = (right != copied).any(-1)
    interior = torch.zeros(6, 6, dtype=torch.bool)
    interior[1:-1, 1:-1] = True
    assert torch.equal(differs, ~interior)


def test_swins_index_is_query_minus_key():
    theirs = WindowAttention(8, 2, window_size=(3, 3)).relative_position_index
    assert torch.equal(window_bias_index((3, 3)).T, theirs)


def test_every_query_of_nat_has_as_many_keys():
    keys = neighborhood_keys(5, (7, 9))
    assert all(len(set(row.tolist())) == 25 for row in keys.flatten(0, 1))
    value = torch.ones(1, 7, 9, 1, 4)
    query = torch.randn(1, 7, 9, 1, 4)
    torch.testing.assert_close(neighborhood_attention(query, query, value, 5), value)  # weights sum to 1 at borders


def test_swin_hides_by_minus_100_and_we_by_infinity():
    theirs = SwinTransformerBlock(8, (8, 8), num_heads=1, window_size=4, shift_size=2)
    assert set(theirs.attn_mask.unique().tolist()) == {-100.0, 0.0}
    query = torch.randn(1, 8, 8, 1, 8)
    weights = window_weights(query, query, 4, shift_size=2)
    assert float(weights.min()) == 0
    logits = torch.tensor([0.0, -100.0])
    assert float(logits.softmax(0)[1]) < 1e-38 / torch.finfo(torch.float32).eps  # nothing next to float32's rounding


@pytest.mark.parametrize("multiple", [True, False])
def test_timm_shifts_before_it_pads(multiple):
    """On a grid that windows fill, both orders agree; on another, they differ."""
    side = 64 if multiple else 52  # 16 or 13 tokens, windows of 4
    config = {"img_size": 64, "patch_size": 4, "embed_dim": 16, "depths": (2,), "num_heads": (2,), "window_size": 4}
    theirs = timm.create_model("swin_tiny_patch4_window7_224", **{**config, "strict_img_size": False}).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that attention matters
    ours = create_model("swin_tiny_patch4_window7_224", weights=theirs.state_dict(), **config).eval()
    images = torch.randn(1, 3, side, side)
    theirs.set_input_size((side, side), window_size=(4, 4))
    with torch.no_grad():
        difference = (ours(images) - theirs(images)).abs().max() / theirs(images).abs().max()
    assert bool(difference < 1e-4) == multiple


def test_a_bias_of_the_first_mix_cancels():
    query, key = torch.randn(2, 1, 6, 3, 4, dtype=torch.float64).unbind()
    mixes = torch.randn(2, 3, 3, dtype=torch.float64).unbind()
    without = talking_heads_weights(query, key, *mixes)
    shifted = talking_heads_weights(query, key, *mixes, logits_bias=torch.randn(3, dtype=torch.float64))
    torch.testing.assert_close(without, shifted)


def test_caits_class_token_has_no_position():
    model = create_model("cait_xxs24_224", num_classes=0)
    assert model.pos_embed.shape[1] == 14 * 14


def test_all_lines_of_the_page_are_known():
    """A new line of the page needs a test here, or its source there."""
    from pathlib import Path

    page = (Path(__file__).parents[1] / "docs/guides/variants.md").read_text()
    assert page.count("\n| ") - 1 == 11

"""Properties of separable attention, and parity with timm's module in both layouts of patches."""

import pytest
import torch
from timm.models.mobilevit import LinearSelfAttention
from torch.nn.functional import fold, unfold

from budget import assert_definition
from drawing import draw
from regard.attention import SeparableAttention, separable_attention, separable_weights
from regard.errors import ShapeError

EPS = torch.finfo(torch.float64).eps


def inputs(*grid, channels=6):
    return {
        "query": draw(2, *grid, 1),
        "key": draw(2, *grid, channels, seed=1),
        "value": draw(2, *grid, channels, seed=2),
    }


def pair(dim, **options):
    """Return timm's module and ours with the same parameters; a strict load flattens the 1x1 kernels."""
    upstream, ours = LinearSelfAttention(dim).double(), SeparableAttention(dim, **options).double()
    ours.load_state_dict(upstream.state_dict())
    return upstream, ours


def test_timm_on_unfolded_patches():
    upstream, ours = pair(8, patch_size=(4, 1))
    x = draw(2, 4, 9, 8)  # [B, P, N, C]
    assert_definition(ours, x, exact=upstream(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_timm_on_an_image():
    """Ours takes the image; timm's takes 2x2 patches, `[B, C, P, N]`, so the image is unfolded and folded back."""
    upstream, ours = pair(8, patch_size=2)
    x = draw(2, 6, 10, 8)
    patches = unfold(x.permute(0, 3, 1, 2), 2, stride=2).unflatten(1, (8, 4))
    image = fold(upstream(patches).flatten(1, 2), (6, 10), 2, stride=2)
    assert_definition(ours, x, exact=image.permute(0, 2, 3, 1))


def test_patch_size_1_mixes_the_positions_of_unfolded_patches():
    upstream, ours = pair(8, patch_size=1)
    x = draw(2, 4, 9, 8)
    exact = upstream(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert (ours(x) - exact).abs().max() > 0.01 * exact.abs().max()


def test_cross_attention_with_itself_is_self_attention():
    module, x = SeparableAttention(8, patch_size=2).double(), draw(2, 4, 6, 8)
    assert_definition(module, x, x, exact=module(x))


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_cross_attention(qkv_bias):
    """Scores and keys are projections of `x_prev`, values of `x`."""
    module = SeparableAttention(8, qkv_bias=qkv_bias).double()
    x, x_prev = draw(2, 3, 4, 8), draw(2, 7, 5, 8, seed=1)
    query, key, _ = module.qkv_proj(x_prev).split([1, 8, 8], -1)
    value = module.qkv_proj(x)[..., 9:]
    context = torch.einsum("bxyo,bxyc->boc", query.flatten(1).softmax(1).reshape(query.shape), key)
    exact = module.out_proj(value.relu() * context.unsqueeze(1))
    assert_definition(module, x, x_prev, exact=exact)


@pytest.mark.parametrize("patch_size", [1, 2, (4, 1), (2, 3), (4, 6)], ids=str)
def test_weights_sum_to_1_for_every_position_of_a_patch(patch_size):
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    weights = separable_weights(draw(2, 4, 6, 1), patch_size=patch_size)
    assert weights.shape == (2, 4, 6)
    for row in range(height):
        for column in range(width):
            group = weights[:, row::height, column::width]
            assert (group.sum((1, 2)) - 1).abs().max() <= group[0].numel() * EPS


def test_one_token_per_group():
    """With one token per position of a patch, nothing is pooled."""
    for grid, patch_size in (((1, 1), 1), ((4, 6), (4, 6)), ((5,), 5)):
        tensors = inputs(*grid)
        out = separable_attention(**tensors, patch_size=patch_size)
        assert torch.equal(out, tensors["value"].relu() * tensors["key"])


def test_permuted_patches_permute_the_output():
    tensors = inputs(3, 11)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(5))
    permuted = {name: tensor[:, :, order] for name, tensor in tensors.items()}
    exact = separable_attention(**tensors, patch_size=(3, 1))[:, :, order]
    assert_definition(separable_attention, **permuted, patch_size=(3, 1), exact=exact)


def test_equal_scores_pool_the_mean():
    tensors = {**inputs(4, 6), "query": torch.full((2, 4, 6, 1), 0.5, dtype=torch.float64)}
    exact = tensors["value"].relu() * tensors["key"].mean((1, 2), keepdim=True)
    assert_definition(separable_attention, **tensors, exact=exact)


def test_positions_of_a_patch_do_not_mix():
    key = draw(1, 4, 6, 3).requires_grad_()
    out = separable_attention(draw(1, 4, 6, 1), key, torch.ones(1, 4, 6, 3, dtype=torch.float64), patch_size=(2, 3))
    (gradient,) = torch.autograd.grad(out[0, 3, 1].sum(), key)
    seen = torch.zeros(4, 6, dtype=torch.bool)
    seen[1::2, 1::3] = True
    assert torch.equal(gradient[0].ne(0).all(-1), seen)


def test_dropout():
    tensors = {**inputs(40, 50, channels=1), "query": torch.zeros(2, 40, 50, 1, dtype=torch.float64)}
    tensors["key"] = tensors["value"] = torch.ones(2, 40, 50, 1, dtype=torch.float64)
    torch.manual_seed(0)
    kept = separable_attention(**tensors, dropout_p=0.25)[:, 0, 0, 0] * 0.75  # the share of weights that are kept
    deviation = (0.25 * 0.75 / 2000) ** 0.5
    assert ((kept - 0.75).abs() <= 6 * deviation).all() and (kept != 0.75).any()
    module = SeparableAttention(4, attn_drop=0.5)
    x = torch.randn(1, 8, 4)
    assert not torch.equal(module(x), module(x))
    assert torch.equal(module.eval()(x), module(x))


@pytest.mark.parametrize("cross", [False, True])
def test_every_parameter_has_a_gradient(cross):
    module = SeparableAttention(8, patch_size=2).double()
    x = draw(2, 4, 6, 8)
    module(x, draw(2, 2, 4, 8, seed=1) if cross else None).square().sum().backward()
    for name, parameter in module.named_parameters():
        rows = parameter.grad.flatten(1) if parameter.ndim > 1 else parameter.grad[:, None]
        used = rows.abs().amax(1) > 0
        assert used.all() or (name == "qkv_proj.bias" and used[1:].all()), name  # the softmax cancels the score's bias


def test_autocast():
    module = SeparableAttention(8)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(torch.randn(1, 5, 8), torch.randn(1, 3, 8)).dtype == torch.bfloat16


def test_loading():
    module = SeparableAttention(8)
    flat = module.state_dict()
    kernels = {name: tensor[..., None, None] if tensor.ndim == 2 else tensor for name, tensor in flat.items()}
    torch.nn.Sequential(torch.nn.Identity(), SeparableAttention(8)).load_state_dict(
        {f"1.{name}": tensor for name, tensor in kernels.items()}
    )
    SeparableAttention(8).load_state_dict(flat)
    wide = {**kernels, "out_proj.weight": torch.zeros(8, 8, 3, 3)}
    with pytest.raises(RuntimeError, match=r"size mismatch for out_proj.weight.*\[8, 8, 3, 3\]"):
        module.load_state_dict(wide)


def test_wrong_sizes():
    tensors = inputs(4, 6)
    with pytest.raises(ShapeError, match=r"must divide the grid of key \(4, 6\), got \(2, 4\); resize"):
        separable_attention(**tensors, patch_size=(2, 4))
    with pytest.raises(ShapeError, match=r"must divide the grid of value \(4, 7\), got 2"):
        separable_attention(**{**tensors, "value": draw(2, 4, 7, 6)}, patch_size=2)
    with pytest.raises(ShapeError, match=r"value must have key's .* expected \[2, any, any, 6\], got \[2, 4, 6, 7\]"):
        separable_attention(**{**tensors, "value": draw(2, 4, 6, 7)})
    with pytest.raises(ShapeError, match=r"patch_size must be one value or one per grid axis \(2\)"):
        separable_attention(**tensors, patch_size=(2, 2, 2))
    with pytest.raises(ShapeError, match=r"dropout_p must be in \[0, 1\), got 1"):
        separable_attention(**tensors, dropout_p=1.0)
    with pytest.raises(ShapeError, match="dim must be at least 1, got 0"):
        SeparableAttention(0)

"""The vision windows of transformers' Qwen2.5-VL."""

import copy

import pytest
import torch
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from budget import assert_within_budget, truth
from regard.attention import set_backend
from regard.errors import UnsupportedError
from regard.surgery import fuse
from tests.surgery.models import DRAWS, animate

GRIDS = {
    "whole windows": [[1, 8, 8]],
    "cut at the right": [[1, 4, 6]],
    "cut at both sides": [[1, 6, 10]],
    "two images and a video": [[1, 4, 4], [1, 6, 6], [2, 4, 6]],
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(
        depth=3,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        patch_size=2,
        temporal_patch_size=1,
        window_size=8,
        fullatt_block_indexes=[2],
        out_hidden_size=12,
    )
    return animate(Qwen2_5_VisionTransformerPretrainedModel._from_config(config, attn_implementation="sdpa")).eval()


def batch(grid):
    patches = sum(frames * height * width for frames, height, width in grid)
    pixels = torch.randn(patches, 3 * 2 * 2, generator=torch.Generator().manual_seed(0))
    return pixels, torch.tensor(grid)


def outputs(model):
    return lambda pixels, grid: model(pixels, grid_thw=grid).pooler_output


@pytest.mark.parametrize("name", GRIDS)
def test_outputs(model, name):
    pixels, grid = batch(GRIDS[name])
    fused = fuse(model, example={"hidden_states": pixels, "grid_thw": grid})
    report = fused.fuse_report
    assert [one.module for one in report.replaced] == ["Qwen2_5_VLVisionAttention"] * 3
    assert not report.left
    assert 0 <= report.difference <= report.tolerance
    expected = truth(outputs(copy.deepcopy(model).double()), pixels, grid, draws=DRAWS)
    for backend in ("fused", "reference"):
        set_backend(fused, backend)
        with torch.no_grad():
            assert_within_budget(outputs(fused)(pixels, grid), expected)


def gradients(model):
    def compute(pixels, grid):
        pixels = pixels.detach().requires_grad_()
        loss = outputs(model)(pixels, grid).square().sum()
        return torch.autograd.grad(loss, [pixels, *model.parameters()])

    return compute


def test_gradients(model):
    pixels, grid = batch(GRIDS["two images and a video"])
    expected = truth(gradients(copy.deepcopy(model).double()), pixels, grid, draws=DRAWS)
    assert_within_budget(gradients(fuse(model, check=False))(pixels, grid), expected)


def test_one_call_for_all_windows_of_a_length(model, monkeypatch):
    """Windows of 4 x 4 patches on 6 x 10: two inside, one at the right, two at the bottom, one in the corner."""
    from regard.surgery.for_transformers import qwen

    calls = []
    attend = qwen.softmax_attention
    monkeypatch.setattr(
        qwen, "softmax_attention", lambda q, *args, **kw: calls.append(q.shape[:2]) or attend(q, *args, **kw)
    )
    pixels, grid = batch([[1, 6, 10]])
    with torch.no_grad():
        outputs(fuse(model, check=False))(pixels, grid)
    assert [tuple(one) for one in calls] == [(1, 4), (3, 8), (2, 16)] * 2 + [(1, 60)]


def test_attention_maps_run_upstream(model):
    fused = fuse(model, check=False)
    eager = copy.deepcopy(model)
    for one in (fused, eager):
        one.set_attn_implementation("eager")
    pixels, grid = batch(GRIDS["cut at the right"])
    assert torch.equal(outputs(fused)(pixels, grid), outputs(eager)(pixels, grid))
    set_backend(fused, "fused")
    with pytest.raises(UnsupportedError, match="must return the attention weights"):
        outputs(fused)(pixels, grid)

"""Windows of volumes, in the shapes of MONAI's SwinUNETR: cubes of 7 tokens, 3 heads of 16 channels, with a bias."""

import itertools

import pytest
import torch

from budget import assert_definition, assert_within_budget, truth
from regard.attention import window_attention

WINDOW, SHIFT = (7, 7, 7), (3, 3, 3)


def draw(grid, batch=1, num_heads=3, head_dim=16):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, batch, *grid, num_heads, head_dim, generator=generator).unbind()
    return query, key, value, torch.randn(num_heads, 13, 13, 13, generator=generator)


def by_swins_table(query, key, value, bias, shift):
    """Roll, cut, attend with Swin's index (query minus key) and a mask of -inf, and put back."""
    grid, axes = query.shape[1:4], (1, 2, 3)
    places = torch.tensor(list(itertools.product(*map(range, WINDOW))))
    index = ((places[:, None] - places[None] + 6) * torch.tensor([169, 13, 1])).sum(-1)
    table = bias.flip(axes).flatten(1)[:, index]  # [nh, T, T]
    rolled = [one.roll([-step for step in shift], axes) for one in (query, key, value)]
    out = torch.zeros_like(value)
    for corner in itertools.product(*(range(0, length, 7) for length in grid)):
        cut = (slice(None), *(slice(begin, begin + 7) for begin in corner))
        q, k, v = (one[cut].flatten(1, 3).transpose(1, 2) for one in rolled)
        logits = q @ k.transpose(-2, -1) / 4 + table
        carried = places + torch.tensor(corner) >= torch.tensor(grid) - torch.tensor(shift)
        apart = (carried[:, None] != carried[None]).any(-1)
        window = logits.masked_fill(apart, -torch.inf).softmax(-1) @ v
        out[cut] = window.transpose(1, 2).unflatten(1, WINDOW)
    return out.roll(shift, axes)


@pytest.mark.parametrize("shift", [(0, 0, 0), SHIFT], ids=str)
def test_definition(shift):
    query, key, value, bias = draw((7, 7, 14), num_heads=1)
    exact = by_swins_table(*(one.double() for one in (query, key, value, bias)), shift)
    options = {"shift_size": shift, "bias": bias}
    assert_definition(window_attention, query, key, value, WINDOW, **options, exact=exact, draws=2)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_outputs_and_gradients(backend):
    """A grid that is no multiple of the window, as after SwinUNETR's patch merging."""
    *heads, bias = draw((7, 9, 7))

    def attend(backend):
        def compute(query, key, value, bias):
            leaves = [one.detach().requires_grad_() for one in (query, key, value, bias)]
            out = window_attention(*leaves[:3], WINDOW, shift_size=(0, 3, 0), bias=leaves[3], backend=backend)
            return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]

        return compute

    expected = truth(attend("reference"), *heads, bias, draws=2)
    assert_within_budget(attend(backend)(*heads, bias), expected)

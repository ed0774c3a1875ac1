"""Sparse composition equals the product of dense matrices."""

import pytest
import torch

from explain.networks import SMALL, build
from regard.errors import ShapeError, UnsupportedError
from regard.explain import attention_maps, rollout
from regard.explain.tokens import Tokens, spread


def area_matrix(fine, coarse):
    """`[coarse, fine]`: the share of a coarse token's area that every fine one covers."""
    (rows, columns), (down, right) = fine, coarse
    matrix = torch.zeros(down, right, rows, columns, dtype=torch.float64)
    for row in range(down):
        for column in range(right):
            for y in range(rows):
                for x in range(columns):
                    height = min((y + 1) / rows, (row + 1) / down) - max(y / rows, row / down)
                    width = min((x + 1) / columns, (column + 1) / right) - max(x / columns, column / right)
                    matrix[row, column, y, x] = max(height, 0) * max(width, 0) * down * right
    return matrix.reshape(down * right, rows * columns)


def dense_rollout(maps, size):
    """Multiply the dense matrices of all layers, last to first."""
    tokens = Tokens.of(maps[-1].key_grid, size)
    start = torch.zeros(tokens.total, dtype=torch.float64)
    start[:] = 0 if tokens.prefix else 1 / tokens.total
    start[0] = 1 if tokens.prefix else start[0]
    result = start.expand(len(maps[-1].weights), 1, -1)
    before = tokens
    for attention in reversed(maps):
        now = Tokens.of(attention.key_grid, size)
        if now.grid != before.grid:
            result = result[..., before.prefix :] @ area_matrix(now.grid, before.grid)
        elif now.prefix != before.prefix:
            result = result[..., before.prefix :]
        mean = attention.dense().mean(1).abs()
        mean = mean / mean.sum(-1, keepdim=True)
        identity = torch.eye(now.total, dtype=torch.float64)
        matrix = identity.expand(len(mean), -1, -1).clone()
        rows = mean.shape[1]
        matrix[:, :rows] = (identity[:rows] + mean) / 2
        result, before = result @ matrix, now
    return result[:, 0, before.prefix :].unflatten(1, before.grid)


@pytest.mark.parametrize("family", SMALL)
def test_equals_the_dense_product(family):
    model, images = build(family, torch.float64)
    expected = dense_rollout(attention_maps(model, images), tuple(images.shape[2:]))
    torch.testing.assert_close(rollout(model, images), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("family", ["NAT", "Swin", "ViT"])
def test_local_attention_cannot_reach_everything(family):
    """From one point, relevance is positive there, and 0 outside of what the layers connect."""
    model, images = build(family, torch.float64)
    found = rollout(model, images, point=(3, 3))
    assert bool((found[:, 0, 0] > 0).all())
    torch.testing.assert_close(found.sum((1, 2)) > 0, torch.tensor([True, True]))
    if family == "NAT":
        assert float(found[:, -1, -1].abs().max()) == 0


def test_spreading_keeps_the_sum():
    relevance = torch.rand(2, 3, 5, dtype=torch.float64)
    for grid in ((6, 10), (7, 4), (3, 5), (1, 1)):
        torch.testing.assert_close(spread(relevance, grid).sum((1, 2)), relevance.sum((1, 2)))


@pytest.mark.parametrize(
    ("grid", "size", "expected"),
    [
        ((197,), (224, 224), (1, (14, 14))),
        ((196,), (224, 224), (0, (14, 14))),
        ((201,), (224, 224), (5, (14, 14))),
        ((14, 7), (224, 112), (0, (14, 7))),
        ((1 + 24 * 12,), (384, 192), (1, (24, 12))),
    ],
)
def test_tokens_are_recognized(grid, size, expected):
    assert Tokens.of(grid, size) == expected


def test_tokens_that_form_no_image():
    with pytest.raises(UnsupportedError, match="grid over images"):
        Tokens.of((211,), (224, 224))


@pytest.mark.parametrize("point", [(-1, 0), (32, 0), (0, 32), (0, -0.1)])
def test_points_outside(point):
    with pytest.raises(ShapeError, match="must lie in the image"):
        Tokens(0, (4, 4)).at(*point, (32, 32))

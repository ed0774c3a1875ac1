"""Softmax attention as modules, with timm's parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from regard.attention import checks
from regard.attention._backend import Backend, BackendModule
from regard.attention.softmax.function import softmax_attention, softmax_weights
from regard.dense import dense
from regard.errors import ShapeError


class Attention(BackendModule):
    """Multi-head self-attention over `[B, *grid, C]`, a grid of one, two or three axes.

    Args:
        dim: channels C.
        num_heads: heads nh; dim must be divisible by it.
        qkv_bias: whether the input projection has a bias.
        qk_norm: whether queries and keys are normalized per head, `q_norm` and `k_norm`.
        norm_layer: builds those norms from the head dim.
        relative_distance: the distance k at which Shaw's relative positions are clipped; None learns none. The tables
            are `relative_key` and `relative_value`, `[axes, 2 * k + 1, hd]`.
        axes: grid axes that the tables cover; an input then needs this many.
        attn_drop: dropout of attention weights, in training.
        proj_drop: dropout of the output.
        backend: see `softmax_attention`.

    Source:
        `Attention` in timm/layers/attention.py (huggingface/pytorch-image-models 1.0): same parameters. Relative
        positions: arXiv 1803.02155, one table per layer, shared by the heads.

    Example:
        >>> Attention(64, num_heads=2)(torch.randn(1, 197, 64)).shape
        torch.Size([1, 197, 64])
        >>> Attention(64, num_heads=2, relative_distance=4, axes=2)(torch.randn(1, 7, 7, 64)).shape
        torch.Size([1, 7, 7, 64])
    """

    relative_key: nn.Parameter | None
    relative_value: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        relative_distance: int | None = None,
        axes: int = 1,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        backend: Backend = None,
    ) -> None:
        super().__init__(backend)
        self.head_dim = checks.head_dim(dim, num_heads)
        self.num_heads = num_heads
        checks.check_probability("attn_drop", attn_drop)
        self.attn_drop = attn_drop
        checks.check_probability("proj_drop", proj_drop)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.qk_norm = qk_norm
        self.q_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.register_parameter("relative_key", _relative_table(axes, relative_distance, self.head_dim))
        self.register_parameter("relative_value", _relative_table(axes, relative_distance, self.head_dim))
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over a grid, `[B, *grid, C]` to the same shape."""
        query, key, value = self._project(x)
        out = softmax_attention(
            query,
            key,
            value,
            relative_key=None if self.relative_key is None else self.relative_key.to(value.dtype),
            relative_value=None if self.relative_value is None else self.relative_value.to(value.dtype),
            dropout_p=self.attn_drop if self.training else 0.0,
            backend=self.backend,
        )
        return self.proj_drop(dense(self.proj, out.flatten(-2)))

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return the weights that `forward` applies to an input, without dropout; see `softmax_weights`."""
        query, key, _ = self._project(x)
        relative_key = None if self.relative_key is None else self.relative_key.to(query.dtype)
        return softmax_weights(query, key, relative_key=relative_key)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        checks.check_input(x, (3, 4, 5), checks.TOKEN_LAYOUT, self.qkv.weight)
        qkv = dense(self.qkv, x)
        query, key, value = qkv.view(*x.shape[:-1], 3, self.num_heads, self.head_dim).unbind(-3)
        if self.qk_norm:  # autocast runs norms in float32
            query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)
        return query, key, value

    def extra_repr(self) -> str:
        """Describe the options that the parameters' shapes do not show."""
        return f"num_heads={self.num_heads}"


class ClassAttention(BackendModule):
    """Multi-head attention of the class token to all tokens, itself included: `[B, N, C]` to `[B, 1, C]`.

    Args:
        dim: channels C.
        num_heads: heads nh; dim must be divisible by it.
        qkv_bias: whether the input projections have biases.
        attn_drop: dropout of attention weights, in training.
        proj_drop: dropout of the output.
        backend: see `softmax_attention`.

    Cost:
        Linear in the number of tokens: one query.

    Source:
        CaiT (arXiv 2103.17239, eq. 6-8); `ClassAttn` in timm/models/cait.py: same parameters.

    Example: token 0 is the class token.
        >>> ClassAttention(64, num_heads=2)(torch.randn(1, 197, 64)).shape
        torch.Size([1, 1, 64])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        backend: Backend = None,
    ) -> None:
        super().__init__(backend)
        self.head_dim = checks.head_dim(dim, num_heads)
        self.num_heads = num_heads
        checks.check_probability("attn_drop", attn_drop)
        self.attn_drop = attn_drop
        checks.check_probability("proj_drop", proj_drop)
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.k = nn.Linear(dim, dim, bias=qkv_bias)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from the first token to all, `[B, N, C]` to `[B, 1, C]`."""
        query, key, value = self._project(x)
        dropout_p = self.attn_drop if self.training else 0.0
        out = softmax_attention(query, key, value, dropout_p=dropout_p, backend=self.backend)
        return self.proj_drop(dense(self.proj, out.flatten(-2)))

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return the weights that `forward` applies to an input, without dropout, `[B, nh, 1, N]`."""
        query, key, _ = self._project(x)
        return softmax_weights(query, key)

    def _project(self, x: Tensor) -> list[Tensor]:
        checks.check_input(x, (3,), "[B, N, C]", self.q.weight)
        projected = (dense(self.q, x[:, :1]), dense(self.k, x), dense(self.v, x))
        return [tensor.unflatten(-1, (self.num_heads, self.head_dim)) for tensor in projected]

    def extra_repr(self) -> str:
        """Describe the options that the parameters' shapes do not show."""
        return f"num_heads={self.num_heads}"


def _relative_table(axes: int, distance: int | None, head_dim: int) -> nn.Parameter | None:
    if distance is None:
        return None
    if distance < 0 or axes not in (1, 2, 3):
        raise ShapeError(f"relative_distance must be at least 0 and axes 1, 2 or 3, got {distance} and {axes}")
    table = nn.Parameter(torch.empty(axes, 2 * distance + 1, head_dim))
    nn.init.trunc_normal_(table, std=0.02)
    return table

"""Additive attention as a module, with the parameters of Fastformer's official PyTorch code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention import checks
from regard.attention._backend import Backend, BackendModule
from regard.attention.additive.function import additive_attention, additive_weights
from regard.dense import dense


class AdditiveAttention(BackendModule):
    """Multi-head additive attention over `[B, *grid, C]`, a grid of one, two or three axes.

    Computes transform(u) + q, u from `additive_attention`. The dense layer, dropout and residual layer norm that
    Fastformer's layer puts around it are not part of it.

    Args:
        dim: channels C.
        num_heads: heads nh; dim must be divisible by it.
        qkv_bias: whether the query and key projections have a bias.
        proj_drop: dropout of the output.
        backend: see `additive_attention`.

    Source:
        `FastSelfAttention` of wuch15/Fastformer, Fastformer.ipynb: same parameters, same arithmetic.

    Example:
        >>> import torch
        >>> AdditiveAttention(64, num_heads=4)(torch.randn(1, 14, 14, 64)).shape
        torch.Size([1, 14, 14, 64])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        backend: Backend = None,
    ) -> None:
        super().__init__(backend)
        self.head_dim = checks.head_dim(dim, num_heads)
        self.num_heads = num_heads
        checks.check_probability("proj_drop", proj_drop)
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.key = nn.Linear(dim, dim, bias=qkv_bias)
        self.query_att = nn.Linear(dim, num_heads)
        self.key_att = nn.Linear(dim, num_heads)
        self.transform = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over a grid, `[B, *grid, C]` to the same shape."""
        query, key = self._project(x)
        query_weight, key_weight, query_bias, key_bias = self._scoring(query.dtype)
        out = additive_attention(
            query, key, query_weight, key_weight, query_bias=query_bias, key_bias=key_bias, backend=self.backend
        )
        return self.proj_drop(dense(self.transform, out.flatten(-2), residual=query.flatten(-2)))

    def attention_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights with which `forward` pools queries and keys of an input; see `additive_weights`."""
        query, key = self._project(x)
        query_weight, key_weight, query_bias, key_bias = self._scoring(query.dtype)
        return additive_weights(query, key, query_weight, key_weight, query_bias=query_bias, key_bias=key_bias)

    def _project(self, x: Tensor) -> list[Tensor]:
        checks.check_input(x, (3, 4, 5), checks.TOKEN_LAYOUT, self.query.weight)
        return [dense(layer, x).unflatten(-1, (self.num_heads, self.head_dim)) for layer in (self.query, self.key)]

    def _scoring(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first, second = self.query_att, self.key_att
        return first.weight.to(dtype), second.weight.to(dtype), first.bias.to(dtype), second.bias.to(dtype)

    def extra_repr(self) -> str:
        """Describe the options that the parameters' shapes do not show."""
        return f"num_heads={self.num_heads}"

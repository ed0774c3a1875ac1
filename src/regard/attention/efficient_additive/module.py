"""Efficient additive attention as a module, with timm's parameters of SwiftFormer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention import checks
from regard.attention._backend import Backend, BackendModule
from regard.attention._pooling import TokenNorm
from regard.attention.efficient_additive.function import efficient_additive_attention, efficient_additive_weights
from regard.dense import dense


class EfficientAdditiveAttention(BackendModule):
    """SwiftFormer's attention over `[B, *grid, in_dims]`, a grid of one, two or three axes.

    Computes final(proj(y) + q), y and the unit queries q from `efficient_additive_attention`.

    Args:
        in_dims: channels of the input.
        token_dim: channels of the output.
        num_heads: widens the inner channels to token_dim * num_heads. These are no heads: one norm runs over all
            channels, and a token has one weight. All published models have 1.
        token_norm: "l2" for the authors' current weights and timm's, "ones" for the first release's and Hugging
            Face's, "softmax" as in the paper's text.
        backend: see `efficient_additive_attention`.

    Source:
        `EfficientAdditiveAttention` of timm, `EfficientAdditiveAttnetion` of Amshaker/SwiftFormer (where `proj` is
        called `Proj`): same parameters, same arithmetic.

    Example:
        >>> EfficientAdditiveAttention(48, 48)(torch.randn(1, 14, 14, 48)).shape
        torch.Size([1, 14, 14, 48])
    """

    def __init__(
        self,
        in_dims: int = 512,
        token_dim: int = 256,
        num_heads: int = 1,
        *,
        token_norm: TokenNorm = "l2",
        backend: Backend = None,
    ) -> None:
        super().__init__(backend)
        for name, size in (("in_dims", in_dims), ("token_dim", token_dim), ("num_heads", num_heads)):
            checks.whole(name, size)
        checks.check_word("token_norm", token_norm, ("softmax", "l2", "ones"))
        inner = token_dim * num_heads
        self.scale_factor = token_dim**-0.5  # of token_dim, however wide the scored vectors are
        self.token_norm = token_norm
        self.to_query = nn.Linear(in_dims, inner)
        self.to_key = nn.Linear(in_dims, inner)
        self.w_g = nn.Parameter(torch.randn(inner, 1))
        self.proj = nn.Linear(inner, inner)
        self.final = nn.Linear(inner, token_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over a grid, `[B, *grid, in_dims]` to `[B, *grid, token_dim]`."""
        checks.check_input(x, (3, 4, 5), checks.TOKEN_LAYOUT, self.to_query.weight)
        query = dense(self.to_query, x)
        out, unit_query = efficient_additive_attention(
            query,
            dense(self.to_key, x),
            self.w_g.squeeze(-1).to(query.dtype),
            token_norm=self.token_norm,
            scale=self.scale_factor,
            backend=self.backend,
        )
        return dense(self.final, dense(self.proj, out, residual=unit_query))

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return the weights with which `forward` pools the queries of an input; see `efficient_additive_weights`."""
        checks.check_input(x, (3, 4, 5), checks.TOKEN_LAYOUT, self.to_query.weight)
        query = dense(self.to_query, x)
        weight = self.w_g.squeeze(-1).to(query.dtype)
        return efficient_additive_weights(query, weight, token_norm=self.token_norm, scale=self.scale_factor)

    def extra_repr(self) -> str:
        """Describe the options that the parameters' shapes do not show."""
        return f"token_norm={self.token_norm!r}"

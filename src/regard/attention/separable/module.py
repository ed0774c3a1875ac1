"""Separable attention as a module, with the parameters of MobileViTv2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import linear

from regard.attention import checks
from regard.attention._backend import Backend, BackendModule
from regard.attention.separable.function import separable_attention, separable_weights
from regard.dense import EvenLinear, dense


class SeparableAttention(BackendModule):
    """MobileViTv2's linear self-attention over `[B, *grid, C]`, a grid of one, two or three axes; also cross-attention.

    Args:
        dim: channels C.
        patch_size: positions of a patch per axis; positions with different places in their patches do not mix.
            MobileViTv2 uses 2 on an image, `[B, H, W, C]`; on `[B, P, N, C]`, unfolded already, it is (P, 1).
        qkv_bias: whether the input projection has a bias.
        attn_drop: dropout of attention weights, in training; the fused kernels have none.
        proj_drop: dropout of the output.
        backend: see `separable_attention`.

    Source:
        `LinearSelfAttention` of apple/ml-cvnets, cvnets/layers/linear_attention.py, and of timm: same parameters, same
        arithmetic. Their projections are 1x1 convolutions, whose kernels are flattened as they are loaded.

    Example:
        >>> import torch
        >>> SeparableAttention(64, patch_size=2)(torch.randn(1, 16, 16, 64)).shape
        torch.Size([1, 16, 16, 64])
    """

    def __init__(
        self,
        dim: int,
        *,
        patch_size: int | Sequence[int] = 1,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        backend: Backend = None,
    ) -> None:
        super().__init__(backend)
        self.dim = checks.whole("dim", dim)
        self.patch_size = patch_size
        checks.check_probability("attn_drop", attn_drop)
        self.attn_drop = attn_drop
        checks.check_probability("proj_drop", proj_drop)
        self.qkv_proj = EvenLinear(dim, 1 + 2 * dim, bias=qkv_bias)
        self.out_proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.register_load_state_dict_pre_hook(_flatten_convolutions)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, x_prev: Tensor | None = None) -> Tensor:
        """Attend over a grid, `[B, *grid, C]` to the same shape.

        Args:
            x: the tokens; in cross-attention they are the values.
            x_prev: `[B, *grid_prev, C]`, the tokens that are scored and pooled in cross-attention.
        """
        query, key, value = self._project(x, x_prev)
        out = separable_attention(
            query,
            key,
            value,
            patch_size=self.patch_size,
            dropout_p=self.attn_drop if self.training else 0.0,
            backend=self.backend,
        )
        return self.proj_drop(dense(self.out_proj, out))

    def attention_weights(self, x: Tensor, x_prev: Tensor | None = None) -> Tensor:
        """Return the weights with which `forward` pools the keys of an input; see `separable_weights`."""
        return separable_weights(self._project(x, x_prev)[0], patch_size=self.patch_size)

    def _project(self, x: Tensor, x_prev: Tensor | None) -> tuple[Tensor, ...]:
        checks.check_input(x, (3, 4, 5), checks.TOKEN_LAYOUT, self.qkv_proj.weight)
        if x_prev is None:
            return dense(self.qkv_proj, x).split([1, self.dim, self.dim], -1)
        checks.check_input(x_prev, (3, 4, 5), checks.TOKEN_LAYOUT, self.qkv_proj.weight)
        return self._project_two(x, x_prev)

    def _project_two(self, x: Tensor, x_prev: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = [1 + self.dim, self.dim]
        pooled, own = self.qkv_proj.weight.split(rows)
        bias = self.qkv_proj.bias
        pooled_bias, own_bias = (None, None) if bias is None else bias.split(rows)
        query, key = linear(x_prev, pooled, pooled_bias).split([1, self.dim], -1)
        return query, key, linear(x, own, own_bias)

    def extra_repr(self) -> str:
        """Describe the options that the parameters' shapes do not show."""
        return f"patch_size={self.patch_size}"


def _flatten_convolutions(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    for name in ("qkv_proj.weight", "out_proj.weight"):
        weight = state_dict.get(prefix + name)
        if weight is not None and weight.shape[2:] == (1, 1):
            state_dict[prefix + name] = weight.flatten(1)

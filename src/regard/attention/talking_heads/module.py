"""Talking-heads attention as a module, with the parameters of CaiT."""

from __future__ import annotations

from torch import Tensor, nn

from regard.attention import checks
from regard.attention._backend import Backend, BackendModule
from regard.attention.talking_heads.function import talking_heads_attention, talking_heads_weights
from regard.dense import dense


class TalkingHeadsAttention(BackendModule):
    """Multi-head talking-heads self-attention over `[B, *grid, C]`, a grid of one, two or three axes.

    Args:
        dim: channels C.
        num_heads: heads of the softmax; the head dim is dim / num_heads for all heads.
        num_heads_qk: heads of queries and keys, num_heads if None.
        num_heads_v: heads of values, num_heads if None.
        qkv_bias: whether the input projection has a bias.
        mix_bias: whether the mixes of heads have biases, as CaiT's have and the paper's have not.
        attn_drop: dropout of the mixed weights, in training; the fused kernels have none.
        proj_drop: dropout of the output.
        backend: see `talking_heads_attention`.

    Source:
        `TalkingHeadAttn` in timm/models/cait.py (huggingface/pytorch-image-models 1.0): same parameters, same
        arithmetic where the head counts are equal.

    Example:
        >>> import torch
        >>> TalkingHeadsAttention(64, num_heads=4)(torch.randn(1, 196, 64)).shape
        torch.Size([1, 196, 64])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        num_heads_qk: int | None = None,
        num_heads_v: int | None = None,
        qkv_bias: bool = True,
        mix_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        backend: Backend = None,
    ) -> None:
        super().__init__(backend)
        self.head_dim = checks.head_dim(dim, num_heads)
        self.num_heads = num_heads
        self.num_heads_qk = num_heads if num_heads_qk is None else num_heads_qk
        self.num_heads_v = num_heads if num_heads_v is None else num_heads_v
        checks.whole("num_heads_qk", self.num_heads_qk)
        checks.whole("num_heads_v", self.num_heads_v)
        checks.check_probability("attn_drop", attn_drop)
        self.attn_drop = attn_drop
        checks.check_probability("proj_drop", proj_drop)
        self.qkv = nn.Linear(dim, (2 * self.num_heads_qk + self.num_heads_v) * self.head_dim, bias=qkv_bias)
        self.proj_l = nn.Linear(self.num_heads_qk, num_heads, bias=mix_bias)
        self.proj_w = nn.Linear(num_heads, self.num_heads_v, bias=mix_bias)
        self.proj = nn.Linear(self.num_heads_v * self.head_dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over a grid, `[B, *grid, C]` to the same shape."""
        query, key, value = self._project(x)
        logits_mix, weights_mix, logits_bias, weights_bias = self._mixes(query)
        out = talking_heads_attention(
            query,
            key,
            value,
            logits_mix,
            weights_mix,
            logits_bias=logits_bias,
            weights_bias=weights_bias,
            dropout_p=self.attn_drop if self.training else 0.0,
            backend=self.backend,
        )
        return self.proj_drop(dense(self.proj, out.flatten(-2)))

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return the mixed weights that `forward` applies to an input, without dropout; see `talking_heads_weights`."""
        query, key, _ = self._project(x)
        logits_mix, weights_mix, logits_bias, weights_bias = self._mixes(query)
        return talking_heads_weights(
            query, key, logits_mix, weights_mix, logits_bias=logits_bias, weights_bias=weights_bias
        )

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        checks.check_input(x, (3, 4, 5), checks.TOKEN_LAYOUT, self.qkv.weight)
        heads = dense(self.qkv, x).unflatten(-1, (-1, self.head_dim))  # [B, *grid, 2 * h_k + h_v, hd]
        return heads.split((self.num_heads_qk, self.num_heads_qk, self.num_heads_v), dim=-2)

    def _mixes(self, query: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        dtype, first, second = query.dtype, self.proj_l, self.proj_w
        logits_bias = None if first.bias is None else first.bias.to(dtype)
        weights_bias = None if second.bias is None else second.bias.to(dtype)
        return first.weight.to(dtype), second.weight.to(dtype), logits_bias, weights_bias

    def extra_repr(self) -> str:
        """Describe the options that the parameters' shapes do not show."""
        return f"num_heads={self.num_heads}, num_heads_qk={self.num_heads_qk}, num_heads_v={self.num_heads_v}"

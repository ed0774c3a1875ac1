"""The vision attention of transformers' Qwen2.5-VL, whose windows are adjacent in the sequence of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.attention import softmax_attention
from regard.dense import dense
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.for_transformers.shared import config_obstacle, returns_weights
from regard.surgery.inspection import Upstream
from regard.surgery.layouts import split_qkv


class Qwen2_5_VLVisionAttention(AttentionAdapter):  # noqa: N801  # the upstream name
    """Adapter of `Qwen2_5_VLVisionAttention`.

    transformers calls attention once for each window. The adapter calls it once for all windows of the same length:
    an image has at most four, those inside, at the right, at the bottom, and in the corner.
    """

    upstream_classes = ("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLVisionAttention",)
    mechanism = "softmax attention"
    required_attributes = ("qkv", "proj", "num_heads", "scaling", "attention_dropout", "config")

    @classmethod
    def obstacle_in(cls, module: Upstream) -> str:
        """Decline a configuration that asks for attention weights."""
        return config_obstacle(module)

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **options: object,
    ) -> Tensor:
        """Attend over `[N, C]` within runs of tokens.

        Args:
            hidden_states: all windows of all images, one after another.
            cu_seqlens: where the runs begin, and the end of the last.
            position_embeddings: cosines and sines of the rotary embedding, `[N, hd]` each.
            options: of the upstream forward.
        """
        weights = returns_weights(self, options)
        if (
            self.runs_upstream(
                {
                    "the call must return the attention weights": weights,
                    "the call has no position embeddings": position_embeddings is None,
                }
            )
            or position_embeddings is None
        ):
            return super().forward(hidden_states, cu_seqlens, position_embeddings, **options)
        query, key, value = split_qkv(dense(self.qkv, hidden_states), self.num_heads)
        query, key = (_rotate(one, *position_embeddings) for one in (query, key))
        order, counts = _group(cu_seqlens)
        groups = [one[order].split([runs * length for runs, length in counts]) for one in (query, key, value)]
        outputs = []
        for (runs, length), *heads in zip(counts, *groups, strict=True):
            query, key, value = (one.unflatten(0, (runs, length)) for one in heads)
            dropout_p = self.attention_dropout if self.training else 0.0
            out = softmax_attention(query, key, value, scale=self.scaling, dropout_p=dropout_p, backend=self.backend)
            outputs.append(out.flatten(0, 1))
        return dense(self.proj, torch.cat(outputs).flatten(-2)[order.argsort()])


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding to `[N, nh, hd]` in float32."""
    first, second = x.float().chunk(2, -1)
    turned = torch.cat((-second, first), -1)
    return (x.float() * cos.float()[:, None] + turned * sin.float()[:, None]).to(x.dtype)


def _group(boundaries: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return an order of the tokens in which runs of equal length are adjacent, and number and length of the runs."""
    starts, lengths = boundaries[:-1].long(), boundaries.diff()
    groups = [(int(length), starts[lengths == length]) for length in lengths.unique() if length > 0]
    order = torch.cat(
        [(begin[:, None] + torch.arange(length, device=begin.device)).flatten() for length, begin in groups]
    )
    return order, [(len(begin), length) for length, begin in groups]

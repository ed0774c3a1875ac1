"""Configuration and projections, which are alike in all families of transformers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from regard.dense import dense
from regard.surgery.inspection import Upstream
from regard.surgery.layouts import split_heads


def config_obstacle(attention: Upstream) -> str:
    """Return why regard does not support the configuration of an attention module; empty if it does."""
    implementation = attention.config._attn_implementation
    if implementation != "sdpa":
        return f"it was loaded with attn_implementation={implementation!r}; load it with 'sdpa'"
    return "output_attentions=True asks for its weights" if attention.config.output_attentions else ""


def returns_weights(attention: Upstream, options: Mapping[str, object]) -> bool:
    """Whether a call must return attention weights, which only the upstream forward computes."""
    return attention.config._attn_implementation != "sdpa" or bool(options.get("output_attentions"))


def project(attention: Upstream, x: Tensor) -> tuple[Tensor, ...]:
    """Compute query, key and value of `[..., C]`, each `[..., nh, hd]`."""
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)
    return tuple(split_heads(dense(layer, x), attention.head_dim) for layer in layers)

"""Which modules of others `fuse` knows. They are recognized by name, so nothing is imported that is not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from regard.surgery import timm, transformers
from regard.surgery.adapters import Adapter


@dataclass(frozen=True)
class Rule:
    """One class of others that an adapter can serve.

    Attributes:
        module: where the class is defined.
        name: its name.
        mechanism: what serves it.
        adapter: how.
        needs: attributes that the adapter reads; a version without them is one that we do not know.
        part: name and class of the child that is the attention, where the class is a block around it.
        reason: says why an object cannot be served, or nothing.
        note: when it runs as before.
    """

    module: str
    name: str
    mechanism: str
    adapter: type[Adapter]
    needs: tuple[str, ...]
    part: tuple[str, str] = ("", "")
    reason: Callable[[Any], str] = lambda module: ""
    note: Callable[[Any], str] = lambda module: ""


def _gated(module: Any) -> str:  # noqa: ANN401
    return "its output is gated" if getattr(module, "gate", None) is not None else ""


def _dropout(module: Any) -> str:  # noqa: ANN401
    layer = getattr(module, "attn_drop", None) or getattr(module, "attn_dropout", None)
    return f"with attention dropout {layer.p}, training runs as before" if layer is not None and layer.p else ""


def _block(module: Any) -> str:  # noqa: ANN401
    ragged = "a grid that is no multiple of the window runs as before"
    return "; ".join(filter(None, (_dropout(module.attn), ragged if _is_ragged(module) else "")))


def _is_ragged(module: Any) -> bool:  # noqa: ANN401
    return any(length % size for length, size in zip(module.input_resolution, module.window_size, strict=True))


def _config(module: Any) -> str:  # noqa: ANN401
    config = module.config
    if config._attn_implementation != "sdpa":
        implementation = config._attn_implementation
        return f"it was loaded with attn_implementation={implementation!r}; load it with 'sdpa'"
    return "output_attentions=True asks for its weights" if config.output_attentions else ""


_VIT = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "scaling", "attention_dropout", "config")
_DINAT = ("query", "key", "value", "rpb", "kernel_size", "attention_head_size", "dropout")
_HF = "transformers.models"
DENSE = "dense layers with their activation"
"""What is served around attention, not attention itself."""

RULES: tuple[Rule, ...] = (
    *(
        Rule(
            module,
            "Attention",
            "softmax attention",
            timm.Attention,
            ("qkv", "q_norm", "k_norm", "attn_drop", "proj", "proj_drop", "num_heads", "scale"),
            reason=_gated,
        )
        for module in ("timm.layers.attention", "timm.models.vision_transformer")
    ),
    Rule(
        "timm.models.cait",
        "TalkingHeadAttn",
        "talking-heads attention",
        timm.TalkingHeadAttn,
        ("qkv", "proj_l", "proj_w", "attn_drop", "proj", "proj_drop", "num_heads", "scale"),
        note=_dropout,
    ),
    Rule(
        "timm.models.cait",
        "ClassAttn",
        "softmax attention",
        timm.ClassAttn,
        ("q", "k", "v", "attn_drop", "proj", "proj_drop", "num_heads", "scale"),
    ),
    Rule(
        "timm.models.swin_transformer",
        "SwinTransformerBlock",
        "window attention",
        timm.SwinTransformerBlock,
        ("attn", "window_size", "shift_size", "input_resolution", "_attn"),
        part=("attn", "WindowAttention"),
        note=_block,
    ),
    Rule(
        "timm.models.swiftformer",
        "EfficientAdditiveAttention",
        "efficient additive attention",
        timm.EfficientAdditiveAttention,
        ("to_query", "to_key", "w_g", "proj", "final", "scale_factor"),
    ),
    Rule(
        "timm.models.mobilevit",
        "LinearSelfAttention",
        "separable attention",
        timm.LinearSelfAttention,
        ("qkv_proj", "out_proj", "attn_drop", "out_drop", "embed_dim"),
        note=_dropout,
    ),
    Rule(
        f"{_HF}.vit.modeling_vit", "ViTAttention", "softmax attention", transformers.ViTAttention, _VIT, reason=_config
    ),
    Rule(
        f"{_HF}.deit.modeling_deit",
        "DeiTAttention",
        "softmax attention",
        transformers.ViTAttention,
        _VIT,
        reason=_config,
    ),
    Rule(
        f"{_HF}.swin.modeling_swin",
        "SwinLayer",
        "window attention",
        transformers.SwinLayer,
        ("attention", "layernorm_before", "layernorm_after", "mlp", "dropout", "drop_path", "window_size"),
        part=("attention", "SwinAttention"),
        reason=lambda module: _config(module.attention),
    ),
    Rule(
        f"{_HF}.swiftformer.modeling_swiftformer",
        "SwiftFormerEfficientAdditiveAttention",
        "efficient additive attention",
        transformers.SwiftFormerEfficientAdditiveAttention,
        ("to_query", "to_key", "w_g", "proj", "final", "scale_factor"),
    ),
    Rule(
        f"{_HF}.mobilevitv2.modeling_mobilevitv2",
        "MobileViTV2LinearSelfAttention",
        "separable attention",
        transformers.MobileViTV2LinearSelfAttention,
        ("qkv_proj", "out_proj", "attn_dropout", "embed_dim"),
        note=_dropout,
    ),
    Rule("timm.layers.mlp", "Mlp", DENSE, timm.Mlp, ("fc1", "act", "drop1", "norm", "fc2", "drop2")),
    *(
        Rule(f"{_HF}.{module}", name, DENSE, transformers.Mlp, ("fc1", "activation_fn", "fc2"))
        for module, name in (
            ("vit.modeling_vit", "ViTMLP"),
            ("deit.modeling_deit", "DeiTMLP"),
            ("swin.modeling_swin", "SwinMLP"),
        )
    ),
    *(
        Rule(
            f"{_HF}.{module}",
            "NeighborhoodAttention",
            "neighborhood attention",
            transformers.NeighborhoodAttention,
            _DINAT,
        )
        for module in ("dinat.modeling_dinat", "nat.modeling_nat", "deprecated.nat.modeling_nat")
    ),
)


def find_rule(kind: type[nn.Module]) -> tuple[Rule, type[nn.Module]] | None:
    """Find the rule for a class or one of its bases, and the class that it is about."""
    for rule in RULES:
        base = base_of(kind, rule.module, rule.name)
        if base is not None:
            return rule, base
    return None


def base_of(kind: type[nn.Module], module: str, name: str) -> type[nn.Module] | None:
    """Find the class of that name among a class and its bases."""
    return next((base for base in kind.__mro__ if (base.__module__, base.__qualname__) == (module, name)), None)

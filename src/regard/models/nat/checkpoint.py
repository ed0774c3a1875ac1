"""Upstream namings of NAT and DiNAT."""

from __future__ import annotations

from regard.checkpoint import Naming
from regard.checkpoint.naming import Rewrite
from regard.models.nat.variants import NatConfig

OFFICIAL: tuple[Rewrite, ...] = (
    (r"^levels\.(\d+)\.downsample\.", lambda level: f"levels.{int(level[1]) - 1}.downsample."),
    (r"\.ls([12])\.gamma$", r".gamma\1"),
)
HF: tuple[Rewrite, ...] = (
    *OFFICIAL,
    (r"^levels\.(\d+)\.blocks\.", r"encoder.levels.\1.layers."),
    (r"^levels\.", "encoder.levels."),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.", "embeddings."),
    (r"^norm\.", "layernorm."),
    (r"^head\.", "classifier."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.qkv\.", ".attention.self.{query,key,value}."),
    (r"\.attn\.rpb$", ".attention.self.rpb"),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.gamma1$", ".layer_scale_parameters[0]"),
    (r"\.gamma2$", ".layer_scale_parameters[1]"),
)


def name_tensors(config: NatConfig) -> tuple[Naming, ...]:
    """Return the authors' naming and Hugging Face's; timm has neither family."""
    prefix = "nat" if set(config.dilations) == {1} else "dinat"
    return (
        Naming("official", OFFICIAL),
        Naming("hf", (*HF, (r"^(?!classifier)", f"{prefix}."))),
    )

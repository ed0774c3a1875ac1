"""Upstream namings of MobileViTv2. regard's is timm's but for the classifier."""

from __future__ import annotations

from regard.checkpoint import Naming
from regard.checkpoint.naming import Rewrite
from regard.models.mobilevitv2.variants import MobileVitV2Config

POINTWISE = r"\.(qkv_proj|out_proj|fc[12])\.weight$"

HF: tuple[Rewrite, ...] = (
    (r"^head\.", "classifier."),
    (r"\.conv\.weight$", ".convolution.weight"),
    (r"\.bn\.", ".normalization."),
    (r"\.conv_1x1\.", ".conv_1x1.convolution."),
    (r"\.transformer\.", ".transformer.layer."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.norm\.", ".layernorm."),
    (r"\.attn\.(qkv|out)_proj\.", r".attention.\1_proj.convolution."),
    (r"\.mlp\.fc([12])\.", r".ffn.conv\1.convolution."),
    (r"\.conv1_1x1\.", ".expand_1x1."),
    (r"\.conv2_kxk\.", ".conv_3x3."),
    (r"\.conv3_1x1\.", ".reduce_1x1."),
    (r"\.conv_proj\.", ".conv_projection."),
    (r"^stages\.([01])\.", r"mobilevitv2.encoder.layer.\1.layer."),
    (r"^stages\.(\d+)\.0\.", r"mobilevitv2.encoder.layer.\1.downsampling_layer."),
    (r"^stages\.(\d+)\.1\.", r"mobilevitv2.encoder.layer.\1."),
    (r"^stem\.", "mobilevitv2.conv_stem."),
)


def name_tensors(config: MobileVitV2Config) -> tuple[Naming, ...]:
    """Return the authors' naming, timm's and Hugging Face's."""
    return (
        Naming("official", _official(config.depths), POINTWISE),
        Naming("timm", ((r"^head\.", "head.fc."),), POINTWISE),
        Naming("hf", HF, POINTWISE),
    )


def _official(depths: tuple[int, ...]) -> tuple[Rewrite, ...]:
    """Return the rewrites to the authors' names, which number the last norm of a block after its attention units."""
    return (
        (r"^head\.", "classifier.1."),
        (r"\.conv\.weight$", ".block.conv.weight"),
        (r"\.bn\.", ".block.norm."),
        (r"^stem\.", "conv_1."),
        (r"^stages\.(\d+)\.1\.norm\.", lambda stage: f"stages.{stage[1]}.1.global_rep.{depths[int(stage[1]) - 2]}."),
        (r"^stages\.(\d+)\.", lambda stage: f"layer_{int(stage[1]) + 1}."),
        (r"\.conv1_1x1\.", ".block.exp_1x1."),
        (r"\.conv2_kxk\.", ".block.conv_3x3."),
        (r"\.conv3_1x1\.", ".block.red_1x1."),
        (r"\.conv_kxk\.", ".local_rep.0."),
        (r"\.conv_1x1\.", ".local_rep.1.block.conv."),
        (r"\.transformer\.", ".global_rep."),
        (r"\.norm1\.", ".pre_norm_attn.0."),
        (r"\.attn\.(qkv|out)_proj\.", r".pre_norm_attn.1.\1_proj.block.conv."),
        (r"\.norm2\.", ".pre_norm_ffn.0."),
        (r"\.mlp\.fc1\.", ".pre_norm_ffn.1.block.conv."),
        (r"\.mlp\.fc2\.", ".pre_norm_ffn.3.block.conv."),
    )
